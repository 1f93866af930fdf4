"""A curve of computed steps, and a closed form, from plans that were searched."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from hyca_runtime import load_plan
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.solvers import ClosedFormSolver, Exponential, Newton

BENCH = Path(__file__).parents[1] / "bench"
TENTHS = 11
CLOSED_FORMS: tuple[ClosedFormSolver, ...] = (Newton(1), Exponential(-0.5))
"""The two that plans of all embedded models name most; which is better is measured."""


def published(models: Iterable[str]) -> list[NetworkPlan]:
    """The sections of all published plans of these models."""
    return [load_plan(path).section for model in models for path in sorted((BENCH / model).glob("*.plan.json"))]


def learnt_curve(sections: Sequence[NetworkPlan]) -> tuple[float, ...]:
    """How far a run has come when so many tenths of its computed steps are behind it, the mean over plans."""
    tenths, found = np.linspace(0, 1, TENTHS), []
    for section in sections:
        steps = np.asarray(section.schedule.computed_steps) / (section.schedule.num_steps - 1)
        found.append(np.interp(tenths, np.linspace(0, 1, len(steps)), steps))
    return tuple(round(float(x), 3) for x in np.mean(found, axis=0))


def better_form(agreement_db: Mapping[tuple[str, str], Sequence[float]], models: Iterable[str]) -> ClosedFormSolver:
    """The closed form with the best mean agreement over some models.

    Args:
        agreement_db: of each closed form's name and each model, over budgets.
    """
    known = list(models)

    def mean(solver: ClosedFormSolver) -> float:
        return statistics.fmean(db for model in known for db in agreement_db[solver.name, model])

    return max(CLOSED_FORMS, key=mean)
