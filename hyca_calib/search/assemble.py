"""From a candidate to a plan, and from a plan to tables of taps and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyca_calib.provenance import versions
from hyca_calib.search.candidate import Candidate, choose_solvers, partition
from hyca_calib.search.problem import Problem
from hyca_calib.search.taps import fit_rows
from hyca_runtime.group import DimensionGroup, encode_channels
from hyca_runtime.plan import Cost, ModelFingerprint, Plan, Sampler
from hyca_runtime.solvers import Fitted, Solver

__all__ = ["build_plan", "channel_taps", "group_labels", "plan_taps", "with_taps"]

Array = NDArray[np.float64]


def build_plan(problem: Problem, candidate: Candidate, name: str, seed: int) -> Plan:
    """The plan of `candidate`, unrefined: per group the best solver on replay."""
    groups = partition(problem, candidate.settings, seed)
    solvers, _ = choose_solvers(problem, candidate.settings, candidate.schedule, groups)
    return _assemble(problem, candidate, name, list(zip(groups, solvers, strict=True)))


def plan_taps(plan: Plan) -> Array:
    """The plan's weights ``(predicted step, depth, channel)``, short histories padded with zeros."""
    steps = plan.schedule.predicted_steps
    table = np.zeros((len(steps), plan.depth, plan.model.num_channels))
    for i, step in enumerate(steps):
        table[i, : len(plan.taps[step].history)] = plan.taps[step].weights
    return table


def group_labels(plan: Plan) -> NDArray[np.int64]:
    """The group of each channel, ``(channel,)``."""
    labels = np.zeros(plan.model.num_channels, dtype=np.int64)
    for i, group in enumerate(plan.groups):
        labels[group.indices] = i
    return labels


def with_taps(plan: Plan, taps: Array, provenance: dict[str, Any]) -> Plan:
    """`plan` with the weights ``(predicted step, depth, channel)``; a group whose channels all share
    one row keeps one row."""
    steps, groups = plan.schedule.predicted_steps, []
    for group in plan.groups:
        rows = taps[:, :, group.indices]
        shared = bool((rows == rows[:, :, :1]).all())
        solver = Fitted(steps, rows[:, :, :1] if shared else rows)
        groups.append(group.model_copy(update={"solver": solver.spec()}))
    parts = {name: getattr(plan, name) for name in Plan.model_fields}
    return Plan(**{**parts, "groups": tuple(groups), "provenance": plan.provenance | provenance})


def channel_taps(problem: Problem, candidate: Candidate, plan: Plan) -> Array:
    """One row for every channel, drawn by the ridge towards its group's: ``(predicted step, depth, channel)``."""
    times = problem.times(candidate.settings.axis)
    table = plan_taps(plan)
    for i, step in enumerate(candidate.schedule.predicted_steps):
        history = plan.taps[step].history
        prior = table[i, : len(history)].T[..., None]
        rows = fit_rows(problem.fit, times, history, [step], candidate.settings.ridge, prior)
        table[i, : len(history)] = rows[..., 0].T
    return table


def _assemble(
    problem: Problem, candidate: Candidate, name: str, groups: Sequence[tuple[NDArray[np.int64], Solver]]
) -> Plan:
    """A plan from groups and solvers, with the trace's fingerprints and costs."""
    trace, schedule = problem.trace, candidate.schedule
    facts, depth = trace.attributes, max(solver.depth for _, solver in groups)
    light = trace.cost.predicted_flops(depth)
    return Plan(
        name=name,
        model=ModelFingerprint(
            transformer=facts["model"]["transformer"],
            config_digest=facts["model"]["config_digest"],
            num_channels=trace.num_channels,
        ),
        sampler=Sampler(
            scheduler=facts["model"]["scheduler"],
            timesteps=tuple(trace.timesteps.tolist()),
            axis=candidate.settings.axis,
            axis_times=tuple(problem.times(candidate.settings.axis).tolist()),
        ),
        point=trace.point,
        schedule=schedule,
        groups=tuple(
            DimensionGroup(name=f"group {i}", channels=encode_channels(channels.tolist()), solver=solver.spec())
            for i, (channels, solver) in enumerate(groups)
        ),
        cost=Cost(
            full_step_flops=trace.cost.full_flops,
            predicted_step_flops=light,
            flops_ratio=trace.cost.flops_ratio(schedule.num_steps, len(schedule.computed_steps), depth),
        ),
        provenance=_provenance(problem, candidate),
    )


def _provenance(problem: Problem, candidate: Candidate) -> dict[str, Any]:
    facts = problem.trace.attributes
    return {
        "model": facts["model"],
        "workload": facts["workload"],
        "trace": str(problem.trace.path),
        "settings": asdict(candidate.settings),
        "replayed_cost": candidate.cost,
        "versions": versions(),
    }
