"""Solvers: what every formula costs, on which axis, in which use, and what fitting or reading the run adds."""

from __future__ import annotations

from typing import Any

from studies.paper.chapter import Chapter, Claim, Context, finished
from studies.paper.formulas import fitting, modes, multistep, noise, pool
from studies.paper.formulas.figures import anchored_and_recursive, cost_map
from studies.paper.formulas.ground import ground
from studies.paper.groups.subject import Part

__all__ = ["claims", "solvers"]

QUESTIONS = {
    "pool": (pool.pool, pool.claims),
    "multistep": (multistep.multistep, multistep.claims),
    "modes": (modes.modes, modes.claims),
    "fitting": (fitting.fitting, fitting.claims),
    "noise": (noise.noise, noise.claims),
}
"""What measures each, and the rules of its verdicts."""
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
    for i, (name, (question, _)) in enumerate(QUESTIONS.items()):
        context.tell((i + 1) / (len(QUESTIONS) + 2), name)
        parts[name] = question(s)
    numbers = {name: part.numbers for name, part in parts.items()}
    context.tell(1 - 1 / (len(QUESTIONS) + 2), "figures")
    cost_map(numbers["pool"]["cost_over_hold"], list(s.intervals), context.folder / COSTS)
    anchored_and_recursive(
        numbers["multistep"]["recursive_over_anchored"], list(s.intervals), context.folder / RECURSION
    )
    chapter = Chapter(
        name="solvers",
        title="Solvers",
        text=tuple(line for part in parts.values() for line in part.text),
        tables=tuple(table for part in parts.values() for table in part.tables),
        figures=tuple(CAPTIONS.items()),
        numbers=numbers,
    )
    return finished(chapter, claims)


def claims(numbers: dict[str, Any]) -> tuple[Claim, ...]:
    """Verdicts, question by question."""
    return tuple(claim for name, (_, rule) in QUESTIONS.items() for claim in rule(numbers[name]))
