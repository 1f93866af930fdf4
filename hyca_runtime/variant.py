"""Versions of a network's weights that cost less to compute with, as a plan names them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from hyca_runtime.group import SolverSpec
from hyca_runtime.plan_part import PlanPart
from hyca_runtime.registry import did_you_mean
from hyca_runtime.schedule import COMPUTE, DEFAULT, Action
from hyca_runtime.solvers import Fitted, solver_from_spec

Scheme = Literal["int8", "int8_weights", "int4_weights", "fp8"]

BITS: Mapping[Scheme, tuple[int, int | None]] = {
    "int8": (8, 8),
    "int8_weights": (8, None),
    "int4_weights": (4, None),
    "fp8": (8, 8),
}
"""Bits of a weight and of an activation in the products of a scheme; None where those are the network's own."""

EVEN: frozenset[Scheme] = frozenset({"int8", "int8_weights"})
"""Schemes with one rounding step for a whole row of a weight."""

MAX_VARIANTS = MAX_PHASES = 8
MOST_SHIFT = 15
"""The largest exponent of `VariantSpec.balance`."""

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,39}")
"""What a variant may be called."""


class Weights(NamedTuple):
    """Which weights a call runs.

    Attributes:
        variant: their name.
        step: of the plan, that says how they are corrected; None at a time that is none of its steps.
        turn: how many steps before run the variant, which says how weights are rounded.
    """

    variant: str = DEFAULT
    step: int | None = None
    turn: int = 0


OWN = Weights()


class VariantSpec(PlanPart):
    """A quantised version of some layers of a network; the others keep the network's own weights.

    Attributes:
        scheme: ``int8`` has weights of 8 bits, one scale for each output channel, and activations that are rounded to
            8 bits when they come, one scale for each token; ``fp8`` the same in 8-bit floating point; ``int8_weights``
            and ``int4_weights`` have such weights alone, which are multiplied with whole activations.
        layers: pattern as in `fnmatch` of the paths of linear layers; only those inside blocks are taken.
        simulated: whether numbers are only rounded as the scheme would and multiplied as before: it shows what the
            scheme does to samples on any device, and saves neither time nor memory.
        corrections: by the path of a layer, `Fitted` rows that weigh its output, then a constant, by channel: they make
            up for what quantisation is usually off there. On steps that they do not know nothing is made up for.
        schemes: by the path of a layer, another scheme than that of all others; None leaves it its own weights.
        balance: by the path of a layer, an exponent for each channel of its input: that is divided by two to its power,
            and the weight's column multiplied by it before it is rounded, so that no channel takes the others' bits.
            In floating point powers of two change nothing but exponents, so a product is what it was before rounding.
        asymmetric: whether activations of ``int8`` are rounded between the least and the largest of a token instead of
            evenly about zero, which wastes half of the values where all have one sign; what is simulated always is.
        phases: by what shares of a rounding step weights are moved before they are rounded; what that adds to the
            output is taken off again. Steps take them in turn: each rounds otherwise, so that errors of weights, which
            are else alike from step to step, do not add up in the sample.
    """

    scheme: Scheme
    layers: str = Field(default="*", min_length=1, max_length=200)
    simulated: bool = False
    corrections: dict[str, SolverSpec] | None = None
    schemes: dict[str, Scheme | None] | None = None
    balance: dict[str, list[Annotated[int, Field(ge=-MOST_SHIFT, le=MOST_SHIFT)]]] | None = None
    asymmetric: bool = False
    phases: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field(default=(0.0,), min_length=1, max_length=MAX_PHASES)

    @model_validator(mode="after")
    def _check(self) -> VariantSpec:
        if any(self.phases) and not {self.scheme, *(self.schemes or {}).values()} <= {*EVEN, None}:
            raise ValueError(f"phases: expected schemes of {', '.join(sorted(EVEN))} alone")
        if len(set(self.phases)) < len(self.phases):
            raise ValueError(f"phases: one stands twice in {list(self.phases)}")
        for path, rows in self.corrected.items():
            if rows.depth != 2:
                what = "expected two weights, of an output and of a constant"
                raise ValueError(f"corrections.{path[:60]}: {what}, got {rows.depth}")
        return self

    @property
    def corrected(self) -> dict[str, Fitted]:
        """The rows of `corrections`.

        Raises:
            ValueError: others than fitted ones.
        """
        found = dict[str, Fitted]()
        for path, spec in (self.corrections or {}).items():
            rows = solver_from_spec(spec)
            if not isinstance(rows, Fitted):
                raise ValueError(f"corrections.{path[:60]}: expected 'fitted', got {spec.name!r}")  # noqa: TRY004
            found[path] = rows
        return found

    def of(self, path: str) -> VariantSpec | None:
        """How a layer is quantised, on its own; None where it has its own weights."""
        scheme = (self.schemes or {}).get(path, self.scheme)
        shifts = (self.balance or {}).get(path)
        balance = None if shifts is None else {path: shifts}
        if scheme is None:
            return None
        return VariantSpec(scheme=scheme, simulated=self.simulated, asymmetric=self.asymmetric, balance=balance)

    def __str__(self) -> str:
        told = f"{self.scheme}{' (simulated)' if self.simulated else ''}"
        told += ", asymmetric" if self.asymmetric else ""
        told += f", rounded in {len(self.phases)} ways in turn" if len(self.phases) > 1 else ""
        told += f", {len(self.schemes)} layers otherwise" if self.schemes else ""
        told += f", {len(self.balance)} layers balanced" if self.balance else ""
        return f"{told}, {len(self.corrections)} layers corrected" if self.corrections else told

    def bit_share(self, own_bits: int) -> float:
        """Bit operations of a product under the scheme, over those of one with the network's own weights.

        Args:
            own_bits: of a number in the network's own precision.
        """
        weights, activations = BITS[self.scheme]
        return weights * (activations or own_bits) / own_bits**2


def check_variants(variants: Mapping[str, VariantSpec], palette: Sequence[Action], decided: bool) -> None:
    """Whether a palette's actions can be done with some variants.

    Args:
        decided: whether a policy decides between the actions.

    Raises:
        ValueError: a name that none may have, an action whose variant is not defined, or nothing in the palette that
            runs the network's own weights, as calls do which the plan cannot forecast.
    """
    for name in variants:
        if name == DEFAULT or not NAME.fullmatch(name):
            raise ValueError(
                f"variants: {name[:60]!r} cannot be the name of one; expected at most 40 of a-z, 0-9, '_', '.', '-', "
                f"and not {DEFAULT!r}"
            )
    for i, action in enumerate(palette):
        if action.variant not in (DEFAULT, *variants):
            known = ", ".join(map(repr, (DEFAULT, *variants)))
            hint = did_you_mean(action.variant[:60], [DEFAULT, *variants])
            raise ValueError(
                f"schedule.palette.{i}.variant: expected one of {known}, got {action.variant[:60]!r}{hint}"
            )
    if any(action.variant != DEFAULT for action in palette):
        if COMPUTE not in palette:
            raise ValueError("schedule.palette: beside variants it must have an action that computes with own weights")
        if decided:
            raise ValueError("policy: one decides what is computed, not with which weights; expected no variant")


def merged_variants(parts: Iterable[Mapping[str, VariantSpec] | None]) -> dict[str, VariantSpec]:
    """The variants of several sections for one network.

    Raises:
        ValueError: two are different, but have one name.
    """
    found: dict[str, VariantSpec] = {}
    for variants in parts:
        for name, spec in (variants or {}).items():
            if found.setdefault(name, spec) != spec:
                raise ValueError(
                    f"variants: sections for one network must mean the same by {name!r}; keep them in two plans"
                )
    return found
