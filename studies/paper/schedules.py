"""Offline search for schedules: what is optimal, what it costs to know, and how that grows."""

from __future__ import annotations

from typing import Any

from studies.paper.chapter import Chapter, Claim, Context, finished
from studies.paper.groups.subject import Part
from studies.paper.planning import contest, front
from studies.paper.planning.figures import front_plot, growth_plot, optimal_steps
from studies.paper.planning.full_size import full_size
from studies.paper.planning.growth import growth
from studies.paper.planning.instance import instance
from studies.paper.planning.throughput import throughput

__all__ = ["claims", "schedules"]

QUESTIONS = {
    "contest": contest.contest,
    "front": front.front,
    "throughput": throughput,
    "growth": growth,
    "full_size": full_size,
}
RULES = {"contest": contest.claims, "front": front.claims}
FRONT, OPTIMA, GROWTH = "schedules-front.png", "schedules-optimal.png", "schedules-growth.png"
CAPTIONS = {
    FRONT: "Left: replayed cost over the FLOPs ratio, every point from the same table of gap costs. Right: how far a "
    "run of annealing ends above the optimum, by the schedules it scores (mean and 95 % interval over runs).",
    OPTIMA: "The optimal schedule for every number of computed steps.",
    GROWTH: "Time and memory of the exact search on synthetic trajectories, each axis varied on its own.",
}
OBJECTIVE = (
    "All schedules here are judged by one objective, the one of the product's search: forecast errors within a gap "
    "add up coherently in the latent, weighted by the sampler's response and the gain of the network's tail, and the "
    "squared norms of the gaps are summed (`hyca_calib/replay.py`). Taps are fitted on the fit split for each group of "
    "channels and judged on the select split; rivals get the same taps. Costs are squared errors, tenfold is 10 dB, "
    "and they are replayed: no cost sees that later computed steps meet a changed latent."
)


def schedules(context: Context) -> Chapter:
    """The chapter; all but the measured times follows from the context's seed."""
    context.tell(0.0, "gap costs")
    s = instance(context)
    parts: dict[str, Part] = {}
    for i, (name, question) in enumerate(QUESTIONS.items()):
        context.tell((i + 1) / (len(QUESTIONS) + 1), name)
        parts[name] = question(s)
    numbers = {name: part.numbers for name, part in parts.items()}
    front_plot(numbers["front"]["lines"], numbers["contest"]["runs"], context.seed, context.folder / FRONT)
    optimal_steps(numbers["contest"]["optimum"], context.folder / OPTIMA)
    growth_plot(numbers["growth"]["measured"], context.folder / GROWTH)
    chapter = Chapter(
        name="schedules",
        title="Offline search for schedules",
        text=(OBJECTIVE, *(line for part in parts.values() for line in part.text)),
        tables=tuple(table for part in parts.values() for table in part.tables),
        figures=tuple(CAPTIONS.items()),
        numbers=numbers,
    )
    return finished(chapter, claims)


def claims(numbers: dict[str, Any]) -> tuple[Claim, ...]:
    """Verdicts, question by question."""
    return tuple(claim for name, rule in RULES.items() for claim in rule(numbers[name]))
