"""How many bits the weights of each layer have, by how much quantising it alone changes what the network puts out."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hyca_calib.search.quantcache.balance import Balance
from hyca_runtime.variant import BITS, Scheme

MEAN_BITS = 8.0
"""What the weights of all layers may have on average; the paper's setting W8."""

Levels = tuple[Scheme | None, ...]
"""Schemes from the fewest bits to the most; None are the network's own weights."""

Schemes = dict[str, Scheme | None]
"""By the name of a group."""


@dataclass(frozen=True)
class Importance:
    """What is known of the layers of a network, by the name of a group of layers that have the same bits.

    Attributes:
        sizes: numbers of weights.
        errors: squared error of the network's output, as a share of its square, with one group quantised; by scheme.
        own_bits: of a number in the network's own precision.
        balance: what balances the inputs of layers, by path.
        balanced: schemes and groups whose error is that of a balanced input, since it is less so.
    """

    sizes: Mapping[str, int]
    errors: Mapping[Scheme, Mapping[str, float]]
    own_bits: int
    balance: Balance = field(default_factory=dict)
    balanced: frozenset[tuple[Scheme, str]] = frozenset()

    @property
    def levels(self) -> Levels:
        """From the fewest bits to the most."""
        return (*sorted(self.errors, key=lambda scheme: BITS[scheme][0]), None)

    def bits(self, scheme: Scheme | None) -> int:
        """Of a weight."""
        return self.own_bits if scheme is None else BITS[scheme][0]

    def error(self, schemes: Mapping[str, Scheme | None]) -> float:
        """Of all groups together, as if they did not know of each other."""
        return sum(self.errors[scheme][group] for group, scheme in schemes.items() if scheme is not None)

    def mean_bits(self, schemes: Mapping[str, Scheme | None]) -> float:
        """Of the weights of all groups."""
        return sum(self.sizes[group] * self.bits(of) for group, of in schemes.items()) / sum(self.sizes.values())

    def allotted(self, mean: float = MEAN_BITS) -> Schemes:
        """A scheme for each group: from the fewest bits on, the group is given more whose error falls most for the bits
        that this takes, as long as the mean is kept; one scheme for all where that has less error.

        Below the least of all levels the mean cannot be kept; then all have that.
        """
        levels = self.levels
        found: Schemes = dict.fromkeys(self.sizes, levels[0])
        while True:
            ways = dict[tuple[str, Scheme | None], float]()
            for group, scheme in found.items():
                for more in levels[levels.index(scheme) + 1 :]:
                    if self.mean_bits({**found, group: more}) <= mean + 1e-9:
                        fall = self.error({group: scheme}) - self.error({group: more})
                        ways[group, more] = fall / (self.sizes[group] * (self.bits(more) - self.bits(scheme)) or 1)
            if not ways or max(ways.values()) <= 0:
                break
            group, more = max(ways, key=lambda way: ways[way])
            found[group] = more
        even: list[Schemes] = [dict.fromkeys(self.sizes, level) for level in levels]
        within = [schemes for schemes in even if self.mean_bits(schemes) <= mean + 1e-9]
        return min((found, *within), key=self.error)
