"""Driving a network step by step: on some steps it is computed, on the others a tensor of it is forecast.

What the published methods that plan or forecast have in common. One that knows all its weights beforehand is a table
(`tabled`), any other answers the calls of the network itself (`driven`).
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from hyca_calib.baselines.base import Applied
from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.bound_points import bind_point
from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.calls import CallResolver
from hyca_runtime.combine import weighted_sum
from hyca_runtime.errors import AttachError
from hyca_runtime.feature import Feature
from hyca_runtime.point import CachePoint
from hyca_runtime.schedule import Schedule
from hyca_runtime.solvers import ClosedFormSolver

TRUNK = CachePoint(kind="trunk")
RESIDUAL = CachePoint(kind="trunk", keep="residual")
OUTPUT = CachePoint(kind="output")


@dataclass(frozen=True)
class Computed:
    """A step that was computed, and its feature."""

    step: int
    feature: Feature


@dataclass
class Stream:
    """One guidance branch of one run.

    Attributes:
        step: that of the present call, from 0.
        past: computed steps, newest first; all of the run unless the method keeps fewer.
        memory: whatever a method wants to keep until the run ends.
    """

    branch: str
    step: int = -1
    past: deque[Computed] = field(default_factory=deque)
    memory: dict[str, Any] = field(default_factory=dict)


Weights = Mapping[int, Sequence[float]]
"""For every step that is forecast, the weights of the newest computed features, newest first."""


@dataclass(frozen=True)
class Call:
    """One call of the network.

    Attributes:
        stream: the guidance branch it belongs to, already at the present step.
    """

    attachment: Attachment
    stream: Stream
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def compute(self) -> Any:
        """The network's own answer; its feature is remembered."""
        output, computed = self.attachment.compute(self.args, self.kwargs)
        if computed is not None:
            kept = Feature((part.clone() for part in computed), computed.form)
            self.stream.past.appendleft(Computed(self.stream.step, kept))
        return output

    @property
    def feature(self) -> Feature | None:
        """What was computed on this very step; None if nothing was, or the call only filled a cache of keys."""
        past = self.stream.past
        return past[0].feature if past and past[0].step == self.stream.step else None

    def predict(self, feature: Feature) -> Any:
        """The answer of what lies behind the cache point, to `feature`."""
        return self.attachment.predict(feature, self.args, self.kwargs)


@contextmanager
def driven(
    pipe: Any, answer: Callable[[Call], Any], point: CachePoint = TRUNK, depth: int | None = None
) -> Iterator[None]:
    """The pipeline with every call of its network answered by `answer`.

    Args:
        depth: how many computed features of a run are kept; all if None.
    """
    network = find_transformer(pipe)
    attachment, clock = Attachment(network, point), Clock(network, pipe)
    resolver, streams = CallResolver(clock), dict[str, Stream]()

    def answered(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        placed = resolver.resolve(args, kwargs, attachment.context.said.branch)
        if placed.progress == "begins":
            streams.clear()
        stream = streams.setdefault(placed.branch, Stream(placed.branch, past=deque(maxlen=depth)))
        stream.step = int(resolver.track.position)
        return answer(Call(attachment, stream, args, kwargs))

    attachment.install(answered)
    try:
        yield
    finally:
        attachment.remove()


def tabled(pipe: Any, weights: Weights, point: CachePoint = TRUNK) -> Applied:
    """The pipeline with the steps that have weights forecast by them, and the others computed."""

    def answer(call: Call) -> Any:
        row = weights.get(call.stream.step) if call.stream.past else None
        return call.compute() if row is None else call.predict(weighted(call.stream.past, row))

    return driven(pipe, answer, point, depth=max(map(len, weights.values()), default=1))


def solver_weights(solver: ClosedFormSolver, num_steps: int, computed: Iterable[int]) -> Weights:
    """A solver's weights for all steps of a run but those that are computed, on the step axis."""
    schedule = Schedule.from_steps(num_steps, computed)
    past = {step: np.array(schedule.history(step, solver.depth), np.float64) for step in schedule.predicted_steps}
    return {step: solver.weights(times, float(step)).tolist() for step, times in past.items()}


def weighted(past: Iterable[Computed], weights: Sequence[float] | np.ndarray) -> Feature:
    """The sum of the newest features, each with its weight, in float32 and then their own dtype.

    Features without a weight are not used.
    """
    used = [computed.feature for computed, _ in zip(past, weights, strict=False)]
    row = torch.tensor(weights[: len(used)], dtype=torch.float32, device=used[0][0].device)
    return Feature((weighted_sum(parts, row.to(parts[0].device)) for parts in zip(*used, strict=True)), used[0].form)


def refusal(pipe: Any, point: CachePoint = TRUNK) -> str:
    """Why the pipeline's network has no such point; "" if it has."""
    try:
        bind_point(find_transformer(pipe), point)
    except AttachError as error:
        return str(error)
    return ""
