r"""What is known of the variants that a search may compute with: their price, and how far off they are.

A computed step in low precision gives :math:`F_t + e_t` instead of :math:`F_t`. A forecast that weighs it passes the
error on, :math:`\sum_k w_k (F_{h_k} + e_{h_k})`; with errors that are unlike the features and unlike from step to
step, its expected square grows by :math:`\sum_k w_k^2\, \mathrm{E}\,e_{h_k}^2`. So the errors' mean squares stand on
the diagonal of the Gram matrices, at the steps that are computed so, and everything that is fitted to them or judged by
them knows what extrapolation amplifies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hyca_calib.costs.bits import bit_operations
from hyca_calib.search.replay import Array
from hyca_runtime.errors import BudgetError
from hyca_runtime.schedule import DEFAULT, EVERY, Action, Schedule
from hyca_runtime.variant import BITS, EVEN, Scheme, VariantSpec


@dataclass(frozen=True, eq=False)
class KnownVariants:
    """The variants of one network, as its fit split shows them.

    Attributes:
        specs: by name.
        own_bits: of a number in the network's own precision.
        quantised: FLOPs of a step that are in the layers of each variant, all guidance branches together.
        noise: of each variant, squared errors of the feature ``(channel, branch, step)``, summed over tokens, the mean
            over samples: in the units of the Gram matrices; none where no search asks.
        partly: FLOPs in the layers of its variant, of actions that forecast something.
        step_shares: seconds of a step by each variant, over those by the network's own weights; of those that were
            timed, see `step_seconds`.
    """

    specs: Mapping[str, VariantSpec]
    own_bits: int
    quantised: Mapping[str, float]
    noise: Mapping[str, Array]
    partly: Mapping[Action, float] = field(default_factory=dict)
    step_shares: Mapping[str, float] = field(default_factory=dict)

    def bits(self, flops: float, action: Action) -> float:
        """Bit operations of a step that takes so many FLOPs."""
        own = bit_operations(flops, self.own_bits)
        if action.variant == DEFAULT:
            return own
        quantised = self.quantised[action.variant] if action.computes else self.partly.get(action, 0.0)
        saved = 1 - self.specs[action.variant].bit_share(self.own_bits)
        return own - bit_operations(quantised, self.own_bits) * saved

    def in_time(self, flops: float, action: Action) -> float:
        """FLOPs that take as long by the network's own weights as a step of so many takes with an action.

        Raises:
            BudgetError: steps by its variant were not timed.
        """
        if action.variant == DEFAULT or not action.computes:
            return flops
        if action.variant not in self.step_shares:
            told = f"{action.variant}, {self.specs[action.variant]}"
            raise BudgetError(f"steps by {told} are not timed, which a budget of time asks for; use '10x bitops'")
        return flops * self.step_shares[action.variant]

    def saving(self, in_time: bool) -> list[str]:
        """Variants whose steps cost less than others; where time is to be saved, of those that were timed."""
        return [name for name in self.specs if not in_time or self.step_shares.get(name, 1.0) < 1]

    def noise_under(self, schedule: Schedule) -> Array:
        """How far off the computed steps of a schedule are, ``(channel, branch, step)``; it is one for all branches."""
        found = np.zeros_like(next(iter(self.noise.values())))
        for step, action in enumerate(schedule.actions(EVERY)):
            if action.computes and action.variant != DEFAULT:
                found[..., step] = self.noise[action.variant][..., step]
        return found


def phases_in_turn(number: int) -> tuple[float, ...]:
    """Evenly spread phases of rounding, those that follow each other far apart; powers of two halve what is left."""
    width = (number - 1).bit_length()
    order = sorted(range(number), key=lambda i: f"{i:0{width}b}"[::-1])
    return tuple(i / number for i in order)


def with_roundings(spec: VariantSpec, number: int) -> VariantSpec:
    """A variant as a search has it: weights rounded in so many ways, activations between their least and largest."""
    phases = phases_in_turn(number) if spec.scheme in EVEN else spec.phases
    return spec.model_copy(update={"phases": phases, "asymmetric": spec.scheme == "int8"})


def parse_variants(text: str) -> dict[str, VariantSpec]:
    """The variants of ``int8,int4_weights:simulated``; each is named after its scheme.

    Raises:
        BudgetError: another scheme, or one twice.
    """
    schemes: dict[str, Scheme] = {scheme: scheme for scheme in BITS}
    found: dict[str, VariantSpec] = {}
    for part in text.split(","):
        name, _, how = part.strip().partition(":")
        if name not in schemes or how not in ("", "simulated") or name in found:
            known = ", ".join(schemes)
            raise BudgetError(f"--precision {text[:60]!r}: expected {known}, each once, perhaps with :simulated")
        found[name] = VariantSpec(scheme=schemes[name], simulated=bool(how))
    return found


def used_variants(known: KnownVariants | None, schedule: Schedule) -> dict[str, VariantSpec] | None:
    """The variants that a schedule computes with; None if it has none."""
    names = {action.variant for action in schedule.palette} - {DEFAULT}
    return {name: known.specs[name] for name in sorted(names)} if known is not None and names else None


def with_noise(gram: Array, noise: Array) -> Array:
    """Gram matrices ``(channel, regressor, regressor)`` with the noise of their first regressors on the diagonal.

    Args:
        noise: ``(channel, regressor)``; what has none may come behind.
    """
    found, at = gram.copy(), np.arange(noise.shape[1])
    found[:, at, at] += noise
    return found


def summed(noise: Array, weights: Sequence[float]) -> Array:
    """Noise of what branches with some weights make together, ``(channel, step)``."""
    return np.asarray(np.einsum("cbt,b->ct", noise, np.square(weights)))
