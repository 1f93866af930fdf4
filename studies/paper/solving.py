"""Solvers: what every formula costs, on which axis, in which use, and what fitting or reading the run adds."""

from __future__ import annotations

from typing import Any

from studies.paper.chapter import Chapter, Claim, Context, Question, answered, verdicts
from studies.paper.formulas import fitting, modes, multistep, noise, pool
from studies.paper.formulas.dataset import Dataset, dataset
from studies.paper.formulas.figures import anchored_and_recursive, cost_map

QUESTIONS: dict[str, Question[Dataset]] = {
    "pool": (pool.pool, pool.claims),
    "multistep": (multistep.multistep, multistep.claims),
    "modes": (modes.modes, modes.claims),
    "fitting": (fitting.fitting, fitting.claims),
    "noise": (noise.noise, noise.claims),
}
COSTS, RECURSION = "solvers-cost.png", "solvers-recursive.png"
CAPTIONS = {
    COSTS: "Held-out replay cost over that of hold, of every solver at every published schedule.",
    RECURSION: "Cost of recursive over anchored use, with 95 % interval over prompts, of the solvers that differ.",
}


def solvers(context: Context) -> Chapter:
    """The chapter; every random choice follows from the context's seed."""
    empty = Chapter(name="solvers", title="Solvers", figures=tuple(CAPTIONS.items()))
    return answered(context, empty, dataset, QUESTIONS, _draw)


def claims(numbers: dict[str, Any]) -> tuple[Claim, ...]:
    """Verdicts, question by question."""
    return verdicts(QUESTIONS, numbers)


def _draw(context: Context, s: Dataset, numbers: dict[str, Any]) -> None:
    cost_map(numbers["pool"]["cost_over_hold"], s.intervals, context.folder / COSTS)
    recursion = numbers["multistep"]["recursive_over_anchored"]
    anchored_and_recursive(recursion, s.intervals, context.folder / RECURSION)
