"""What a network offers to QuantCache, and what its steps cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hyca_calib.costs.bits import bit_operations, own_bits_of
from hyca_calib.search.problem import Problem
from hyca_calib.search.quantcache.calibration import OUTPUT, block_paths
from hyca_calib.search.smoothcache.layers import Layers, measure_layers
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.attach.variants import find_linears
from hyca_runtime.point import parse_point
from hyca_runtime.schedule import DEFAULT, Action
from hyca_runtime.variant import VariantSpec


@dataclass(frozen=True)
class Site:
    """What is known of a network.

    Attributes:
        layers: the output, and what each block but the first adds, as points by the block's path; steps that reuse or
            pass by one of them.
        linears: FLOPs of a step in each linear layer that can be quantised, by path.
        own_bits: of a number in the network's own precision.
    """

    layers: Layers
    linears: Mapping[str, float]
    own_bits: int

    def flops(self, action: Action) -> float:
        """Of a step."""
        flops = self.layers.flops
        if OUTPUT in action.forecast:
            return flops[OUTPUT,]
        return self.layers.full_flops - sum(self.layers.full_flops - flops[block,] for block in action.forecast)

    def bits(self, action: Action, specs: Mapping[str, VariantSpec]) -> float:
        """Bit operations of a step.

        Args:
            specs: the variants.
        """
        found = bit_operations(self.flops(action), self.own_bits)
        if action.variant == DEFAULT:
            return found
        for path, flops in self.linears.items():
            own, runs = specs[action.variant].of(path), not any(path.startswith(f"{of}.") for of in action.forecast)
            if own is not None and runs:
                found -= bit_operations(flops, self.own_bits) * (1 - own.bit_share(self.own_bits))
        return found

    def costs(self, actions: Sequence[Action], specs: Mapping[str, VariantSpec], bits: bool) -> list[float]:
        """Of several actions, FLOPs or bit operations."""
        return [self.bits(action, specs) if bits else self.flops(action) for action in actions]


def measure_site(pipe: Any, problem: Problem) -> Site:
    """Count what steps cost.

    Raises:
        AttachError: the network has no blocks that hand on what they take, or none with linear layers.
    """
    network = find_transformer(pipe, problem.trace.attributes.model.component)
    blocks = {path: parse_point(f"span:{path}..{path}:residual") for path in block_paths(network)[1:]}
    specs = {place.path: VariantSpec(scheme="int8", layers=place.path) for place in find_linears(network, "*")}
    points = {OUTPUT: parse_point(OUTPUT), **blocks}
    layers = measure_layers(pipe, problem, points, lambda names: [(name,) for name in names], specs)
    return Site(layers, {path: of[()] for path, of in layers.quantised.items()}, own_bits_of(network))
