"""Offline search for schedules: what is optimal, what it costs to know, and how that grows."""

from __future__ import annotations

from typing import Any

from studies.paper.chapter import Chapter, Claim, Context, Question, answered, verdicts
from studies.paper.planning import comparison, front
from studies.paper.planning.figures import front_plot, growth_plot, optimal_steps
from studies.paper.planning.full_size import full_size
from studies.paper.planning.growth import growth
from studies.paper.planning.instance import Instance, instance
from studies.paper.planning.throughput import throughput

QUESTIONS: dict[str, Question[Instance]] = {
    "contest": (comparison.comparison, comparison.claims),
    "front": (front.front, front.claims),
    "throughput": (throughput, None),
    "growth": (growth, None),
    "full_size": (full_size, None),
}
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
    "squared norms of the gaps are summed (`hyca_calib/search/replay.py`). Taps are fitted on the fit split for each "
    "group of channels and judged on the select split; rivals get the same taps. Costs are squared errors, tenfold is "
    "10 dB, and they are replayed: no cost sees that later computed steps meet a changed latent."
)


def schedules(context: Context) -> Chapter:
    """The chapter; all but the measured times follows from the context's seed."""
    title, figures = "Offline search for schedules", tuple(CAPTIONS.items())
    empty = Chapter(name="schedules", title=title, text=(OBJECTIVE,), figures=figures)
    return answered(context, empty, instance, QUESTIONS, _draw)


def claims(numbers: dict[str, Any]) -> tuple[Claim, ...]:
    """Verdicts, question by question."""
    return verdicts(QUESTIONS, numbers)


def _draw(context: Context, s: Instance, numbers: dict[str, Any]) -> None:
    front_plot(numbers["front"]["lines"], numbers["contest"]["runs"], s.seed, context.folder / FRONT)
    optimal_steps(numbers["contest"]["optimum"], context.folder / OPTIMA)
    growth_plot(numbers["growth"]["measured"], context.folder / GROWTH)
