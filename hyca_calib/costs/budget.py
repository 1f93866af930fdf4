"""Compute budgets: ``5x``, ``20%``, ``10 steps``, ``5x bitops``, ``1.8s``, ``2.5x wall``."""

import math
import re
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from hyca_calib.costs.flops import CostModel
from hyca_calib.costs.run_seconds import RunSeconds
from hyca_runtime.errors import BudgetError

TOLERANCE = 0.02
"""A run may cost so much more than asked, unless the budget is strict: whole steps seldom fill it to the last FLOP."""
FORMS = (
    "expected a speed-up like 5x, a share of the full FLOPs like 20%, either of bit operations like '5x bitops', a "
    "number like '10 steps', seconds of a sample like 1.8s, or a speed-up of the whole run like '2.5x wall'"
)
FORM = re.compile(
    r"((?P<ratio>\d+(\.\d+)?)x|(?P<percent>\d+(\.\d+)?)%)(?P<bits>bitops)?|(?P<steps>\d+)steps?"
    r"|(?P<seconds>\d+(\.\d+)?)s|(?P<wall>\d+(\.\d+)?)xwall"
)

Measure = Literal["flops", "bitops"]


@dataclass(frozen=True)
class Budget:
    """At most this much compute for one run.

    Attributes:
        text: as the user wrote it, normalised; also names folders.
        share: allowed FLOPs over those of the full run, or None.
        steps: allowed computed steps, or None.
        tolerance: what a run may cost beyond that share, as a part of it.
        measure: what the share is of. Where everything is computed in one precision, it makes no difference.
        seconds: allowed for a sample, or None; there is no share until runs are timed, see `within`.
        wall: seconds of the full run over those allowed, or None; as above.
        timed: how long runs take, where the share comes from that.
    """

    text: str
    share: float | None = None
    steps: int | None = None
    tolerance: float = 0.0
    measure: Measure = "flops"
    seconds: float | None = None
    wall: float | None = None
    timed: RunSeconds | None = None

    @classmethod
    def parse(cls, text: str, tolerance: float = 0.0) -> Self:
        """Read one budget.

        Raises:
            BudgetError: another form, a speed-up below 1x, a share above 100%.
        """
        compact = str(text).strip().lower().replace(" ", "")
        match = FORM.fullmatch(compact)
        if match is None:
            raise BudgetError(f"budget {text!r} is not one; {FORMS}")
        if steps := match["steps"]:
            if int(steps) < 1:
                raise BudgetError(f"budget {text!r}: at least 1 step must be computed")
            return cls(f"{steps}steps", steps=int(steps))
        measure: Measure = "bitops" if match["bits"] else "flops"
        if percent := match["percent"]:
            if not 0 < float(percent) <= 100:
                raise BudgetError(f"budget {text!r} must be above 0% and at most 100%")
            return cls(compact, share=float(percent) / 100, tolerance=tolerance, measure=measure)
        if seconds := match["seconds"]:
            if float(seconds) <= 0:
                raise BudgetError(f"budget {text!r} must be above 0 seconds")
            return cls(compact, seconds=float(seconds))
        if (ratio := float(match["wall"] or match["ratio"])) < 1:
            raise BudgetError(f"budget {text!r} asks for more than the full run; use 1x or above")
        if match["wall"]:
            return cls(compact, wall=ratio)
        return cls(compact, share=1 / ratio, tolerance=tolerance, measure=measure)

    @property
    def needs_seconds(self) -> bool:
        """Whether runs must be timed before it says anything, see `within`."""
        return (self.seconds or self.wall) is not None and self.timed is None

    def within(self, timed: RunSeconds) -> Self:
        """The same as a share of FLOPs, where it is one of seconds; others as they are.

        Raises:
            BudgetError: the full run is as fast, or no plan is.
        """
        if self.seconds is None and self.wall is None:
            return self
        seconds = timed.full / self.wall if self.wall else self.seconds or 0.0
        told = f"budget {self.text!r}: {seconds:.3g} s of a sample on {timed.timed_on.device}"
        if seconds >= timed.full and self.wall is None:
            raise BudgetError(f"{told}, but the full run takes {timed.full:.3g} s; no plan is needed, or ask for less")
        share = timed.share_within(seconds)
        if share <= 0:
            raise BudgetError(f"{told}, but what runs beside the network takes {timed.fixed:.3g} s; allow more")
        return replace(self, share=share, timed=timed)

    def computed_steps(self, cost: CostModel, num_steps: int, depth: int, least: int = 1) -> int:
        """The most steps that can be computed within the budget, predicted steps paid for.

        Args:
            least: first steps that must be computed.

        Raises:
            BudgetError: the trace has fewer steps than are asked for, or not even the least can be computed.
        """
        if self.steps is not None:
            if self.steps < least:
                raise BudgetError(f"budget {self.text!r}: this model computes its first {least} steps; ask for as many")
            return self._counted(self.steps, num_steps)
        light = cost.predicted_flops(depth)
        spare = self.most_flops(cost.full_flops, light, num_steps) - num_steps * light
        computed = min(num_steps, math.floor(spare / (cost.full_flops - light) + 1e-9))
        if computed < least:
            most = cost.flops_ratio(num_steps, least, depth)
            few = "one" if least == 1 else f"the first {least}"
            told = f"budget {self.text!r} cannot be met: computing {few} of {num_steps} steps"
            if self.timed:
                seconds = self.timed.of(1 / most)
                raise BudgetError(
                    f"{told} takes {seconds:.3g} s of a sample already, {self.timed.full:.3g} s in full; allow more"
                )
            raise BudgetError(f"{told} is {most:.1f}x already; ask for at most {math.floor(most)}x")
        return computed

    def most_flops(self, full: float, least: float, num_steps: int) -> float:
        """The most FLOPs of a run, or bit operations.

        Args:
            full: what a step costs on which all of the network runs.
            least: of the cheapest step; a number of steps is so many full ones, the others as cheap.

        Raises:
            BudgetError: there are fewer steps than are asked for, or runs were not timed.
        """
        if self.needs_seconds:
            raise BudgetError(f"budget {self.text!r} is one of time, which only search and calibrate measure; use 5x")
        if self.steps is not None:
            counted = self._counted(self.steps, num_steps)
            return counted * full + (num_steps - counted) * least
        return num_steps * full * (1.0 if self.share is None else self.share * (1 + self.tolerance))

    @property
    def told(self) -> dict[str, Any]:
        """What was asked for, for JSON."""
        return {"asked": self.text, "tolerance": self.tolerance}

    def announced(self, share: float) -> dict[str, Any]:
        """What is told of the time of a plan that spends so much of the full run's FLOPs, for JSON."""
        return {} if self.timed is None else {"announced": self.timed.told(share)}

    def _counted(self, steps: int, num_steps: int) -> int:
        if steps > num_steps:
            raise BudgetError(f"budget {self.text!r}: the trace has only {num_steps} steps")
        return steps


def parse_budgets(text: str, tolerance: float = 0.0) -> tuple[Budget, ...]:
    """The budgets in a text that has commas between them, each once."""
    return tuple(dict.fromkeys(Budget.parse(part, tolerance) for part in text.split(",")))
