"""Solvers: what every formula costs, on which axis, in which use, and what fitting or reading the run adds."""

from __future__ import annotations

from hyca_calib.science.chapter import Chapter, Context
from hyca_calib.science.formulas.figures import anchored_and_recursive, cost_map
from hyca_calib.science.formulas.fitting import fitting
from hyca_calib.science.formulas.ground import ground
from hyca_calib.science.formulas.modes import modes
from hyca_calib.science.formulas.multistep import multistep
from hyca_calib.science.formulas.noise import noise
from hyca_calib.science.formulas.pool import pool
from hyca_calib.science.groups.subject import Part

__all__ = ["solvers"]

QUESTIONS = {"pool": pool, "multistep": multistep, "modes": modes, "fitting": fitting, "noise": noise}
COSTS, RECURSION = "solvers-cost.png", "solvers-recursive.png"
CAPTIONS = {
    COSTS: "Held-out replay cost over that of hold, of every solver at every published schedule.",
    RECURSION: "Cost of recursive over anchored use, with 95 % interval over prompts, of the solvers that differ.",
}


def solvers(context: Context) -> Chapter:
    """The chapter; every random choice follows from the context's seed."""
    context.tell(0.0, "reading trajectories")
    s = ground(context)
    parts: dict[str, Part] = {}
    for i, (name, question) in enumerate(QUESTIONS.items()):
        context.tell((i + 1) / (len(QUESTIONS) + 2), name)
        parts[name] = question(s)
    numbers = {name: part.numbers for name, part in parts.items()}
    context.tell(1 - 1 / (len(QUESTIONS) + 2), "figures")
    cost_map(numbers["pool"]["cost_over_hold"], list(s.intervals), context.folder / COSTS)
    anchored_and_recursive(
        numbers["multistep"]["recursive_over_anchored"], list(s.intervals), context.folder / RECURSION
    )
    return Chapter(
        name="solvers",
        title="Solvers",
        text=tuple(line for part in parts.values() for line in part.text),
        tables=tuple(table for part in parts.values() for table in part.tables),
        figures=tuple(CAPTIONS.items()),
        claims=tuple(claim for part in parts.values() for claim in part.claims),
        numbers=numbers,
    )
