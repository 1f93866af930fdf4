"""Plans of Learning-to-Cache: under a budget, or by a released router."""

from collections.abc import Callable
from typing import Any

from hyca_calib.costs.budget import Budget
from hyca_calib.search.learning_to_cache.layers import LISTS, lists_of, shared_points, single_layers
from hyca_calib.search.learning_to_cache.rule import Gated, gated, least_threshold, runs_of
from hyca_calib.search.learning_to_cache.training import Training, train_router
from hyca_calib.search.problem import Problem
from hyca_calib.search.smoothcache.layers import Layers, measure_layers
from hyca_calib.search.smoothcache.rule import Runs
from hyca_calib.search.smoothcache.search import write_scheduled
from hyca_calib.search.smoothcache.section import counted_layers
from hyca_calib.search.sources import LEARNING_TO_CACHE
from hyca_calib.search.study import StudyFolder
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.plan import Plan

ROUTER = "router.safetensors"
"""The state of a training, in its study."""


def routed_layers(pipe: Any, problem: Problem) -> Layers:
    """The traced network's layers one by one, and what steps cost that repeat one of them.

    Raises:
        AttachError: it has none.
    """
    points = single_layers(find_transformer(pipe, problem.trace.attributes.model.component))
    return measure_layers(pipe, problem, points, lambda names: [(name,) for name in names])


def site_of(problem: Problem, layers: Layers, free: bool) -> Gated:
    """What a router decides about on the runs of a trace."""
    return gated(layers, problem.trace.num_steps, problem.trace.attributes.first_computed, free)


def search_learning_to_cache(
    training: Training,
    study: StudyFolder,
    on_progress: Callable[[float, float], None] = lambda share, loss: None,
) -> Plan:
    """The plan of a trained router under the least threshold that meets its budget, written with its account into
    `study`. A second call goes on from an interrupted training.

    Raises:
        BudgetError: it cannot be met.
        AttachError: gradients do not get through the network.
    """
    router, account = train_router(training, study.folder / ROUTER, on_progress)
    threshold = max(0.0, least_threshold(router, training.budget, training.site))
    runs, settings = runs_of(router, threshold, training.site), {"threshold": threshold, **account}
    return write_routed(training.pipe, training.problem, training.budget, study, training.layers, runs, settings)


def write_routed(
    pipe: Any,
    problem: Problem,
    budget: Budget,
    study: StudyFolder,
    layers: Layers,
    runs: Runs,
    settings: dict[str, Any],
) -> Plan:
    """The plan whose single layers run on some steps, written with its account into `study`.

    Args:
        layers: one by one; those that run on the same steps share a point of the plan.
        settings: what the steps come from.
    """
    points, shared = shared_points(runs, layers.points)
    counted, shared = counted_layers(pipe, problem, points, shared)
    lists = {LISTS: lists_of(layers.points)}
    return write_scheduled(pipe, problem, budget, study, counted, shared, settings, LEARNING_TO_CACHE, lists)
