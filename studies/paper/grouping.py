"""Groups of feature dimensions: are they real, do they last, and what are they good for?"""

from __future__ import annotations

from typing import Any

from studies.paper.chapter import Chapter, Claim, Context, Question, answered, verdicts
from studies.paper.groups import choice, controls, heterogeneity, hybrid, shrinkage, stability
from studies.paper.groups.figures import agreement_map, cost_by_groups, solver_shares
from studies.paper.groups.subject import Subject, subject

QUESTIONS: dict[str, Question[Subject]] = {
    "heterogeneity": (heterogeneity.heterogeneity, heterogeneity.claims),
    "stability": (stability.stability, stability.claims),
    "choice": (choice.choice, choice.claims),
    "shrinkage": (shrinkage.shrinkage, shrinkage.claims),
    "controls": (controls.controls, controls.claims),
    "hybrid": (hybrid.hybrid, hybrid.claims),
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
    empty = Chapter(name="grouping", title="Groups of feature dimensions", figures=tuple(CAPTIONS.items()))
    return answered(context, empty, subject, QUESTIONS, _draw)


def claims(numbers: dict[str, Any]) -> tuple[Claim, ...]:
    """Verdicts, question by question."""
    return verdicts(QUESTIONS, numbers)


def _draw(context: Context, s: Subject, numbers: dict[str, Any]) -> None:
    solver_shares(s, context.folder / SOLVERS)
    agreement_map(stability.cells_of(numbers["stability"]), context.folder / AGREEMENT)
    cost_by_groups(s, numbers, context.folder / COST)
