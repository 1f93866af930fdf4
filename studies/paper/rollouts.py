"""Sampling, traces and searched plans: one way for all chapters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.workload import Workload
from hyca_calib.search.assemble import build_section
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.check_rollouts import rollout_db
from hyca_calib.search.error_damping import carried_over
from hyca_calib.search.options import SearchOptions
from hyca_calib.search.problem import Problem, Samples
from hyca_calib.search.run import search
from hyca_calib.search.settings import Settings
from hyca_calib.search.study import StudyFolder
from hyca_calib.search.tune import solve
from hyca_calib.trace.run import trace
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan, load_plan
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.point import CachePoint
from studies.paper.chapter import Context

BUDGET = "5x"
"""What every chapter looks at that does not compare budgets."""


def optimum(context: Context, settings: Settings, budget: str = BUDGET, problem: Problem | None = None) -> Candidate:
    """The schedule that is best offline, on the context's problem unless another is given."""
    return solve(problem or context.problem, settings, (Budget.parse(budget),), context.seed)[0]


def psnr_db(pipe: Any, section: NetworkPlan | Candidate, samples: Samples) -> list[float]:
    """PSNR in dB of each sample's final latent to the full run's; of a candidate with fitted taps."""
    section = build_section(section) if isinstance(section, Candidate) else section
    return rollout_db(pipe, section, samples, len(samples.jobs))


def traced(context: Context, pipe: Any, workload: Workload, point: CachePoint, path: Path, batch: int) -> Problem:
    """Another trace, of Gram matrices; errors are damped in it as they are in the context's."""
    trace(pipe, workload, point, path, model_name=context.model, batch=batch, tokens=1)
    return carried_over(context.problem.damping, Problem(Trace(path)))


def searched(
    pipe: Any, candidates: Sequence[Candidate], budget: Budget, study: StudyFolder, options: SearchOptions
) -> Plan:
    """The best of some candidates, refined; gone on with where the study's folder has it."""
    if not study.complete:
        search(pipe, [candidates], budget, study, options)
    return load_plan(study.plan)
