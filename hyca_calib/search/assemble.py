"""From a candidate to a section of a plan, and from that to tables of taps and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyca_calib.records.provenance import versions
from hyca_calib.search.candidate import Candidate, best_closed, choose_solvers, partition
from hyca_calib.search.error_feedback import repaying
from hyca_calib.search.problem import Problem
from hyca_calib.search.taps import fit_rows
from hyca_runtime.group import DimensionGroup, encode_channels
from hyca_runtime.plan import Cost, ModelFingerprint, NetworkPlan, TimeGrid
from hyca_runtime.solvers import Fitted, Solver

__all__ = ["assemble_section", "build_section", "channel_taps", "group_labels", "plan_taps", "provenance", "with_taps"]

Array = NDArray[np.float64]


def build_section(problem: Problem, candidate: Candidate, seed: int) -> NetworkPlan:
    """The section of `candidate`, unrefined: per group the best solver on replay, then a row for every channel
    unless the settings say otherwise."""
    groups = partition(problem, candidate.settings, seed)
    solvers, table = choose_solvers(problem, candidate.settings, candidate.schedule, groups)
    section = assemble_section(
        problem, candidate, list(zip(groups, solvers, best_closed(table, len(groups)), strict=True))
    )
    if candidate.settings.taps == "group" or not candidate.schedule.predicted_steps:
        return section
    return with_taps(section, channel_taps(problem, candidate, section))


def plan_taps(section: NetworkPlan) -> Array:
    """The section's weights ``(predicted step, depth, channel)``, short histories padded with zeros."""
    steps = section.schedule.predicted_steps
    table = np.zeros((len(steps), section.depth, section.model.num_channels))
    for i, step in enumerate(steps):
        table[i, : len(section.taps[step].history)] = section.taps[step].weights
    return table


def group_labels(section: NetworkPlan) -> NDArray[np.int64]:
    """The group of each channel, ``(channel,)``."""
    labels = np.zeros(section.model.num_channels, dtype=np.int64)
    for i, group in enumerate(section.groups):
        labels[group.indices] = i
    return labels


def with_taps(section: NetworkPlan, taps: Array) -> NetworkPlan:
    """`section` with the weights ``(predicted step, depth, channel)``; a group whose channels all share
    one row keeps one row."""
    steps, groups = section.schedule.predicted_steps, []
    for group in section.groups:
        rows = taps[:, :, group.indices]
        shared = bool((rows == rows[:, :, :1]).all())
        solver = Fitted(steps, rows[:, :, :1] if shared else rows)
        groups.append(group.model_copy(update={"solver": solver.spec(), "fallback": group.closed_form}))
    parts = {name: getattr(section, name) for name in NetworkPlan.model_fields}
    return NetworkPlan(**{**parts, "groups": tuple(groups)})


def channel_taps(problem: Problem, candidate: Candidate, section: NetworkPlan) -> Array:
    """One row for every channel, drawn by the ridge towards its group's: ``(predicted step, depth, channel)``."""
    table = plan_taps(section)
    for i, step in enumerate(candidate.schedule.predicted_steps):
        history = section.taps[step].history
        prior = table[i, : len(history)].T[..., None]
        rows = fit_rows(problem.fit, history, [step], candidate.settings.ridge, prior)
        table[i, : len(history)] = rows[..., 0].T
    if not candidate.settings.repay:
        return table
    return repaying(table, candidate.schedule, problem.fit, problem.step_weights, candidate.settings.repay)


def assemble_section(
    problem: Problem, candidate: Candidate, groups: Sequence[tuple[NDArray[np.int64], Solver, Solver]]
) -> NetworkPlan:
    """A section from groups with their solvers and closed forms, with the trace's fingerprints and costs."""
    trace, schedule = problem.trace, candidate.schedule
    traced, depth = trace.attributes, max(solver.depth for _, solver, _ in groups)
    light = trace.cost.predicted_flops(depth)
    return NetworkPlan(
        component=traced.model.component,
        model=ModelFingerprint(
            transformer=traced.model.transformer,
            config_digest=traced.model.config_digest,
            num_channels=trace.num_channels,
        ),
        sampler=TimeGrid(
            scheduler=traced.model.scheduler,
            timesteps=tuple(trace.timesteps.tolist()),
            scheduler_timesteps=tuple(traced.scheduler_timesteps) or None,
            axis=candidate.settings.axis,
            axis_times=tuple(problem.times(candidate.settings.axis).tolist()),
        ),
        point=trace.point,
        schedule=schedule,
        groups=tuple(
            DimensionGroup(
                name=f"group {i}",
                channels=encode_channels(channels.tolist()),
                solver=solver.spec(),
                fallback=closed.spec() if isinstance(solver, Fitted) else None,
            )
            for i, (channels, solver, closed) in enumerate(groups)
        ),
        cost=Cost(
            full_step_flops=trace.cost.full_flops,
            predicted_step_flops=light,
            flops_ratio=trace.cost.flops_ratio(schedule.num_steps, len(schedule.computed_steps), depth),
            feature_numel=trace.cost.feature_numel,
        ),
    )


def provenance(problem: Problem, candidate: Candidate) -> dict[str, Any]:
    """Where a plan comes from."""
    return {
        **problem.trace.attributes.model_dump(include={"model", "workload"}),
        "trace": problem.trace.where,
        "settings": asdict(candidate.settings),
        "replayed_cost": candidate.cost,
        "healing": [round(share, 4) for share in problem.healing],
        "versions": versions(),
    }
