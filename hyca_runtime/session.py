"""A plan, applied."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.compiling import outside
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.combine import weighted_sum
from hyca_runtime.errors import PlanMismatchError, PlanMismatchWarning
from hyca_runtime.history import History
from hyca_runtime.moment import Moment, Stream
from hyca_runtime.plan import Plan
from hyca_runtime.policies.scheduled import Scheduled
from hyca_runtime.report import RunReport, StreamCount

__all__ = ["Session", "apply_plan", "config_digest"]

OnMismatch = Literal["compute", "error"]


class _StreamState:
    """What one branch remembers of its current run."""

    def __init__(self, depth: int) -> None:
        self.history = History(depth)
        self.count = StreamCount()
        self.run = -1
        self.last_step = -1
        self.off_plan = ""

    def enter(self, step: int | None, num_steps: int, time: float) -> None:
        """Move to `step`: a run starts at step 0 and visits every step once, or it is off plan."""
        if step == 0:
            self.history.clear()
            self.count, self.off_plan, self.run = StreamCount(), "", self.run + 1
        elif step is None or step >= num_steps:
            self.off_plan = self.off_plan or f"timestep {time:g} is none of the plan's {num_steps}"
        elif step != self.last_step + 1:
            self.off_plan = self.off_plan or f"step {step} came after step {self.last_step}"
        self.last_step = self.last_step if step is None else step


class Session:
    """A network that follows a plan; made by `apply_plan`.

    Use it as a context manager, or call `remove`. One session drives one network and its calls must
    not overlap in time.
    """

    def __init__(self, module: nn.Module, plan: Plan, on_mismatch: OnMismatch = "compute") -> None:
        self.plan = plan
        self._on_mismatch = on_mismatch
        self._policy = Scheduled(plan.schedule)
        self._attachment = Attachment(module, plan.point)
        self._clock = Clock(module, self._attachment.context, plan.sampler.timesteps)
        self._streams: dict[Stream, _StreamState] = {}
        self._weights: dict[tuple[int, int, torch.device], Tensor] = {}
        self._warned = False
        self._decide = outside(self._decide_on)
        self._remember = outside(self._remember_feature)
        self._attachment.install(self._answer)

    def _answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        state, step, forecast = self._decide(args, kwargs)
        if forecast is not None:
            return self._attachment.predict(forecast, args, kwargs)
        output, feature = self._attachment.compute(args, kwargs)
        self._remember(state, step, feature)
        return output

    def _decide_on(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[_StreamState, int | None, Tensor | None]:
        """The stream of a call, its step if that is on the plan, and the feature to predict from, if any."""
        branch = self._attachment.context.branch
        state = self._streams.setdefault((branch, 0, 0), _StreamState(self.plan.depth))
        tick = self._clock.read(args, kwargs, state.last_step)
        state.enter(tick.step, self.plan.schedule.num_steps, tick.time)
        if state.off_plan or tick.step is None:
            self._leave_plan(state)
            return state, None, None
        moment = Moment(state.run, tick.step, self.plan.schedule.num_steps, tick.time, branch)
        if self._policy.action(moment).kind == "predict":
            taps = self.plan.taps[moment.step]
            features = state.history.features[: len(taps.history)]
            if state.history.steps[: len(taps.history)] == taps.history:
                state.count.predicted += 1
                state.count.forecast_flops += 2 * len(features) * features[0].numel()
                return state, moment.step, weighted_sum(features, self._weights_for(moment.step, features[0]))
        return state, moment.step, None

    def _remember_feature(self, state: _StreamState, step: int | None, feature: Tensor) -> None:
        """Count a computed call; keep its feature if the run is on the plan."""
        state.count.computed += 1
        if step is not None:
            self._check_feature(feature)
            state.history.push(step, feature)

    def _weights_for(self, step: int, like: Tensor) -> Tensor:
        key = (step, like.ndim, like.device)
        if key not in self._weights:
            shape = [1] * like.ndim
            shape[self.plan.point.channel_axis] = self.plan.model.num_channels
            rows = torch.from_numpy(self.plan.taps[step].weights)
            self._weights[key] = rows.reshape(len(rows), *shape).to(like.device)
        return self._weights[key]

    def _check_feature(self, feature: Tensor) -> None:
        got = feature.shape[self.plan.point.channel_axis]
        if got != self.plan.model.num_channels:
            raise PlanMismatchError(
                f"plan {self.plan.name!r} is for {self.plan.model.num_channels} channels at the point "
                f"'{self.plan.point.kind}', the network has {got} there; trace and search this model again"
            )

    def _leave_plan(self, state: _StreamState) -> None:
        state.history.clear()
        steps = self.plan.schedule.num_steps
        message = f"plan {self.plan.name!r} is for {steps} steps of its own sampler, but {state.off_plan}"
        if self._on_mismatch == "error":
            raise PlanMismatchError(f"{message}; sample as the plan says or search a plan for these steps")
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{message}; this run is computed in full. Sample as the plan says, or search a plan for these steps",
                PlanMismatchWarning,
                stacklevel=2,
            )

    def at(self, step: int) -> AbstractContextManager[None]:
        """Say the step of the calls inside, for samplers whose timesteps are not the plan's."""
        return self._clock.at(step)

    def report(self) -> RunReport:
        """What the latest run did; print it."""
        counts = {stream: state.count for stream, state in self._streams.items()}
        ratio = None
        if self.plan.cost is not None and counts:
            full, light = self.plan.cost.full_step_flops, self.plan.cost.predicted_step_flops
            spent = sum(count.computed * full + count.predicted * light for count in counts.values())
            steps = sum(count.steps for count in counts.values())
            ratio = steps * full / spent if spent else None
        return RunReport(
            streams=counts,
            off_plan=next((state.off_plan for state in self._streams.values() if state.off_plan), ""),
            cache_bytes=sum(state.history.nbytes for state in self._streams.values()),
            forecast_flops=sum(count.forecast_flops for count in counts.values()),
            flops_ratio=ratio,
        )

    def reset(self) -> None:
        """Forget every feature and every count; the next call must be step 0 of a run."""
        self._streams.clear()

    def remove(self) -> None:
        """Restore the network exactly and release all memory. A second call does nothing.

        Raises:
            AttachError: something else wrapped the network after the plan; nothing was changed then.
        """
        self._attachment.remove()
        self.reset()
        self._weights.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def apply_plan(target: object, plan: Plan, on_mismatch: OnMismatch = "compute") -> Session:
    """Make a diffusers pipeline, or a transformer, follow `plan`.

    Args:
        target: a pipeline with a `transformer`, or the network itself, compiled or not.
        plan: from `load_plan`.
        on_mismatch: what a run with other steps or timesteps does: "compute" every step and warn
            once, or raise an "error".

    Returns:
        The session, which `report`s and `remove`s.

    Raises:
        PlanMismatchError: the plan was made for another network.
        AttachError: the network cannot be wrapped. Nothing was changed in either case.
    """
    module = find_transformer(target)
    expected, kind = plan.model, type(module).__name__
    if kind != expected.transformer:
        raise PlanMismatchError(
            f"plan {plan.name!r} is for a {expected.transformer}, got a {kind}; nothing was changed"
        )
    digest = config_digest(module)
    if digest != expected.config_digest:
        raise PlanMismatchError(
            f"plan {plan.name!r} is for a {kind} of another configuration ({expected.config_digest[:12]}, "
            f"this one is {digest[:12]}); trace and search this model. Nothing was changed"
        )
    return Session(module, plan, on_mismatch)


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
