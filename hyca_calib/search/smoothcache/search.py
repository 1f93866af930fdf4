"""Plans of SmoothCache: under a budget, or by a schedule that was made elsewhere."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from hyca_calib.costs.budget import Budget
from hyca_calib.search.assemble import origin
from hyca_calib.search.outcome import NOT_SEARCHED, judged, write_outcome
from hyca_calib.search.problem import Problem
from hyca_calib.search.smoothcache.calibration import SAMPLES, Changes
from hyca_calib.search.smoothcache.layers import Layers, kinds_of, measure_layers
from hyca_calib.search.smoothcache.rule import Reach, Runs, choose_runs
from hyca_calib.search.smoothcache.schedule_file import points_of, read_schedule
from hyca_calib.search.smoothcache.section import counted_layers, layered_section
from hyca_calib.search.sources import SMOOTHCACHE, SOURCES
from hyca_calib.search.study import StudyFolder
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.plan import Plan
from hyca_runtime.solvers import Hold


def reach_of(problem: Problem, lookahead: int) -> Reach:
    """How far reuse goes on the runs of a trace."""
    return Reach(problem.trace.num_steps, lookahead, problem.trace.attributes.first_computed)


def kind_layers(pipe: Any, problem: Problem) -> Layers:
    """The layers of the traced network by kind.

    Raises:
        AttachError: it has none.
    """
    return measure_layers(pipe, problem, kinds_of(_module(pipe, problem)))


def scheduled_layers(pipe: Any, problem: Problem, file: Path) -> tuple[Layers, Runs]:
    """The layers that a schedule file names, and the steps on which they run.

    Raises:
        PlanError: the file cannot be read, or is for other steps.
        AttachError: the network has no such layers.
    """
    points, runs = points_of(read_schedule(file, problem.trace.num_steps), _module(pipe, problem))
    return counted_layers(pipe, problem, points, runs)


def search_smoothcache(
    pipe: Any, problem: Problem, budget: Budget, study: StudyFolder, layers: Layers, changes: Changes, reach: Reach
) -> Plan:
    """The plan of the threshold that spends most of `budget`, written with its account into `study`.

    Raises:
        BudgetError: it cannot be met.
    """
    threshold, runs = choose_runs(changes, budget, layers, reach)
    samples = min(SAMPLES, len(problem.workload.of("fit")))
    settings = {"threshold": threshold, "lookahead": reach.lookahead, "samples": samples}
    return write_scheduled(pipe, problem, budget, study, layers, runs, settings)


def write_scheduled(
    pipe: Any,
    problem: Problem,
    budget: Budget,
    study: StudyFolder,
    layers: Layers,
    runs: Runs,
    settings: dict[str, Any],
    preset: str = SMOOTHCACHE,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> Plan:
    """The plan whose layers run on some steps, written with its account into `study`.

    Args:
        settings: what the steps come from.
        more: that the plan says of its origin.
    """
    section = judged(pipe, problem, layered_section(problem, layers, runs))
    account = {
        **NOT_SEARCHED,
        "preset": preset,
        "source": SOURCES[preset],
        "settings": settings,
        "computed": list(section.schedule.computed_steps),
        "groups": [{"size": forecast.num_channels, "solver": Hold.name} for forecast in section.points.values()],
    }
    told = {**origin(problem), "settings": settings, **more}
    return write_outcome(pipe, study, problem, section, budget, preset, told, account)


def _module(pipe: Any, problem: Problem) -> nn.Module:
    return find_transformer(pipe, problem.trace.attributes.model.component)
