"""One network that follows a plan."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from hyca_runtime.agreement import ALONE, Agreement
from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.compiling import around, outside
from hyca_runtime.attach.points import find_components
from hyca_runtime.chunk_calls import calls_of
from hyca_runtime.compiled_plan import CompiledPlan
from hyca_runtime.complaints import Complain
from hyca_runtime.decisions import Decisions, asked
from hyca_runtime.doing import NOTHING, Apart, Doing, Later
from hyca_runtime.lane import Lane
from hyca_runtime.lanes import Lanes, carry
from hyca_runtime.on_the_way import places_on_the_way
from hyca_runtime.stacked import joined

REPLACED = "the pipeline has another network by now; apply the plan to it again"


class Executor:
    """Answers the calls of one network: computes it, or forecasts some of its features.

    Args:
        module: the network.
        plan: what is done unless a thread says otherwise.
        pipe: the pipeline, if known.
        complain: told why a step is not done as the plan says.
        ranks: those that must decide as it does.
    """

    def __init__(
        self, module: nn.Module, plan: CompiledPlan, pipe: Any, complain: Complain, ranks: Agreement = ALONE
    ) -> None:
        self.module, self.plan = module, plan
        self._attachment = Attachment(module, plan.points, variants=plan.variants)
        self._context = self._attachment.context
        self._check_places(plan)  # refused before anything is changed
        self._clock = Clock(module, pipe, self._context)
        self._lanes = Lanes(self._clock, self._context, ranks)
        self.decisions = Decisions(plan, self._attachment, self._clock, self._lanes, complain, ranks)
        self.chunks = calls_of(plan, self._attachment, self._clock, self._lanes, self.decisions, self._answer_whole)
        self._decide, self._join = outside(self._decide_on), outside(joined)
        self._ask = outside(asked)
        self._is_cut = outside(self._cuts)
        for function in (self._answer_whole, self._do, self.chunks.answer):
            around(function)
        self._attachment.install(self._answer)
        self.chunks.install()

    def check(self, plan: CompiledPlan) -> None:
        """Whether calls can follow a plan that the network was not made ready for.

        Raises:
            PlanMismatchError: see `CompiledPlan.check_like`.
            AttachError: it decides where the network cannot be looked at.
        """
        plan.check_like(self.plan)
        self._check_places(plan)
        self.decisions.check(plan)

    def _check_places(self, plan: CompiledPlan) -> None:
        for place in (place for section in plan.sections for place in places_on_the_way(section)):
            self._attachment.late(*place)

    def saying(self, **what: Any) -> AbstractContextManager[None]:
        """Let this thread's or task's calls inside have another step, branch, pipeline or plan; see `Said`."""
        return self._context.saying(**what)

    def memory(self, samples: int) -> int | None:
        """Bytes of features held at most for a batch; None where the plan does not say."""
        numbers = self.plan.numbers_held()
        wide = max((p.element_size() for p in self.module.parameters() if p.is_floating_point()), default=4)
        return None if numbers is None else numbers * wide * samples

    @property
    def variant_bytes(self) -> int:
        """Bytes of quantised weights beside the network's own."""
        return self._attachment.variants.nbytes

    def lanes_of(self, own: bool) -> list[tuple[int, Lane]]:
        """The lanes of all threads, or the calling one's, with the number of their sampler."""
        return self._lanes.of(own)

    def departure(self, own: bool) -> str:
        """Why steps were not done as the plan says, or none will be; "" if all were."""
        components = find_components(self._clock.pipe).values()
        if components and not any(self.module in set(component.modules()) for component in components):
            return REPLACED
        return next((lane.departure for _, lane in self.lanes_of(own) if lane.departure), "")

    def reset(self, own: bool = False) -> None:
        """Forget every feature and every count, of all threads or the calling one."""
        self._lanes.drop(own)
        self.chunks.drop(own)

    def forget(self, cause: str) -> None:
        """Forget the features of the calling lane, in the midst of a run."""
        for _, lane in self.lanes_of(own=True):
            lane.forget(cause)

    def carry(self, lane: int, step: int) -> None:
        """Move the features of the calling lane, see `Session.carry`."""
        own = self.lanes_of(own=True)
        with self.saying(lane=lane):
            others = self.lanes_of(own=True)
        for (_, mine), (_, better) in zip(own, others, strict=False):
            carry(mine, better, step)

    def remove(self) -> None:
        """Restore the network and release all memory."""
        self._attachment.remove(for_good=True)
        self.chunks.remove()
        self.reset()

    def _answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._is_cut(args, kwargs):
            return self.chunks.answer(args, kwargs)
        return self._answer_whole(args, kwargs)

    def _cuts(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a call is answered chunk by chunk."""
        return self.chunks.takes(args, kwargs) and self._follows() is not None

    def _answer_whole(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        doing = self._decide(args, kwargs)
        if not isinstance(doing, list):
            return self._do(args, kwargs, doing)
        outputs = {number: self._do(*part, self._ask(done)) for number, part, done in doing}
        return self._join([outputs[number] for number in range(len(outputs))])

    def _do(self, args: tuple[Any, ...], kwargs: dict[str, Any], doing: Doing | Later) -> Any:
        if isinstance(doing, Later):
            return self._attachment.run_late(args, kwargs, *doing)
        return self._attachment.run(args, kwargs, *doing)[0]

    def _follows(self) -> CompiledPlan | None:
        """The plan that the calling thread's calls follow, if any."""
        plan = self._context.said.plan or self.plan
        trains = self.module.training and torch.is_grad_enabled()
        return plan if isinstance(plan, CompiledPlan) and not trains else None

    def _decide_on(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Doing | Later | Apart:
        plan = self._follows()
        if plan is None:
            return NOTHING
        told = self._clock.chunk(args, kwargs) if self._context.said.chunk is None else None
        with self._context.saying(chunk=told):
            return self.decisions.about(plan, args, kwargs)
