"""What a network offers to CacheQuant, and what its steps cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyca_calib.costs.bits import own_bits_of
from hyca_calib.costs.budget import Measure
from hyca_calib.search.cachequant.readers import find_readers
from hyca_calib.search.precision.variants import KnownVariants
from hyca_calib.search.problem import Problem
from hyca_calib.search.smoothcache.layers import Layers, measure_layers
from hyca_calib.search.step_caches.mixcache import middle_blocks
from hyca_calib.search.watched_run import last_call
from hyca_runtime.attach.points import Place, find_transformer
from hyca_runtime.errors import AttachError
from hyca_runtime.point import CachePoint, parse_point
from hyca_runtime.schedule import COMPUTE, Action
from hyca_runtime.variant import VariantSpec

DEVIATION = "deviation"
"""The name of the point in plans: what a span of blocks adds."""


@dataclass(frozen=True)
class Site:
    """What is known of a network.

    Attributes:
        layers: of the span, and of steps with and without.
        readers: the layers that read what the span adds.
        variants: the only one in which all is computed.
    """

    layers: Layers
    readers: tuple[Place, ...]
    variants: KnownVariants

    @property
    def variant(self) -> str:
        """Its name."""
        return next(iter(self.variants.specs))

    @property
    def palette(self) -> tuple[Action, ...]:
        """Nothing does the first, but calls that cannot reuse; then a computed step, and one that reuses."""
        return COMPUTE, Action(variant=self.variant), Action(forecast=(DEVIATION,), variant=self.variant)

    @property
    def flops(self) -> tuple[float, ...]:
        """Of the actions of the palette; corrections of outputs are some thousandths, and left out."""
        full, reused = self.layers.full_flops, self.layers.flops[DEVIATION,]
        return full, full, reused

    def costs(self, measure: Measure) -> tuple[float, ...]:
        """The same, or bit operations."""
        if measure == "flops":
            return self.flops
        return tuple(self.variants.bits(flops, action) for flops, action in zip(self.flops, self.palette, strict=True))


def measure_site(pipe: Any, problem: Problem, specs: Mapping[str, VariantSpec]) -> Site:
    """What the traced network offers.

    Args:
        specs: one variant.

    Raises:
        AttachError: the network has no span of blocks, or the variant cannot be made here.
    """
    network = find_transformer(pipe, problem.trace.attributes.model.component)
    span = middle_blocks(network)
    if not span:
        raise AttachError(
            f"cachequant reuses what a span of blocks adds, and {type(network).__name__} has no list of two or more; "
            "choose another preset"
        )
    points: dict[str, CachePoint] = {DEVIATION: parse_point(f"span:{span}:residual")}
    attachment, call = last_call(pipe, problem, points, variants=specs)
    if call is None:
        raise AttachError(f"{type(network).__name__} never runs its blocks {span}; choose another preset")
    ((name, spec),) = specs.items()
    layers = measure_layers(pipe, problem, points, lambda names: [tuple(names)], specs)
    quantised = layers.quantised[name]
    reuses = Action(forecast=(DEVIATION,), variant=name)
    known = KnownVariants(specs, own_bits_of(network), {name: quantised[()]}, {}, {reuses: quantised[DEVIATION,]})
    return Site(layers, find_readers(attachment, call, DEVIATION, spec.layers), known)
