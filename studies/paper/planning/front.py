"""The whole front of cost against compute, from one table."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from hyca_calib.costs.budget import Budget
from hyca_calib.search.tune import solve
from hyca_runtime.errors import BudgetError
from studies.paper.chapter import Claim, Part, Table
from studies.paper.planning.comparison import ANNEALING, EVEN, EXACT, RULE, SAME, usual
from studies.paper.planning.instance import Instance
from studies.paper.planning.rivals import anneal, even_schedule
from studies.paper.ruling import decide, ruled

BUDGETS = ("1.5x", "2x", "2.5x", "3x", "4x", "5x", "6x", "7x", "8x", "10x")
RESTARTS = 8


def front(s: Instance) -> Part:
    """Cost at every number of computed steps between the first and the last budget, and at each budget."""
    counts = _counts(s)
    shown = range(max(2, min(counts.values())), max(counts.values()) + 1)
    annealed = {n: anneal(s.table, n, usual(s), RESTARTS, s.rng(n, 1))[1] for n in shown}
    lines: dict[str, dict[int, float]] = {
        EXACT: {n: s.cost(s.optimum[n]) for n in shown},
        ANNEALING: {n: float(costs.mean()) for n, costs in annealed.items()},
        RULE: {len(s.rule(n).computed_steps): s.cost(s.rule(n)) for n in shown},
        EVEN: {n: s.cost(even_schedule(s.steps, n)) for n in shown},
    }
    limited = _limited(s, counts)
    numbers = {
        "lines": {name: [[n, _ratio(s, n), cost] for n, cost in sorted(line.items())] for name, line in lines.items()},
        "limited_gap": {budget.text: over for budget, over in limited.items()},
    }
    return Part((_table(s, counts, lines),), numbers)


def claims(found: dict[str, Any]) -> tuple[Claim, ...]:
    """Verdicts of the numbers of `front`; both costs are of one table, so nothing is estimated."""
    limited = found["limited_gap"]
    return (
        ruled(
            "The search's limit on the longest gap costs nothing (its schedules are the best of all at every budget).",
            lambda: (
                decide([over <= 1 + SAME for over in limited.values()]),
                f"cost over the best without a limit at most {max(limited.values()):.6f} at {len(limited)} budgets.",
            ),
        ),
    )


def _counts(s: Instance) -> dict[Budget, int]:
    """Computed steps of each budget that this model's predicted steps allow."""
    found = {}
    for budget in map(Budget.parse, BUDGETS):
        with suppress(BudgetError):
            found[budget] = budget.computed_steps(s.problem.trace.cost, s.steps, s.settings.depth)
    return found


def _ratio(s: Instance, count: int) -> float:
    return s.problem.trace.cost.flops_ratio(s.steps, count, s.settings.depth)


def _limited(s: Instance, counts: dict[Budget, int]) -> dict[Budget, float]:
    """Cost of the product's schedules, whose gaps are limited, over the best of all."""
    found = solve(s.problem, s.settings, list(counts), s.seed)
    return {budget: s.excess(candidate.schedule) for budget, candidate in zip(counts, found, strict=True)}


def _table(s: Instance, counts: dict[Budget, int], lines: dict[str, dict[int, float]]) -> Table:
    cells = {}
    for budget, count in counts.items():
        best, rule = s.cost(s.optimum[count]), s.rule(count)
        cells[budget.text] = (
            str(count),
            best,
            lines[ANNEALING].get(count, best) / best,
            f"{s.cost(rule) / best:.4g} ({len(rule.computed_steps)} steps)",
            s.cost(even_schedule(s.steps, count)) / best,
            " ".join(map(str, s.optimum[count].computed_steps)) if count < s.steps / 4 else "",
        )

    caption = (
        f"The offline front, all from one table: cost of the optimum, and what others cost relative to it. Annealing: "
        f"mean of {RESTARTS} runs of {usual(s):,} evaluations."
    )
    head = ("budget", "computed steps", "cost", ANNEALING, RULE, EVEN, "the optimum computes")
    return Table.of(caption, head, cells)
