"""Groups of feature dimensions: are they real, do they last, and what are they good for?"""

from __future__ import annotations

from hyca_calib.science.chapter import Chapter, Context
from hyca_calib.science.groups.choice import choice
from hyca_calib.science.groups.controls import controls
from hyca_calib.science.groups.figures import agreement_map, cost_by_groups, solver_shares
from hyca_calib.science.groups.heterogeneity import heterogeneity
from hyca_calib.science.groups.hybrid import hybrid
from hyca_calib.science.groups.shrinkage import shrinkage
from hyca_calib.science.groups.stability import cells_of, stability
from hyca_calib.science.groups.subject import Part, Subject, subject

__all__ = ["grouping"]

QUESTIONS = {
    "heterogeneity": heterogeneity,
    "stability": stability,
    "choice": choice,
    "shrinkage": shrinkage,
    "controls": controls,
    "hybrid": hybrid,
}
SOLVERS, AGREEMENT, COST = "grouping-solvers.png", "grouping-ari.png", "grouping-cost.png"
CAPTIONS = {
    SOLVERS: "Share of channels that each closed form serves best, gap by gap and over the whole run.",
    AGREEMENT: "Adjusted Rand index of k-means assignments; each panel says what changes between two labelings.",
    COST: "Held-out replay cost by number of groups. Left: how channels or tokens are grouped. Right: one row of taps "
    "per group (lines) or per channel, drawn towards the group's (dashes) or with its data added (dots).",
}


def grouping(context: Context) -> Chapter:
    """The chapter; every random choice follows from the context's seed."""
    context.tell(0.0, "reading trajectories")
    s = subject(context)
    parts: dict[str, Part] = {}
    for i, (name, question) in enumerate(QUESTIONS.items()):
        context.tell((i + 1) / (len(QUESTIONS) + 2), name)
        parts[name] = question(s)
    numbers = {name: part.numbers for name, part in parts.items()}
    context.tell(1 - 1 / (len(QUESTIONS) + 2), "figures")
    _draw(context, s, numbers)
    return Chapter(
        name="grouping",
        title="Groups of feature dimensions",
        text=tuple(line for part in parts.values() for line in part.text),
        tables=tuple(table for part in parts.values() for table in part.tables),
        figures=tuple(CAPTIONS.items()),
        claims=tuple(claim for part in parts.values() for claim in part.claims),
        numbers=numbers,
    )


def _draw(context: Context, s: Subject, numbers: dict[str, dict[str, object]]) -> None:
    solver_shares(s, context.folder / SOLVERS)
    agreement_map(cells_of(numbers["stability"]), context.folder / AGREEMENT)
    cost_by_groups(s, numbers, context.folder / COST)
