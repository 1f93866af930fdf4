"""Plans of published recipes on the test split: agreement and cost of each sample."""

import math
import statistics
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property

import torch

from hyca_calib.bench.isolation import CleanPipeline
from hyca_calib.bench.preset_results import PresetFigures, worst_tenth
from hyca_calib.pipelines.rollout import followed
from hyca_calib.pipelines.workload import Job, batches
from hyca_calib.quality.evaluate import Method, SampledRun, run_untimed
from hyca_calib.quality.run_flops import RunFlops
from hyca_runtime import Plan


@dataclass(frozen=True)
class MeasuredSplit:
    """Samples of the test split, on a pipeline that is proven untouched after every plan.

    Attributes:
        batch: of a call, where a plan does not decide by sample.
    """

    clean: CleanPipeline
    jobs: Sequence[Job]
    num_steps: int
    batch: int

    @cached_property
    def _full(self) -> tuple[SampledRun, tuple[float, ...]]:
        return self._run(nullcontext, self.batch)

    def figures(self, plan: Plan) -> PresetFigures:
        """A plan against the full run of the same samples; each alone where the plan decides by sample.

        Raises:
            RuntimeError: the plan left the pipeline changed.
        """
        (full, dear), pipe = self._full, self.clean.pipe
        run, cheap = self._run(lambda: followed(pipe, plan), 1 if plan.decides_by_sample else self.batch)
        if left := self.clean.prove():
            raise RuntimeError(f"the plan left another {left}")
        each = run.fidelity_to(full).agreement_db
        ratios = tuple(whole / spent for whole, spent in zip(dear, cheap, strict=True))
        return PresetFigures.of(run, full, worst_tenth_db=worst_tenth(each), flops_ratio_each=ratios)

    def _run(self, method: Method, batch: int) -> tuple[SampledRun, tuple[float, ...]]:
        """All samples inside `method`, and the networks' FLOPs of each; those of a call share its cost."""
        groups = list(batches(self.jobs, batch))
        runs = [run_untimed(self.clean.pipe, group, self.num_steps, batch, method) for group in groups]
        each = [run.flops for run, group in zip(runs, groups, strict=True) for _ in group]
        mean = RunFlops(*(statistics.fmean(getattr(one, name) for one in each) for name in ("networks", "steps")))
        images, latents = (torch.cat([getattr(run, name) for run in runs]) for name in ("images", "latents"))
        return SampledRun(images, latents, math.nan, mean), tuple(one.networks for one in each)
