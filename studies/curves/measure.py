"""One searched plan, refined for so long on so many prompts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.load import load_traced
from hyca_calib.pipelines.workload import Split
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.closed_loop import FULL_RUNS, InTheLoop
from hyca_calib.search.error_damping import with_damping
from hyca_calib.search.fresh_runs import FRESH_RUNS, FreshRuns
from hyca_calib.search.options import Refinement, RolloutLimits, SearchOptions, Tuning
from hyca_calib.search.preconditioner import coordinates
from hyca_calib.search.problem import Problem
from hyca_calib.search.refine import WITH_BACKWARD, refine_taps
from hyca_calib.search.refinement_task import RefinementTask
from hyca_calib.search.rollout_error import raced_psnr
from hyca_calib.search.rows import with_taps
from hyca_calib.search.run import confirmed
from hyca_calib.search.study import JOURNAL, StudyFolder
from hyca_calib.search.tune import tune
from hyca_calib.trace.store import Trace
from hyca_runtime.network_plan import NetworkPlan
from studies.curves.points import CurvePoint

FIT_JUDGED = 12
"""Fit samples that every point is measured on: the least that any is refined on."""
UNLIMITED = 1e6
"""Minutes: iterations and rollouts are counted."""
TUNING = Tuning(timeout=UNLIMITED)


@dataclass(frozen=True)
class Subject:
    """A plan that rollouts chose, before its taps are refined.

    Attributes:
        folder: where refinements are kept, so that an interrupted one goes on.
    """

    pipe: Any
    winner: Candidate
    section: NetworkPlan
    folder: Path

    @classmethod
    def searched(
        cls,
        trace: Trace,
        model: str,
        budget: Budget,
        rollouts: int,
        folder: Path,
        pipe: Any = None,
        tuning: Tuning = TUNING,
    ) -> Subject:
        """The plan of a trace for a budget, found with so many rollouts, always the same.

        Args:
            pipe: the traced pipeline; by default it is loaded.
        """
        pipe = pipe or load_traced(trace.attributes.model, model)
        study = StudyFolder.open(
            folder, {"trace": trace.name, "budget": budget.text, "rollouts": rollouts, "in_loop": True}
        )
        problem = with_damping(pipe, Problem(trace), study.journal)
        candidates = tune(problem, (budget,), tuning, folder / JOURNAL, 0)[budget]
        options = SearchOptions(confirmation=RolloutLimits(UNLIMITED, rollouts=rollouts))
        winner = confirmed(pipe, [candidates], budget, study, options, lambda *told: None)
        section = InTheLoop(pipe, winner.problem, folder / FULL_RUNS).section(winner)
        return cls(pipe, winner, section, folder)

    @property
    def problem(self) -> Problem:
        return self.winner.problem

    def point(self, prompts: int, iterations: int) -> CurvePoint:
        """The plan refined on the first `prompts` fit samples, and on fresh runs where the trace has not as many."""
        settings = Refinement(UNLIMITED, iterations)
        section = self._refined(prompts, settings) if iterations else self.section
        return CurvePoint(
            prompts=prompts,
            iterations=iterations,
            calls=WITH_BACKWARD * iterations * min(settings.batch, prompts) * len(section.schedule.computed_steps),
            fit_db=self._agreement(section, "fit")[:FIT_JUDGED],
            select_db=self._agreement(section, "select"),
            test_db=self._agreement(section, "test"),
        )

    def _refined(self, prompts: int, settings: Refinement) -> NetworkPlan:
        start, expand = coordinates(self.problem, self.section, self.winner.settings.taps)
        fit, select = self.problem.samples("fit")[:prompts], self.problem.samples("select")
        if missing := prompts - len(fit.jobs):
            runs = FreshRuns(missing, self.folder / FRESH_RUNS)
            fit += runs.drawn(self.pipe, self.problem.trace, lambda share: None)
        task = RefinementTask(self.pipe, self.section, start, expand, fit, select)
        state = self.folder / f"{prompts}-{settings.iterations}.safetensors"
        theta, _ = refine_taps(task, settings, state, seed=0)
        return with_taps(self.section, expand(theta).double().numpy())

    def _agreement(self, section: NetworkPlan, split: Split) -> tuple[float, ...]:
        samples = self.problem.samples(split)
        chosen = samples[:FIT_JUDGED] if split == "fit" else samples
        return tuple(raced_psnr(self.pipe, section, chosen, ()))
