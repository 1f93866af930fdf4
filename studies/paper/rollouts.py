"""Sampling, traces and searched plans: one way for all chapters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.workload import Job, Split, Workload
from hyca_calib.quality.metrics import prompt_groups
from hyca_calib.search import rollout_error as rolled
from hyca_calib.search.assemble import build_section
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.error_damping import carried_over
from hyca_calib.search.problem import Problem
from hyca_calib.search.refine import to_db
from hyca_calib.search.run import Contender, SearchOptions, search
from hyca_calib.search.study import Study
from hyca_calib.trace.run import trace
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan, load_plan
from hyca_runtime.plan import NetworkPlan
from hyca_runtime.point import CachePoint
from studies.paper.chapter import Context
from studies.paper.replay_setup import Array


@dataclass(frozen=True)
class Samples:
    """Jobs, and the final latents of their full runs ``(job, ...)``."""

    jobs: tuple[Job, ...]
    latents: Tensor

    def first(self, count: int) -> Samples:
        return Samples(self.jobs[:count], self.latents[:count])

    @property
    def prompts(self) -> tuple[int, ...]:
        """A label of each sample, its prompt's."""
        return prompt_groups(self.jobs)


def samples_of(problem: Problem, workload: Workload, split: Split) -> Samples:
    """A split of a traced workload."""
    return Samples(workload.of(split), torch.from_numpy(problem.trace.latents_of(split)))


def log_errors(pipe: Any, section: NetworkPlan, samples: Samples, num_steps: int) -> Array:
    """Log squared error of each sample's final latent under `section`, ``(job,)``."""
    return rolled.log_errors(pipe, section, samples.jobs, samples.latents, num_steps).numpy()


def psnr_db(pipe: Any, section: NetworkPlan, samples: Samples, num_steps: int) -> list[float]:
    """PSNR in dB of each sample's final latent under `section`."""
    return [to_db(error) for error in log_errors(pipe, section, samples, num_steps)]


def fitted_psnr_db(context: Context, candidate: Candidate, samples: Samples) -> list[float]:
    """PSNR in dB of each sample's final latent under a candidate with fitted taps."""
    section = build_section(context.problem, candidate, context.seed)
    return psnr_db(context.pipe, section, samples, context.problem.inference_steps)


def traced(context: Context, pipe: Any, workload: Workload, point: CachePoint, path: Path, batch: int) -> Problem:
    """Another trace, of Gram matrices; errors heal in it as they do in the context's."""
    trace(pipe, workload, point, path, model_name=context.model, batch=batch, tokens=1)
    return carried_over(context.problem.healing, Problem(Trace(path)))


def searched(
    pipe: Any, contender: Contender, workload: Workload, budget: Budget, study: Study, options: SearchOptions
) -> Plan:
    """The best of some candidates, refined; gone on with where the study's folder has it."""
    if not study.complete:
        search(pipe, [contender], workload, budget, study, options)
    return load_plan(study.plan)
