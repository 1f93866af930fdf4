"""Driving a network step by step: a rule says which steps are computed, and forecasts a tensor on the others.

What the published methods that plan or forecast have in common; each is a rule in a file of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from hyca_calib.branches import Branches
from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.feature import Feature
from hyca_runtime.point import CachePoint

__all__ = ["TRUNK", "Computed", "Rule", "Stream", "stepwise", "weighted"]

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
        past: computed steps, newest first; all of the run.
        memory: whatever a rule wants to keep until the run ends.
    """

    branch: str
    step: int = -1
    past: list[Computed] = field(default_factory=list)
    memory: dict[str, Any] = field(default_factory=dict)


class Rule(Protocol):
    """What a method decides. Called for every guidance branch on its own."""

    def forecast(self, stream: Stream) -> Feature | None:
        """The feature of the present step, or None to compute it."""


@contextmanager
def stepwise(pipe: Any, rule: Rule, point: CachePoint = TRUNK) -> Iterator[None]:
    """The pipeline with its network driven by `rule`; steps are told apart by their falling timesteps."""
    network = find_transformer(pipe)
    attachment, clock = Attachment(network, point), Clock(network)
    branches, streams, time = Branches(), dict[str, Stream](), -1.0

    def answer(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal branches, time
        now, _ = clock.timestep(args, kwargs)
        if now > time:  # a new run
            streams.clear()
            branches = Branches()
        time = now
        name = branches.label(attachment.context.branch, clock.prompt(args, kwargs))
        stream = streams.setdefault(name, Stream(name))
        stream.step += 1
        feature = rule.forecast(stream) if stream.past else None
        if feature is not None:
            return attachment.predict(feature, args, kwargs)
        output, computed = attachment.compute(args, kwargs)
        if computed is not None:
            stream.past.insert(0, Computed(stream.step, Feature((p.clone() for p in computed), computed.form)))
        return output

    attachment.install(answer)
    try:
        yield
    finally:
        attachment.remove()


def weighted(past: Sequence[Computed], weights: Sequence[float]) -> Feature:
    """The sum of the newest features, each with its weight."""
    used = past[: len(weights)]
    parts = zip(*(computed.feature for computed in used), strict=True)
    return Feature(
        (sum(w * part for w, part in zip(weights, of_part, strict=True)) for of_part in parts), used[0].feature.form
    )
