"""Driving a network step by step: a rule says which steps are computed, and forecasts a tensor on the others.

What the published methods that plan or forecast have in common; each is a rule in a file of its own. A method that
does more than compute or forecast a step answers the calls itself (`driven`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from hyca_calib.pipelines.branches import Branches
from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.bound_points import bind_point
from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.combine import weighted_sum
from hyca_runtime.errors import AttachError
from hyca_runtime.feature import Feature
from hyca_runtime.point import CachePoint

__all__ = ["TRUNK", "Call", "Computed", "Rule", "Stream", "counts", "driven", "refusal", "stepwise", "weighted"]

TRUNK = CachePoint(kind="trunk")


@dataclass(frozen=True)
class Computed:
    """A step that was computed, and its feature."""

    step: int
    feature: Feature


@dataclass
class Stream:
    """One guidance branch of one run.

    Attributes:
        branch: its name.
        step: that of the present call, from 0.
        past: computed steps, newest first; all of the run unless the method keeps fewer.
        memory: whatever a rule wants to keep until the run ends.
    """

    branch: str
    step: int = -1
    past: list[Computed] = field(default_factory=list)
    memory: dict[str, Any] = field(default_factory=dict)


class Rule(Protocol):
    """What a method decides. Called for every guidance branch on its own."""

    def forecast(self, stream: Stream) -> Feature | None:
        """The feature of the present step, or None to compute it. Not asked before something was computed."""


@dataclass(frozen=True)
class Call:
    """One call of the network.

    Attributes:
        stream: the guidance branch it belongs to, already at the present step.
        depth: how many computed features the stream keeps; all if None.
    """

    attachment: Attachment
    stream: Stream
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    depth: int | None = None

    def compute(self) -> Any:
        """The network's own answer; its feature is remembered."""
        output, computed = self.attachment.compute(self.args, self.kwargs)
        if computed is not None:
            kept = Feature((part.clone() for part in computed), computed.form)
            self.stream.past.insert(0, Computed(self.stream.step, kept))
            if self.depth is not None:
                del self.stream.past[self.depth :]
        return output

    def predict(self, feature: Feature) -> Any:
        """The answer of what lies behind the cache point, to `feature`."""
        return self.attachment.predict(feature, self.args, self.kwargs)


@contextmanager
def driven(
    pipe: Any, answer: Callable[[Call], Any], point: CachePoint = TRUNK, depth: int | None = None
) -> Iterator[None]:
    """The pipeline with every call of its network answered by `answer`.

    Steps are told apart by their timesteps, which fall during a run; a run has at least two.

    Args:
        depth: how many computed features of a run are kept; all if None.
    """
    network = find_transformer(pipe)
    attachment, clock = Attachment(network, point), Clock(network)
    branches, streams, time = Branches(), dict[str, Stream](), -1.0

    def answered(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal branches, time
        now, _ = clock.timestep(args, kwargs)
        if now > time:  # a new run
            streams.clear()
            branches = Branches()
        time = now
        name = branches.label(attachment.context.branch, clock.prompt(args, kwargs))
        stream = streams.setdefault(name, Stream(name))
        stream.step += 1
        return answer(Call(attachment, stream, args, kwargs, depth))

    attachment.install(answered)
    try:
        yield
    finally:
        attachment.remove()


@contextmanager
def stepwise(pipe: Any, rule: Rule, point: CachePoint = TRUNK, depth: int | None = None) -> Iterator[None]:
    """The pipeline with its network driven by `rule`; see `driven`."""

    def answer(call: Call) -> Any:
        feature = rule.forecast(call.stream) if call.stream.past else None
        return call.compute() if feature is None else call.predict(feature)

    with driven(pipe, answer, point, depth):
        yield


def weighted(past: Sequence[Computed], weights: Sequence[float]) -> Feature:
    """The sum of the newest features, each with its weight, in float32 and then their own dtype."""
    return weighted_features([computed.feature for computed in past], weights)


def weighted_features(features: Sequence[Feature], weights: Sequence[float]) -> Feature:
    """The same of bare features, newest first; those without a weight are not used."""
    used = features[: len(weights)]
    row = torch.tensor([float(w) for w in weights[: len(used)]], device=used[0][0].device)
    return Feature((weighted_sum(parts, row.to(parts[0].device)) for parts in zip(*used, strict=True)), used[0].form)


def counts(low: int, high: int, factor: float = 1.3) -> tuple[int, ...]:
    """Whole numbers from `low` to `high`, both among them: each next or `factor` times the one before."""
    found = [low]
    while found[-1] < high:
        found.append(min(high, max(found[-1] + 1, round(factor * found[-1]))))
    return tuple(found)


def refusal(pipe: Any, point: CachePoint = TRUNK) -> str:
    """Why the pipeline's network has no such point; "" if it has."""
    try:
        bind_point(find_transformer(pipe), point)
    except AttachError as error:
        return str(error)
    return ""
