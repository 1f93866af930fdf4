"""What is refined, and how samples are run with taps that are being refined."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from hyca_calib.pipelines.recompute import Recomputed, levels_of, recomputing
from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.quality.metrics import log_error
from hyca_calib.search.problem import Samples
from hyca_calib.search.rollout_error import finite_or_lost
from hyca_calib.search.tap_rollout import TapRollout
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.network_plan import NetworkPlan


@dataclass(frozen=True)
class RefinementTask:
    """What is refined, and by what it is judged.

    Attributes:
        section: whose taps are refined; where a policy decides, as one of its runs was decided.
        start: parameters; of `preconditioned` coordinates, zeros.
        expand: parameters to taps ``(row, depth, channel)``.
        fit, select: samples that give gradients, and samples that decide which parameters were best.
        course: how samples are run with taps; by default all alike, as `section` says.
        more: draws more samples that give gradients, once it is known that any do; None for none.
        of: what it is, in words of a file: whoever goes on with a state on disk goes on with one of the same.
    """

    pipe: Any
    section: NetworkPlan
    start: Tensor
    expand: Callable[[Tensor], Tensor]
    fit: Samples
    select: Samples
    course: Callable[[RefinementTask, bool], AbstractContextManager[Course]] | None = None
    more: Callable[[], Samples | None] = lambda: None
    of: str = ""

    def with_more(self) -> Self:
        """The same with those drawn."""
        more = self.more()
        return self if more is None else replace(self, fit=self.fit + more)


class Course(Protocol):
    """Runs of samples under taps that are being refined."""

    def follow(self, taps: Tensor) -> None:
        """Forecast with these taps in the runs to come."""

    def loss(self, chosen: list[int]) -> Tensor:
        """Mean log squared error of fit samples by number, with its gradient where these are recorded."""

    def error(self) -> float:
        """The same over the select split."""


class Alike(TapRollout):
    """The course of a plan whose schedule is the same for all samples, which run in one call."""

    def __init__(self, task: RefinementTask, checkpointed: bool) -> None:
        super().__init__(task.pipe, task.section, checkpointed, other_chunks=task.fit.other_chunks)
        self._task = task

    def loss(self, chosen: list[int]) -> Tensor:
        return self._final_errors(self._task.fit[chosen], torch.is_grad_enabled()).mean()

    def error(self) -> float:
        samples = self._task.select
        with torch.no_grad():
            return finite_or_lost(self._final_errors(samples, with_grad=False), samples).mean().item()

    def _final_errors(self, samples: Samples, with_grad: bool) -> Tensor:
        batch = len(samples.jobs)
        latents = sample_latents(self._task.pipe, samples.jobs, samples.num_steps, batch, with_grad=with_grad)
        return log_error(latents, samples.latents.to(latents.device))


class Deepening:
    """A course of the task at a level of what is computed again, from which there is a way to deeper ones."""

    def __init__(self, task: RefinementTask, level: Recomputed) -> None:
        self._task, self._module = task, find_transformer(task.pipe, task.section.component)
        self.level, self._stack = level, ExitStack()

    def __enter__(self) -> Self:
        self._course = self._enter()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _enter(self) -> Course:
        self._stack.enter_context(recomputing(self._module, self.level))
        return self._stack.enter_context((self._task.course or Alike)(self._task, self.level != "nothing"))

    def deepen(self) -> bool:
        """Go on at the next level, without what was followed; whether there is one."""
        levels = levels_for(self._task)
        deeper = levels[levels.index(self.level) + 1 :]
        if deeper:
            self._stack.close()
            self.level = deeper[0]
            self._course = self._enter()
        return bool(deeper)

    def follow(self, taps: Tensor) -> None:
        self._course.follow(taps)

    def loss(self, chosen: list[int]) -> Tensor:
        return self._course.loss(chosen)

    def error(self) -> float:
        return self._course.error()


def levels_for(task: RefinementTask) -> tuple[Recomputed, ...]:
    """What may be computed again; blocks of a chunk's call would attend to what was kept since."""
    found = levels_of(find_transformer(task.pipe, task.section.component))
    return found if task.section.chunks is None else tuple(level for level in found if level != "blocks")
