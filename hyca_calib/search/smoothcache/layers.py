"""Which layers of a network can be reused, and what steps cost that reuse some of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from hyca_calib.search.precision.calibration import Meter
from hyca_calib.search.problem import Problem
from hyca_calib.search.watched_run import Points, last_call
from hyca_runtime.attach.layers import find_layers
from hyca_runtime.errors import AttachError
from hyca_runtime.feature import widths
from hyca_runtime.flop_count import count_flops
from hyca_runtime.point import LAYERS, CachePoint, parse_point
from hyca_runtime.variant import VariantSpec

Reused = tuple[str, ...]
"""Names of the points whose layers repeat their latest output on a step, in the order of all points."""


@dataclass(frozen=True)
class Layers:
    """What can be reused of a network.

    Attributes:
        points: by name.
        channels, numel: of each point, see `Forecast`.
        flops: of one step of one sample that reuses some points, all guidance branches together; that of none is a full
            step.
        quantised: of each variant that was asked for, the part of these FLOPs that is in its layers.
    """

    points: Points
    channels: Mapping[str, int]
    numel: Mapping[str, int]
    flops: Mapping[Reused, float]
    quantised: Mapping[str, Mapping[Reused, float]] = field(default_factory=dict)

    @property
    def full_flops(self) -> float:
        """FLOPs of a step that reuses nothing."""
        return self.flops[()]


def kinds_of(module: nn.Module) -> dict[str, CachePoint]:
    """The kinds of layers that a network has as modules of their own, as points over all of its blocks.

    Raises:
        AttachError: it has none.
    """
    found, faults = dict[str, CachePoint](), list[str]()
    for kind in LAYERS:
        try:
            find_layers(module, kind, "*")
        except AttachError as error:
            faults.append(str(error))
        else:
            found[kind] = parse_point(kind)
    if not found:
        reasons = "; ".join(dict.fromkeys(faults))
        raise AttachError(f"the preset finds no layers that it could reuse: {reasons}; choose another one")
    return found


def subsets(names: Sequence[str]) -> list[Reused]:
    """Everything that a step may reuse, from nothing to all."""
    return [some for size in range(len(names) + 1) for some in combinations(names, size)]


def measure_layers(
    pipe: Any,
    problem: Problem,
    points: Points,
    actions: Callable[[Sequence[str]], Iterable[Reused]] = subsets,
    specs: Mapping[str, VariantSpec] = MappingProxyType({}),
) -> Layers:
    """Count what steps cost, on the last call of a run of two steps.

    Points that the network never comes to are left out.

    Args:
        actions: from the names of the points to what steps may reuse.
        specs: variants of the network.

    Raises:
        AttachError: the network comes to none of them.
    """
    (attachment, call), times = last_call(pipe, problem, points), problem.trace.calls
    if call is None:
        raise AttachError(f"{type(attachment.module).__name__} never runs its layers at {', '.join(points)}")
    names = [name for name in points if name in call.features]
    numel = {name: times * sum(part.numel() for part in call.features[name]) for name in names}

    quantised: dict[str, dict[Reused, float]] = {name: {} for name in specs}

    def count(reused: Reused) -> float:
        held = {name: call.features[name] for name in reused}
        with torch.no_grad(), Meter(attachment.module, specs) as meter:
            live = count_flops(lambda: attachment.run(call.args, call.kwargs, (), held))
        for name, flops in meter.flops.items():
            quantised[name][reused] = times * flops
        return times * live + 2 * sum(numel[name] for name in reused)  # held outputs are sums of one tap

    return Layers(
        points={name: points[name] for name in names},
        channels={name: sum(widths(call.features[name], points[name].channel_axis)) for name in names},
        numel=numel,
        flops={reused: count(reused) for reused in ((), *actions(names))},
        quantised=quantised,
    )
