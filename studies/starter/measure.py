"""Starter plans and fixed rules on one embedded model, at equal cost."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from hyca_calib.baselines.cache_dit import DualBlock
from hyca_calib.baselines.caches import taylorseer_family
from hyca_calib.bench.starter import StarterRow
from hyca_calib.costs.same_cost import costs_the_same
from hyca_calib.demo import demo_pipeline, demo_prompts
from hyca_calib.pipelines.rollout import followed
from hyca_calib.pipelines.workload import Job, Workload
from hyca_calib.quality.evaluate import Fidelity, SampledRun, run_untimed
from hyca_runtime.solvers import ClosedFormSolver
from hyca_runtime.starter import starter_plan
from hyca_runtime.starter.rule import learnt_steps

MODELS = {"demo": 6, "demo-class": 6, "demo-video": 2}
"""Samples of each, of different prompts of the test split."""
STEPS, BUDGETS, BATCH = 28, ("2x", "3x", "5x"), 4
STARTER = "starter"
INTERVALS = (2, 4, 8)
THRESHOLDS = (0.08, 0.15, 0.3, 0.6, 1.2)
FEWER = (6, 9, 10, 14)

Apply = Callable[[Any], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Subject:
    """A model with its samples and their full run."""

    model: str
    pipe: Any
    jobs: Sequence[Job]
    full: SampledRun

    @classmethod
    def of(cls, model: str) -> Subject:
        """An embedded model."""
        pipe = demo_pipeline(model)
        pipe.set_progress_bar_config(disable=True)
        jobs = Workload(demo_prompts(model), num_steps=STEPS).of("test")[: MODELS[model]]
        return cls(model, pipe, jobs, run_untimed(pipe, jobs, STEPS, BATCH, nullcontext))

    def row(self, way: str, name: str, apply: Apply, budget: str = "", steps: int = STEPS) -> StarterRow:
        """What one way reaches."""
        run = run_untimed(self.pipe, self.jobs, steps, BATCH, lambda: apply(self.pipe))
        found = Fidelity.of(run, self.full)
        return StarterRow(
            model=self.model,
            way=way,
            name=name,
            budget=budget,
            flops_ratio=found.flops_ratio,
            agreement_db=found.agreement_db_each,
        )

    def starter(self, budget: str, curve: tuple[float, ...], solver: ClosedFormSolver) -> StarterRow:
        """The plan without calibration, by a rule that was learnt elsewhere."""
        rule, call = partial(learnt_steps, curve=curve), dict(self.jobs[0].call)
        plan = starter_plan(self.pipe, STEPS, budget, rule=rule, solver=solver, **call)
        return self.row(STARTER, solver.name, lambda pipe: followed(pipe, plan), budget)

    def fixed_rules(self) -> Iterator[StarterRow]:
        """diffusers' TaylorSeer and cache-dit's DBCache, as they come but for what sets their cost; fewer steps."""
        taylor = taylorseer_family(STEPS)
        for way in ("lite", "last block"):
            for interval in INTERVALS:
                one = taylor.baseline({"way": way, "N": interval, "O": 1, "W": 3})
                yield self.row("TaylorSeer", one.name, one.applied)
        calls_apart = self.model == "demo-video"  # a call for each guidance branch
        cache = DualBlock("", STEPS, calls_apart)
        for warmup in (8, 1):
            for threshold in THRESHOLDS:
                options = {"residual_diff_threshold": threshold, "max_warmup_steps": warmup}
                name = f"DBCache R={threshold:g} W={warmup} F=1 B=0"
                yield self.row("DBCache", name, lambda pipe, own=options: cache.enabled(pipe, {}, own))  # type: ignore[misc]
        for steps in FEWER:
            yield self.row("fewer steps", f"{steps} steps", nullcontext, steps=steps)


def at_equal_cost(rows: Sequence[StarterRow], ours: StarterRow) -> list[StarterRow]:
    """Of each other way the best that costs as much as a plan of ours, which is more than ours rather than less."""
    best: dict[str, StarterRow] = {}
    for row in rows:
        if row.model == ours.model and costs_the_same(1 / row.flops_ratio, 1 / ours.flops_ratio, 1 / STEPS):
            known = best.get(row.way)
            if known is None or mean_db(row) > mean_db(known):
                best[row.way] = row.model_copy(update={"budget": ours.budget})
    return list(best.values())


def mean_db(row: StarterRow) -> float:
    """Mean agreement over the samples."""
    return statistics.fmean(row.agreement_db)
