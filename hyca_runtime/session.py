"""A plan, applied."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Self
from weakref import WeakSet, ref

from torch import nn

from hyca_runtime.account import GONE, account
from hyca_runtime.agreement import ALONE, Agreement
from hyca_runtime.attach.context import step_number
from hyca_runtime.attach.deferral import Deferral
from hyca_runtime.compiled_plan import CompiledPlan, OnMismatch
from hyca_runtime.errors import AttachError, ClockError, PlanError
from hyca_runtime.executor import Executor
from hyca_runtime.fit import check_agreed, check_fits
from hyca_runtime.plan import Plan
from hyca_runtime.report import RunReport
from hyca_runtime.streaming.key_store import Observer

MAX_PLANS = MAX_WARNINGS = 64
"""Of one session: plans that `Session.following` keeps ready, and warnings; more do not help."""

NO_PLAN = "none"
"""Said by a thread whose calls are to be computed in full."""


class Session:
    """A pipeline that follows a plan; made by `apply_plan`.

    Use it as a context manager, or call `remove`. Threads may share it: each has runs of its own,
    and their calls of one network take turns. It does not keep its networks alive.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        plan: Plan,
        on_mismatch: OnMismatch = "compute",
        pipe: object | None = None,
        control: Iterable[Deferral] = (),
        ranks: Agreement = ALONE,
        require: float | None = None,
    ) -> None:
        self.plan = plan
        self._require, self._ranks = require, ranks
        self._last: RunReport | None = None
        self.on_mismatch: OnMismatch = on_mismatch
        self._warned: set[tuple[type[Warning], str]] = set()
        self._compiled: dict[int, tuple[Plan, dict[str, CompiledPlan]]] = {}
        self._control = WeakSet(control)  # kept by their modules, as executors are
        self._held: dict[str, ref[Executor]] = {}  # never changed, but replaced: other threads may be reading
        try:
            for name, module in networks.items():
                sections = [section for section in plan.sections if section.component == name]
                if sections:
                    compiled = CompiledPlan(plan.name, sections, on_mismatch)
                    executor = Executor(module, compiled, pipe, self._complain, ranks)
                    self._held = {**self._held, name: ref(executor)}
        except BaseException:
            self.remove()
            raise

    @property
    def _executors(self) -> dict[str, Executor]:
        """By the name of their network, those whose network is still there."""
        return {name: executor for name, held in self._held.items() if (executor := held()) is not None}

    @property
    def is_applied(self) -> bool:
        """Whether a network follows its plan."""
        return bool(self._executors)

    def _complain(self, kind: type[Warning], subject: str, message: str) -> None:
        """Warn, but once of each subject."""
        if (kind, subject) not in self._warned and len(self._warned) < MAX_WARNINGS:
            self._warned.add((kind, subject))
            warnings.warn(message, kind, stacklevel=2)

    @contextmanager
    def at(
        self,
        step: int | None = None,
        branch: str | None = None,
        pipe: Any = None,
        lane: int | None = None,
        chunk: int | None = None,
    ) -> Iterator[None]:
        """Say more of this thread's calls inside, or this task's, than the calls themselves do.

        Args:
            step: the step of the plan, for samplers whose timesteps are not the plan's.
            branch: the guidance branch, for pipelines that do not name theirs.
            pipe: the pipeline that calls, where several share the network: its scheduler tells the
                step without waiting for the GPU.
            lane: which of several samplers that the thread runs in turn; each has a run and features of its own.
            chunk: which part of a long video, in the order in which they begin; each has a run and features of its own.

        Raises:
            ClockError: a step, a lane or a chunk that is no whole number from 0 on, or a branch that is no text.
        """
        number = None if step is None else step_number(step)
        lane = None if lane is None else step_number(lane, "lane")
        chunk = None if chunk is None else step_number(chunk, "chunk")
        if not isinstance(branch, str | None):
            raise ClockError(f"expected the name of a guidance branch, got {branch!r}")
        with ExitStack() as stack:
            for executor in self._executors.values():
                stack.enter_context(executor.saying(branch=branch, step=number, pipe=pipe, lane=lane, chunk=chunk))
            yield

    @contextmanager
    def following(self, plan: Plan | None) -> Iterator[None]:
        """Let this thread's calls inside, or this task's, follow another plan, or none and be computed in full.

        A server applies one plan and lets each request name its own.

        Raises:
            PlanError: not a `Plan`; a path would be read anew for every call.
            PlanMismatchError: the plan is for other networks, or cached at another point.
            AttachError: the session's network cannot follow it, or there is none any more.
            CertificateError: it lacks the certificate that `apply_plan` was to require.
        """
        if not isinstance(plan, Plan | None):
            raise PlanError(f"expected a Plan, got {type(plan).__name__}; keep plans of files in a PlanCache")
        compiled = self._compiled_of(plan) if plan is not None else {}
        with ExitStack() as stack:
            for name, executor in self._executors.items():
                stack.enter_context(executor.saying(plan=compiled.get(name, NO_PLAN)))
            yield

    def _compiled_of(self, plan: Plan) -> dict[str, CompiledPlan]:
        if (known := self._compiled.get(id(plan))) is None:
            if not self._executors:
                raise AttachError(GONE)
            networks, compiled = {name: executor.module for name, executor in self._executors.items()}, {}
            if self._ranks.alone:  # others would have to be asked by all at once
                check_agreed(plan, self.on_mismatch, networks, self._ranks)
            check_fits(plan.name, plan.sections, networks, "the session", self._require)
            for section in plan.sections:
                sections = [s for s in plan.sections if s.component == section.component]
                compiled[section.component] = CompiledPlan(plan.name, sections, self.on_mismatch)
                self._executors[section.component].check(compiled[section.component])
            if len(self._compiled) >= MAX_PLANS:
                self._compiled.clear()
            self._compiled[id(plan)] = known = (plan, compiled)  # the plan is kept, so its id stays its own
        return known[1]

    def memory(self, samples: int = 1) -> int | None:
        """Bytes of features that a run of `samples` samples will hold at most, all networks together.

        None where the plan does not say how large its features are.
        """
        sizes = [executor.memory(samples) for executor in self._executors.values()]
        return None if None in sizes else sum(filter(None, sizes))

    @property
    def key_bytes(self) -> int:
        """Bytes of keys and values of videos that are kept now, where a plan makes them by chunks."""
        return sum(executor.chunks.key_bytes for executor in self._executors.values())

    def report(self, own: bool = False) -> RunReport:
        """What the latest run did; print it. A session that was removed tells of its last.

        Args:
            own: leave out what other threads did.
        """
        adapted, networks = self.on_mismatch == "adapt", tuple(self._executors)
        return self._last or account(self._executors, own, adapted, self.memory(), self.key_bytes, networks)

    def observe(self, observer: Observer | None) -> None:
        """Tell somebody of the attention of all videos that begin from now on, where a plan makes them by chunks.

        Args:
            observer: such as a `DecayMeter`; None for nobody.
        """
        for executor in self._executors.values():
            executor.chunks.observer = observer

    def reset(self, own: bool = False) -> None:
        """Forget every feature and every count; the next call must be step 0 of a run.

        Args:
            own: only of the calling thread; without it the runs of all others are cut off.
        """
        for executor in self._executors.values():
            executor.reset(own)

    def forget(self, cause: str) -> None:
        """Forget the features of the calling lane, for a reason; its run goes on."""
        for executor in self._executors.values():
            executor.forget(cause)

    def carry(self, lane: int, step: int) -> None:
        """Move the features of the calling lane since a step by what another lane of the thread has there beside them.

        Nothing where one of them has not computed that step, or remembers it no more.
        """
        for executor in self._executors.values():
            executor.carry(lane, step)

    def remove(self) -> None:
        """Restore the networks exactly and release all memory. A second call does nothing.

        A call that is being answered is waited for. Offload hooks stay as they are, whether they were put on before the
        plan or after it.
        """
        executors = self._executors
        try:
            self._last = self.report()
        finally:
            self._held = {}
            while self._control:
                self._control.pop().remove()
            for executor in executors.values():
                executor.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()
