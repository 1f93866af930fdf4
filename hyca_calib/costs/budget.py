"""Compute budgets: ``5x``, ``20%``, ``10 steps``, ``5x bitops``."""

import math
import re
from dataclasses import dataclass
from typing import Any, Literal, Self

from hyca_calib.costs.flops import CostModel
from hyca_runtime.errors import BudgetError

TOLERANCE = 0.02
"""A run may cost so much more than asked, unless the budget is strict: whole steps seldom fill it to the last FLOP."""
FORMS = (
    "expected a speed-up like 5x, a share of the full FLOPs like 20%, a number like '10 steps', or of bit operations "
    "'5x bitops'"
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
    """

    text: str
    share: float | None = None
    steps: int | None = None
    tolerance: float = 0.0
    measure: Measure = "flops"

    @classmethod
    def parse(cls, text: str, tolerance: float = 0.0) -> Self:
        """Read one budget.

        Raises:
            BudgetError: another form, a speed-up below 1x, a share above 100%.
        """
        compact = text.strip().lower().replace(" ", "")
        share = r"((?P<ratio>\d+(\.\d+)?)x|(?P<percent>\d+(\.\d+)?)%)(?P<bits>bitops)?"
        match = re.fullmatch(share + r"|(?P<steps>\d+)steps?", compact)
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
        if (ratio := float(match["ratio"])) < 1:
            raise BudgetError(f"budget {text!r} asks for more than the full run; use 1x or above")
        return cls(compact, share=1 / ratio, tolerance=tolerance, measure=measure)

    def computed_steps(self, cost: CostModel, num_steps: int, depth: int) -> int:
        """The most steps that can be computed within the budget, predicted steps paid for.

        Raises:
            BudgetError: the trace has fewer steps than are asked for, or not even one can be computed.
        """
        if self.steps is not None:
            return self._counted(self.steps, num_steps)
        light = cost.predicted_flops(depth)
        spare = self.most_flops(cost.full_flops, light, num_steps) - num_steps * light
        computed = min(num_steps, math.floor(spare / (cost.full_flops - light) + 1e-9))
        if computed < 1:
            most = cost.flops_ratio(num_steps, 1, depth)
            raise BudgetError(
                f"budget {self.text!r} cannot be met: computing one of {num_steps} steps is {most:.1f}x already; "
                f"ask for at most {math.floor(most)}x"
            )
        return computed

    def most_flops(self, full: float, least: float, num_steps: int) -> float:
        """The most FLOPs of a run, or bit operations.

        Args:
            full: what a step costs on which all of the network runs.
            least: of the cheapest step; a number of steps is so many full ones, the others as cheap.

        Raises:
            BudgetError: there are fewer steps than are asked for.
        """
        if self.steps is not None:
            counted = self._counted(self.steps, num_steps)
            return counted * full + (num_steps - counted) * least
        return num_steps * full * (1.0 if self.share is None else self.share * (1 + self.tolerance))

    @property
    def told(self) -> dict[str, Any]:
        """What was asked for, for JSON."""
        return {"asked": self.text, "tolerance": self.tolerance}

    def _counted(self, steps: int, num_steps: int) -> int:
        if steps > num_steps:
            raise BudgetError(f"budget {self.text!r}: the trace has only {num_steps} steps")
        return steps


def parse_budgets(text: str, tolerance: float = 0.0) -> tuple[Budget, ...]:
    """The budgets in a text that has commas between them, each once."""
    return tuple(dict.fromkeys(Budget.parse(part, tolerance) for part in text.split(",")))
