"""A plan, applied."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet, WeakValueDictionary

from torch import nn

from hyca_runtime.attach.deferral import Deferral, defer_control
from hyca_runtime.attach.points import find_transformers
from hyca_runtime.compiled_plan import CompiledPlan, MakePolicy, OnMismatch
from hyca_runtime.errors import PlanMismatchError
from hyca_runtime.executor import Executor
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan import Plan
from hyca_runtime.policies.scheduled import Scheduled
from hyca_runtime.report import RunReport

MAX_PLANS = 64
"""Plans that `Session.following` keeps ready."""

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
        scheduler: Any = None,
        policy: MakePolicy = Scheduled,
        control: Iterable[Deferral] = (),
    ) -> None:
        self.plan = plan
        self._on_mismatch: OnMismatch = on_mismatch
        self._policy = policy
        self._warned: set[type[Warning]] = set()
        self._compiled: dict[int, tuple[Plan, dict[str, CompiledPlan]]] = {}
        self._control = WeakSet(control)  # kept by their modules, as executors are
        self._executors: WeakValueDictionary[str, Executor] = WeakValueDictionary()
        try:
            for name, module in networks.items():
                sections = [section for section in plan.sections if section.component == name]
                if sections:
                    compiled = CompiledPlan(plan.name, sections, on_mismatch, policy)
                    self._executors[name] = Executor(module, compiled, scheduler, self._complain)
        except BaseException:
            self.remove()
            raise

    def _complain(self, message: str, kind: type[Warning]) -> None:
        """Warn, but once of each kind of warning."""
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(message, kind, stacklevel=2)

    @contextmanager
    def at(self, step: int | None = None, branch: str | None = None, pipe: Any = None) -> Iterator[None]:
        """Say more of this thread's calls inside than the calls themselves do.

        Args:
            step: the step of the plan, for samplers whose timesteps are not the plan's.
            branch: the guidance branch, for pipelines that do not name theirs.
            pipe: the pipeline that calls, where several share the network: its scheduler tells the
                step without waiting for the GPU.
        """
        scheduler = getattr(pipe, "scheduler", None)
        with ExitStack() as stack:
            for executor in self._executors.values():
                stack.enter_context(executor.saying(branch=branch, step=step, scheduler=scheduler))
            yield

    @contextmanager
    def following(self, plan: Plan | None) -> Iterator[None]:
        """Let this thread's calls inside follow another plan, or none and be computed in full.

        A server applies one plan and lets each request name its own.

        Raises:
            PlanMismatchError: the plan is for other networks, or cached at another point.
        """
        compiled = self._compiled_of(plan) if plan is not None else {}
        with ExitStack() as stack:
            for name, executor in self._executors.items():
                stack.enter_context(executor.saying(plan=compiled.get(name, NO_PLAN)))
            yield

    def _compiled_of(self, plan: Plan) -> dict[str, CompiledPlan]:
        known = self._compiled.get(id(plan))
        if known is None:
            networks = {name: executor.module for name, executor in self._executors.items()}
            compiled = {}
            for section in plan.sections:
                _check_fits(plan.name, section, networks, "the session")
                if section.point != self._executors[section.component].plan.point:
                    raise PlanMismatchError(
                        f"plan {plan.name!r} is cached at '{section.point}', the session at "
                        f"'{self._executors[section.component].plan.point}'; apply it on its own"
                    )
                sections = [s for s in plan.sections if s.component == section.component]
                compiled[section.component] = CompiledPlan(plan.name, sections, self._on_mismatch, self._policy)
            if len(self._compiled) >= MAX_PLANS:
                self._compiled.clear()
            self._compiled[id(plan)] = known = (plan, compiled)  # the plan is kept, so its id stays its own
        return known[1]

    def memory(self, samples: int = 1) -> int | None:
        """Bytes of features that a run of `samples` samples will hold at most, all networks together.

        None where the plan does not say how large its features are.
        """
        sizes = [executor.memory(samples) for executor in self._executors.values()]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def report(self, own: bool = False) -> RunReport:
        """What the latest run did; print it.

        Args:
            own: leave out what other threads did.
        """
        streams = [
            ((name if len(self._executors) > 1 else "", *stream), executor, state)
            for name, executor in self._executors.items()
            for stream, state in executor.streams_of(own)
        ]
        spent = steps = 0.0
        for _, _, state in streams:
            cost = state.track.section.cost
            if cost is None:
                steps = 0.0
                break
            spent += state.count.computed * cost.full_step_flops + state.count.predicted * cost.predicted_step_flops
            steps += state.count.steps * cost.full_step_flops
        return RunReport(
            streams={key: state.count for key, _, state in streams},
            off_plan=next((state.track.off_plan for _, _, state in streams if state.track.off_plan), ""),
            cache_bytes=sum(state.count.cache_bytes for _, _, state in streams),
            forecast_flops=sum(state.count.forecast_flops for _, _, state in streams),
            flops_ratio=steps / spent if spent and steps else None,
            bytes_ahead=self.memory(),
        )

    def reset(self, own: bool = False) -> None:
        """Forget every feature and every count; the next call must be step 0 of a run.

        Args:
            own: only of the calling thread; without it the runs of all others are cut off.
        """
        for executor in self._executors.values():
            executor.reset(own)

    def remove(self) -> None:
        """Restore the networks exactly and release all memory. A second call does nothing.

        Offload hooks stay as they are, whether they were put on before the plan or after it.
        """
        while self._control:
            self._control.pop().remove()
        while self._executors:
            self._executors.popitem()[1].remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def apply_plan(
    target: object, plan: Plan, on_mismatch: OnMismatch = "compute", policy: MakePolicy = Scheduled
) -> Session:
    """Make a diffusers pipeline, or a transformer, follow `plan`.

    Args:
        target: a pipeline, or a network itself, compiled or not. Prefer the pipeline: its scheduler
            tells the step without waiting for the GPU.
        plan: from `load_plan`.
        on_mismatch: what a run with other steps or timesteps does: "compute" every step and warn
            once, "adapt" the schedule to the sampler's time and forecast by the plan's closed
            forms, or raise an "error".
        policy: given the plan's schedule, what decides when to compute; by default the schedule. Where another
            one departs from it, steps are forecast by the plan's closed forms if `on_mismatch` is "adapt",
            else computed.

    Returns:
        The session, which `report`s and `remove`s.

    Raises:
        PlanMismatchError: the plan was made for other networks.
        AttachError: a network cannot be wrapped. Nothing was changed in either case.
    """
    networks = find_transformers(target)
    for section in plan.sections:
        _check_fits(plan.name, section, networks, type(target).__name__)
    control = defer_control(target, {section.component: section.point for section in plan.sections})
    return Session(networks, plan, on_mismatch, getattr(target, "scheduler", None), policy, control)


def _check_fits(name: str, section: NetworkPlan, networks: Mapping[str, nn.Module], target: str) -> None:
    if section.component not in networks:
        raise PlanMismatchError(
            f"plan {name!r} is for a {section.component!r}, {target} has only {', '.join(networks)}; "
            "nothing was changed"
        )
    module, expected = networks[section.component], section.model
    kind, digest = type(module).__name__, config_digest(module)
    if kind != expected.transformer:
        raise PlanMismatchError(f"plan {name!r} is for a {expected.transformer}, got a {kind}; nothing was changed")
    if digest != expected.config_digest:
        raise PlanMismatchError(
            f"plan {name!r} is for a {kind} of another configuration ({expected.config_digest[:12]}, "
            f"this one is {digest[:12]}); trace and search this model. Nothing was changed"
        )


def config_digest(module: nn.Module) -> str:
    """SHA-256 of a network's configuration, without names of files and versions.

    A module that has no configuration is described by the names and shapes of its parameters.
    """
    config = getattr(module, "config", None)
    if isinstance(config, Mapping):
        facts: Any = {key: value for key, value in config.items() if not key.startswith("_")}
    else:
        facts = [(name, list(p.shape)) for name, p in module.named_parameters()]
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
