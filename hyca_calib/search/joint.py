r"""Rows over all guidance branches: each branch is forecast from its own past, the others', and a constant.

Branches see one latent and are drawn to one another, so the past of one tells of the other. Each row is fitted to its
branch by least squares on the joint Gram matrix, drawn by the ridge towards the rows that all branches share, which
are fitted to what guidance makes of them. Regressors are taken in units of their own size.
"""

from __future__ import annotations

import numpy as np

from hyca_calib.search.candidate import Settings
from hyca_calib.search.problem import Problem
from hyca_calib.search.replay import Array
from hyca_calib.search.rows import places_of, plan_taps, rows_of, with_forecast, with_taps
from hyca_calib.search.taps import fit_rows
from hyca_runtime.forecast import Source
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.solvers import Fitted

TINY = 1e-30


def joint_section(problem: Problem, settings: Settings, section: NetworkPlan) -> NetworkPlan:
    """`section`, which forecasts all guidance branches alike, with rows for each over the past of all."""
    begun, shared = _with_sources(problem, section), plan_taps(section)
    rows, place = rows_of(begun), {step: i for i, step in enumerate(section.schedule.predicted_steps)}
    table = np.zeros((len(rows), max(len(row.regressors) for row in rows), shared.shape[2]))
    places = places_of(rows, problem.trace.branches, problem.trace.num_steps)
    for i, (row, (history, target)) in enumerate(zip(rows, places, strict=True)):
        prior = np.zeros((len(history), shared.shape[2]))
        prior[: row.own] = shared[place[row.step], : row.own]
        table[i, : len(history)] = _fitted(problem.joint_fit, history, target, settings.ridge, prior)
    return with_taps(begun, table)


def _with_sources(problem: Problem, section: NetworkPlan) -> NetworkPlan:
    """`section` with its own rows for each branch and sources of no weight beside them."""
    branches, forecast, steps = problem.trace.branches, section.forecast, section.schedule.predicted_steps
    nothing = np.zeros((len(steps), section.depth(), 1))
    past, constant = Fitted(steps, nothing).spec(), Fitted(steps, nothing[:, :1]).spec()
    sources = {
        branch: (*(Source(branch=other, solver=past) for other in branches if other != branch), Source(solver=constant))
        for branch in branches
    }
    groups = {**forecast.groups, **dict.fromkeys(branches, forecast.groups_of())}
    flops = tuple(
        problem.trace.cost.full_flops
        if action.computes
        else problem.trace.cost.predicted_flops(section.depth() * len(branches))
        for action in section.schedule.palette
    )
    told = section.model_copy(update={"stacked": problem.trace.stacked, "action_flops": flops})
    return with_forecast(told, forecast.model_copy(update={"groups": groups, "sources": sources}))


def _fitted(gram: Array, history: list[int], target: int, ridge: float, prior: Array) -> Array:
    """Weights ``(regressor, channel)`` of one row."""
    picked = [*history, target]
    among = gram[:, picked][:, :, picked]
    size = np.sqrt(np.maximum(np.einsum("crr->cr", among), TINY))
    units = size[:, :-1] / size[:, -1:]  # (channel, regressor)
    steps = np.arange(len(history))
    found = fit_rows(
        among / (size[:, :, None] * size[:, None]), steps, [len(history)], ridge, (prior.T * units)[..., None]
    )
    return np.asarray((found[..., 0] / units).T)
