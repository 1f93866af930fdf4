"""PackCache, arXiv 2601.04359: of the keys and values of finished chunks the fewer are kept the further back they are.

Nothing is forecast. A budget is one of keys and values: of 4x as many are kept as a fourth of a clip's chunks has, the
first chunk, which is kept whole, among them. It is of memory and of attention, and saves no steps.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.rollout import followed, sample_latents
from hyca_calib.search.assemble import origin, section_of
from hyca_calib.search.outcome import NOT_SEARCHED, agreeing, write_outcome
from hyca_calib.search.problem import Problem
from hyca_calib.search.rollout_error import rollout_psnr
from hyca_calib.search.sources import PACKCACHE, SOURCES
from hyca_calib.search.study import StudyFolder
from hyca_runtime.errors import BudgetError, TraceError
from hyca_runtime.forecast import Forecast
from hyca_runtime.group import DimensionGroup, encode_channels
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan import Plan
from hyca_runtime.schedule import EVERY, FEATURE, Schedule
from hyca_runtime.solvers import Hold
from hyca_runtime.streaming.decay import DecayMeter, fitted_decay
from hyca_runtime.streaming.retention import All, Packed, Retention
from hyca_runtime.streaming.shares import decaying_shares

WINDOWS = (2, 4, 8)
"""Chunks furthest back that keep any, of which the best is taken; W is not published."""
SAMPLES = 4
"""Full runs in which attention to the past is measured."""


def kept_chunks(problem: Problem, budget: Budget) -> float:
    """How many chunks of keys and values a budget leaves beside the first.

    Raises:
        TraceError: the trace is not of all chunks of a video.
        BudgetError: it leaves none, or is not a speed-up or a share.
    """
    chunks = problem.trace.attributes.chunks
    if chunks is None or chunks.which != "all":
        raise TraceError(f"packcache is for videos in chunks, {problem.trace.name} is not of all chunks of one")
    left = -1.0 if budget.share is None else chunks.clip * budget.share - 1
    if left <= 0:
        raise BudgetError(
            f"budget {budget.text!r} cannot be met by packcache: expected a share or a ratio below {chunks.clip}x, for "
            f"the first of {chunks.clip} chunks is kept whole"
        )
    return left


def keeping(problem: Problem, retention: Retention) -> NetworkPlan:
    """The section that computes every step, and keeps so much."""
    trace = problem.trace
    whole = DimensionGroup(name="all", channels=encode_channels(range(trace.num_channels)), solver=Hold().spec())
    point = Forecast(
        at=trace.point, num_channels=trace.num_channels, groups={EVERY: (whole,)}, numel=trace.cost.feature_numel
    )
    schedule = Schedule.from_steps(trace.num_steps, range(trace.num_steps))
    flops = trace.cost.full_flops, trace.cost.predicted_flops(1)
    return section_of(replace(problem, keys=retention.spec()), "step", {FEATURE: point}, schedule, flops)


def measured_decay(pipe: Any, problem: Problem) -> float:
    """How attention falls from chunk to chunk of the past, in full runs of the fit split, over all layers."""
    meter, jobs = DecayMeter(), problem.workload.of("fit")[:SAMPLES]
    with followed(pipe, Plan(name="full", sections=(keeping(problem, All()),))) as session:
        session.observe(meter)
        sample_latents(pipe, jobs, problem.workload.num_steps, 1)
    return fitted_decay([row[1:] for rows in meter.shares.values() for row in rows])


def search_packcache(pipe: Any, problem: Problem, budget: Budget, study: StudyFolder) -> Plan:
    """The plan that agrees best on *select* of the published shares and measured ones, written into `study`."""
    decay, samples = measured_decay(pipe, problem), problem.samples("select")
    tried = [(way, rollout_psnr(pipe, keeping(problem, way), samples)) for way in _ways(problem, budget, decay)]
    best, psnr = max(tried, key=lambda one: one[1])
    account = {
        **NOT_SEARCHED,
        "preset": PACKCACHE,
        "source": SOURCES[PACKCACHE],
        "decay": decay,
        "groups": [],
        "settings": best.spec().configuration,
        "contenders": [{**way.spec().configuration, "psnr_db": found} for way, found in tried],
    }
    section = agreeing(keeping(problem, best), psnr, len(samples.jobs))
    told = {**origin(problem), "settings": best.spec().configuration}
    return write_outcome(pipe, study, problem, section, budget, PACKCACHE, told, account)


def _ways(problem: Problem, budget: Budget, decay: float) -> Iterator[Packed]:
    left = kept_chunks(problem, budget)
    for window in WINDOWS:
        yield Packed(left, window)
        yield Packed(left, window, shares=decaying_shares(min(decay, 1.0), window))
