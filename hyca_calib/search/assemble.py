"""From a candidate to a section of a plan, and from that to tables of taps and back."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyca_calib.clusters.stability import labels_of
from hyca_calib.records.provenance import versions
from hyca_calib.search.action_costs import action_bits, action_flops
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.error_feedback import with_feedback
from hyca_calib.search.joint import joint_section
from hyca_calib.search.point_solvers import PointSolvers
from hyca_calib.search.precision.variants import used_variants
from hyca_calib.search.problem import Problem
from hyca_calib.search.replay import Array
from hyca_calib.search.rows import Row, plan_taps, rows_of, with_forecasts, with_taps
from hyca_calib.search.settings import Settings
from hyca_calib.search.taps import fit_rows
from hyca_runtime.forecast import Forecast
from hyca_runtime.group import DimensionGroup, encode_channels
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan_facts import ModelFingerprint, TimeGrid
from hyca_runtime.policies import PolicySpec
from hyca_runtime.schedule import EVERY, Schedule
from hyca_runtime.solvers import Fitted, Solver

Grouped = tuple[NDArray[np.int64], Solver, Solver]
"""Channels of a group, their solver, and their closed form."""


def build_section(candidate: Candidate) -> NetworkPlan:
    """The section of `candidate`, unrefined: per group the best solver on replay, then a row for every channel
    unless the settings say otherwise."""
    settings, schedule = candidate.settings, candidate.schedule
    problem = candidate.problem.under(schedule)
    groups = {part: list(_grouped(found)) for part, found in candidate.parts.items()}
    section = assemble_section(problem, schedule, settings.axis, groups)
    if settings.taps == "group" or not schedule.predicted_steps:
        return section
    section = with_taps(section, channel_taps(problem, settings, section))
    if settings.sources != "own":
        section = joint_section(problem, settings, section)
    if settings.repay:
        section = repaid(problem, section, settings.repay)
    return inherited(problem, section, problem.earlier) if settings.inherit and problem.earlier is not None else section


def inherited(problem: Problem, section: NetworkPlan, earlier: NetworkPlan) -> NetworkPlan:
    """`section` with an earlier one's rows, wherever both forecast the same from the same; under the same schedule with
    all that it forecasts by."""
    if section.schedule == earlier.schedule:
        return _kept(problem, section, earlier)
    known = {_place(row): taps for row, taps in zip(rows_of(earlier), plan_taps(earlier), strict=True)}
    table = plan_taps(section)
    for taps, row in zip(table, rows_of(section), strict=True):
        if (found := known.get(_place(row))) is not None:
            taps[: len(row.regressors)] = found[: len(row.regressors)]
    return with_taps(section, table)


def _kept(problem: Problem, section: NetworkPlan, earlier: NetworkPlan) -> NetworkPlan:
    """All that an earlier section forecasts by, at the costs of the trace."""
    rows = rows_of(earlier)
    taps = {name: max(len(row.regressors) for row in rows if row.point == name) for name in section.points}
    flops = action_flops(problem, section.schedule, taps)
    bits = action_bits(problem, section.schedule, flops)
    told = {"stacked": earlier.stacked, "action_flops": flops, "action_bits": bits}
    sizes = {name: {"numel": forecast.numel} for name, forecast in section.points.items()}
    kept = {name: earlier.points[name].model_copy(update=size) for name, size in sizes.items()}
    return with_forecasts(section.model_copy(update=told), kept)


def _place(row: Row) -> Any:
    return row.point, row.branch, row.step, row.regressors


def repaid(problem: Problem, section: NetworkPlan, share: float) -> NetworkPlan:
    """`section` with rows that take a share of the error of earlier gaps back, see `with_feedback`."""
    gram, places = problem.regressions(section)
    guidance = {EVERY: 1.0, **dict(zip(problem.trace.branches, problem.trace.guidance, strict=False))}
    rows, taps = rows_of(section), plan_taps(section)
    for branch in section.schedule.apart:  # branches whose gaps begin on different steps repay their own errors
        own = [i for i, row in enumerate(rows) if branch in (EVERY, row.branch)]
        chosen, at = [rows[i] for i in own], tuple(places[i] for i in own)
        taps[own] = with_feedback(taps[own], chosen, at, gram, problem.step_weights, share, guidance)
    return with_taps(section, taps)


def group_labels(section: NetworkPlan) -> NDArray[np.int64]:
    """The group of each channel, ``(channel,)``; they are the same at all points."""
    forecast = next(iter(section.points.values()))
    return labels_of([group.indices for group in forecast.groups_of()], forecast.num_channels)


def with_groups(section: NetworkPlan, groups: Sequence[DimensionGroup]) -> NetworkPlan:
    """`section` with other groups at its only point, for all branches."""
    forecast = section.forecast.model_copy(update={"groups": {EVERY: tuple(groups)}})
    return with_forecasts(section, {section.only: forecast})


def channel_taps(problem: Problem, settings: Settings, section: NetworkPlan) -> Array:
    """One row for every channel, drawn by the ridge towards its group's: ``(predicted step, depth, channel)``."""
    table, places = plan_taps(section), section.places
    for i, row in enumerate(rows_of(section)):
        history, alone = section.taps(row.point, row.branch)[row.step].history, problem.at(places[row.point])
        prior = table[i, : len(history)].T[..., None]
        rows = fit_rows(alone.of(row.branch).fit, history, [row.step], settings.ridge, prior)
        table[i, : len(history)] = rows[..., 0].T
    return table


def assemble_section(
    problem: Problem, schedule: Schedule, axis: str, groups: Mapping[tuple[str, str], Sequence[Grouped]]
) -> NetworkPlan:
    """A section with the trace's fingerprints and costs.

    Args:
        groups: by the name of the point and the guidance branch, perhaps `EVERY`.
    """
    made: dict[str, dict[str, tuple[DimensionGroup, ...]]] = {}
    depths = dict[str, int]()
    for (name, branch), of in groups.items():
        found = made.setdefault(name, {EVERY: tuple(map(_group, range(len(of)), of))})
        found[branch] = tuple(map(_group, range(len(of)), of))
        depths[name] = max(depths.get(name, 0), *(solver.depth for _, solver, _ in of))
    forecasts = {
        name: Forecast(
            at=problem.named[name],
            num_channels=problem.trace.num_channels,
            groups=of_branches,
            numel=problem.at(problem.named[name]).trace.cost.feature_numel,
        )
        for name, of_branches in made.items()
    }
    section = section_of(problem, axis, forecasts, schedule, action_flops(problem, schedule, depths))
    return section if schedule.apart == (EVERY,) else section.model_copy(update={"stacked": problem.trace.stacked})


def section_of(
    problem: Problem,
    axis: str,
    points: Mapping[str, Forecast],
    schedule: Schedule,
    action_flops: tuple[float, ...],
    policy: PolicySpec | None = None,
) -> NetworkPlan:
    """A section for the network and the time grid of a trace."""
    traced, chunks = problem.trace.attributes, problem.trace.attributes.chunks
    digest = (chunks or traced.model).config_digest
    return NetworkPlan(
        component=traced.model.component,
        model=ModelFingerprint(transformer=traced.model.transformer, config_digest=digest),
        grid=TimeGrid(
            scheduler=traced.model.scheduler,
            timesteps=tuple(problem.trace.timesteps.tolist()),
            scheduler_timesteps=tuple(traced.scheduler_timesteps) or None,
            axis=problem.axis(axis),
            axis_times=tuple(problem.times(axis).tolist()),
        ),
        points=dict(points),
        schedule=schedule,
        policy=policy,
        variants=used_variants(problem.variants, schedule),
        action_flops=action_flops,
        action_bits=action_bits(problem, schedule, action_flops),
        chunks=problem.chunking,
        from_chunk=None if chunks is None else chunks.from_chunk,
    )


def _grouped(found: PointSolvers) -> Iterator[Grouped]:
    yield from zip(found.groups, found.solvers, found.closed_forms, strict=True)


def _group(number: int, told: Grouped) -> DimensionGroup:
    channels, solver, closed = told
    return DimensionGroup(
        name=f"group {number}",
        channels=encode_channels(channels.tolist()),
        solver=solver.spec(),
        fallback=closed.spec() if isinstance(solver, Fitted) else None,
    )


def provenance(candidate: Candidate) -> dict[str, Any]:
    """Where a plan of a search comes from."""
    return {
        **origin(candidate.problem),
        "settings": asdict(candidate.settings),
        "replayed_cost": candidate.cost,
        "healing": [round(share, 4) for share in candidate.problem.damping],
    }


def origin(problem: Problem) -> dict[str, Any]:
    """Where any plan for a problem comes from."""
    trace = problem.trace
    told = trace.attributes.model_dump(include={"model", "workload"})
    return {**told, "trace": trace.where, "versions": versions()}
