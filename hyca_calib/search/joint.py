"""Rows for each guidance branch, over its own past, the other branches', and a constant.

Branches see one latent, so the past of one tells of the other; a constant takes up what all samples share. Each row is
fitted to its branch by least squares on the joint Gram matrix, drawn by the ridge towards the row that all branches
share. Regressors are taken in units of their own size.
"""

import numpy as np

from hyca_calib.search.action_costs import action_bits, action_flops
from hyca_calib.search.options import Sources
from hyca_calib.search.problem import Problem
from hyca_calib.search.replay import Array, in_own_units
from hyca_calib.search.rows import plan_taps, rows_of, with_forecasts, with_taps
from hyca_calib.search.settings import Settings
from hyca_calib.search.taps import fit_rows
from hyca_runtime.forecast import Source
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.solvers import Fitted


def joint_section(problem: Problem, settings: Settings, section: NetworkPlan) -> NetworkPlan:
    """`section`, which forecasts all guidance branches alike, with rows for each over the past of all."""
    begun, shared = _with_sources(problem, section, settings.sources), plan_taps(section)
    rows, place = rows_of(begun), {row.step: i for i, row in enumerate(rows_of(section))}
    table = np.zeros((len(rows), max(len(row.regressors) for row in rows), shared.shape[2]))
    gram, places = problem.regressions(begun)
    for i, (row, (history, target)) in enumerate(zip(rows, places, strict=True)):
        prior = np.zeros((len(history), shared.shape[2]))
        prior[: row.own] = shared[place[row.step], : row.own]
        table[i, : len(history)] = _fitted(gram, history, target, settings.ridge, prior)
    return with_taps(begun, table)


def _with_sources(problem: Problem, section: NetworkPlan, kind: Sources) -> NetworkPlan:
    """`section` with its own rows for each branch and sources of no weight beside them."""
    branches, read = problem.trace.branches, 1 if kind == "constant" else len(problem.trace.branches)
    taps = {name: section.depth(name) * read for name in section.points}
    flops = action_flops(problem, section.schedule, taps)
    bits = action_bits(problem, section.schedule, flops)
    told = {"stacked": problem.trace.stacked, "action_flops": flops, "action_bits": bits}
    forecasts = {}
    for name, forecast in section.points.items():
        steps = section.schedule.steps_of(name)
        weightless = Fitted(steps, np.zeros((len(steps), section.depth(name), 1))).spec()
        constant = (Source(solver=Fitted(steps, np.zeros((len(steps), 1, 1))).spec()),) if kind != "branches" else ()
        sources = {}
        for branch in branches:
            others = [other for other in branches if other != branch] if kind != "constant" else []
            sources[branch] = (*(Source(branch=other, solver=weightless) for other in others), *constant)
        groups = {**forecast.groups, **dict.fromkeys(branches, forecast.groups_of())}
        forecasts[name] = forecast.model_copy(update={"groups": groups, "sources": sources})
    return with_forecasts(section.model_copy(update=told), forecasts)


def _fitted(gram: Array, history: list[int], target: int, ridge: float, prior: Array) -> Array:
    """Weights ``(regressor, channel)`` of one row."""
    picked = [*history, target]
    alike, size = in_own_units(gram[:, picked][:, :, picked])
    units = size[:, :-1] / size[:, -1:]  # (channel, regressor)
    steps = np.arange(len(history))
    found = fit_rows(alike, steps, [len(history)], ridge, (prior.T * units)[..., None])
    return np.asarray((found[..., 0] / units).T)
