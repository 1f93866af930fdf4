"""Lanes that follow a plan, each with features of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hyca_runtime.errors import SamplerError
from hyca_runtime.plan import Plan
from hyca_runtime.samplers.drives import Evaluation
from hyca_runtime.session import Session

Histories = Literal["kept", "dropped", "carried"]
"""What a lane that is corrected does with the features of the latents it had: goes on with them, forgets them, or moves
them by what the slower lane's have beside them at the step where both meet, as the latents are moved."""


@dataclass(frozen=True)
class Following:
    """What the lanes follow.

    Attributes:
        session: None where all is computed.
        plans: of each lane, None to compute; without any all follow the session's.
    """

    session: Session | None
    plans: Sequence[Plan | None] | None

    def check(self, lanes: int, share_calls: bool) -> None:
        """Raises SamplerError if so many lanes cannot follow it."""
        if self.plans is not None and (self.session is None or len(self.plans) != lanes):
            raise SamplerError(f"plans: expected one for each of {lanes} lanes, and a session, got {len(self.plans)}")
        if self.session is None:
            return
        if self.session.on_mismatch == "error":
            raise SamplerError("lanes begin without features; apply the plan with on_mismatch='compute' or 'adapt'")
        if len(self.session.report().networks) > 1:
            raise SamplerError("lanes follow plans of one network, the session has several")
        if share_calls:
            raise SamplerError("lanes in one batch share their calls, so none can follow a plan; run them otherwise")

    def told(self) -> list[str | None]:
        """The content of the plans."""
        plans = self.plans or ([] if self.session is None else [self.session.plan])
        return [None if plan is None else plan.model_dump_json() for plan in plans]

    @contextmanager
    def at(self, evaluation: Evaluation, scheduler: Any) -> Iterator[None]:
        """Tell the session where the calls inside are.

        Args:
            scheduler: one that stands there.
        """
        lane = evaluation.lane
        with ExitStack() as stack:
            if self.session is not None and lane is None:
                stack.enter_context(self.session.following(None))
            elif self.session is not None and lane is not None:
                view = SimpleNamespace(scheduler=scheduler)
                stack.enter_context(self.session.at(step=evaluation.steps[0], lane=lane, pipe=view))
                if self.plans is not None:
                    stack.enter_context(self.session.following(self.plans[lane]))
            yield

    def forget(self, lane: int, cause: str) -> None:
        """Let a lane forget its features."""
        if self.session is not None:
            with self.session.at(lane=lane):
                self.session.forget(cause)

    def on_correction(self, histories: Histories) -> Callable[[int, int], None] | None:
        """What happens to the features of a lane that a slower one corrects."""
        if histories not in get_args(Histories):
            told = ", ".join(map(repr, get_args(Histories)))
            raise SamplerError(f"histories: expected one of {told}, got {histories!r}")
        return {"kept": None, "dropped": self._drop, "carried": self._carry}[histories]

    def _drop(self, lane: int, step: int) -> None:
        del step
        self.forget(lane, "its lane was corrected by a slower one")

    def _carry(self, lane: int, step: int) -> None:
        if self.session is not None:
            with self.session.at(lane=lane):
                self.session.carry(lane - 1, step)

    def computed(self, lanes: Sequence[int], calls: Sequence[int], num_steps: int) -> Tensor:
        """Which calls of some lanes computed something, ``(lane, call)``, int64; the run is over then.

        Args:
            calls: how many each lane made, of all.
        """
        marks = torch.zeros(len(calls), num_steps, dtype=torch.int64)
        for lane in lanes:
            made = list(range(calls[lane]))
            if self.session is not None and (self.plans is None or self.plans[lane] is not None):
                with self.session.at(lane=lane):
                    made = list(self.session.report(own=True).computed_at)
                self.forget(lane, "its run is over")  # where it was not needed to its end
            marks[lane, made] = 1
        return marks
