"""A method of acceleration against the model's own full run: agreement, FLOPs, time, memory."""

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from hyca_calib.costs.flops import seconds_of
from hyca_calib.costs.memory import peak_memory
from hyca_calib.pipelines.rollout import followed, runs_on, sample_images
from hyca_calib.pipelines.workload import Job, batches
from hyca_calib.quality.conformal import LEVEL, new_prompt_bound
from hyca_calib.quality.metrics import Measure, SampleFidelity, compare_samples, prompt_groups
from hyca_calib.quality.run_flops import RunFlops, run_flops
from hyca_runtime import Plan, RunReport, Session
from hyca_runtime.compiled_plan import OnMismatch

Method = Callable[[], AbstractContextManager[Any]]
"""Makes the context in which a pipeline samples."""


@dataclass(frozen=True)
class SampledRun:
    """What one way of sampling produced.

    Attributes:
        images, latents: see `sample_images`.
        flops: for one sample.
        seconds: wall time of a sample in a call of as many as asked for, NaN if nobody looked at the clock.
        peak_bytes: most memory at once beyond what was held before, see `peak_memory`; None if nobody looked.
        report: of the session, after the last call; None of a run without a plan.
    """

    images: Tensor
    latents: Tensor
    seconds: float
    flops: RunFlops
    peak_bytes: int | None = None
    report: RunReport | None = None

    def fidelity_to(self, full: Self) -> SampleFidelity:
        """How near it is to the full run of the same samples, one by one."""
        return compare_samples(self.images, full.images, self.latents, full.latents)


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """One method against the model's own full run of the same samples.

    Attributes:
        psnr_db, psnr_db_worst, psnr_db_each: of pictures, see `SampleFidelity`; mean, least, sample by sample; None of
            other samples.
        ssim, ssim_worst: structural similarity of pictures; mean and least.
        signal_to_error_db, signal_to_error_db_worst, signal_to_error_db_each: of any samples; None in files from before
            it was kept.
        latent_error: squared error of the final latent over the full run's squared norm, mean.
        flops_ratio: FLOPs of the networks in the full run over the method's, mean over the samples; above 1 is cheaper.
    """

    psnr_db: float | None
    psnr_db_worst: float | None
    ssim: float | None
    ssim_worst: float | None
    signal_to_error_db: float | None = None
    signal_to_error_db_worst: float | None = None
    latent_error: float
    flops_ratio: float
    psnr_db_each: tuple[float, ...] | None
    signal_to_error_db_each: tuple[float, ...] | None = None

    @property
    def measure(self) -> Measure:
        """What agreement is told as."""
        return "signal-to-error ratio" if self.psnr_db_each is None else "PSNR"

    @property
    def agreement_db_each(self) -> tuple[float, ...]:
        """What the method is judged by, sample by sample."""
        return (self.signal_to_error_db_each if self.psnr_db_each is None else self.psnr_db_each) or ()

    @property
    def agreement_db(self) -> float:
        return statistics.fmean(self.agreement_db_each)

    @property
    def agreement_db_worst(self) -> float:
        return min(self.agreement_db_each)

    @classmethod
    def of(cls, run: SampledRun, full: SampledRun, **others: Any) -> Self:
        """A run against the full one; `others` are the attributes that a subclass adds."""
        near = run.fidelity_to(full)
        columns = {"psnr_db": near.psnr_db, "ssim": near.ssim, "signal_to_error_db": near.signal_to_error_db}
        return cls(
            **{name: statistics.fmean(column) if column else None for name, column in columns.items()},
            **{f"{name}_worst": min(column) if column else None for name, column in columns.items()},
            latent_error=statistics.fmean(near.latent_error),
            flops_ratio=full.flops.networks / run.flops.networks,
            psnr_db_each=near.psnr_db,
            signal_to_error_db_each=near.signal_to_error_db,
            **others,
        )


@dataclass(frozen=True, kw_only=True)
class Evaluation(Fidelity):
    """One plan against the full run, with what it takes beyond FLOPs.

    Attributes:
        steps_flops_ratio: as `flops_ratio`, of all that runs on every step: also of a ControlNet; None in old files.
        wall_ratio: seconds of the full run over the plan's; above 1 is faster.
        num_prompts: that the samples are of; None in old files, as what follows.
        seconds: of a sample under the plan, in calls of `batch`.
        new_prompt_db: what a sample of a new prompt agrees at least, with probability `new_prompt_level`, see
            `hyca_calib.quality.conformal`; None of few prompts.
    """

    wall_ratio: float
    steps_total: int
    steps_computed: int
    cache_bytes: int
    num_samples: int
    batch: int
    peak_bytes: int | None = None
    steps_flops_ratio: float | None = None
    num_prompts: int | None = None
    seconds: float | None = None
    new_prompt_db: float | None = None
    new_prompt_level: float | None = None


def run_untimed(pipe: Any, jobs: Sequence[Job], num_steps: int, batch: int, method: Method) -> SampledRun:
    """Sample `jobs` inside `method`, each once and without a clock; FLOPs are the mean over all samples.

    A cache that decides while it runs costs more on some samples than on others.
    """
    with method() as context:
        flops, parts = _counted(pipe, jobs, num_steps, batch, context)
    images, latents = (torch.cat(column) for column in zip(*parts, strict=True))
    return SampledRun(images, latents, math.nan, flops)


def _counted(
    pipe: Any, jobs: Sequence[Job], num_steps: int, batch: int, context: Any
) -> tuple[RunFlops, list[tuple[Tensor, Tensor]]]:
    """FLOPs of a sample, the mean over all of `jobs`, and what every call samples."""
    flops, parts = RunFlops(), list[tuple[Tensor, Tensor]]()
    for group in batches(jobs, batch):
        flops += run_flops(pipe, lambda group=group: parts.append(sample_images(pipe, group, num_steps, batch)))  # type: ignore[misc]
        flops += _of_forecasts(context)
    return flops.shared(len(jobs)), parts


def sampling_seconds(pipe: Any, jobs: Sequence[Job], num_steps: int, batch: int, method: Method) -> float:
    """Wall time of sampling `jobs` inside `method`, which is applied before the clock runs."""
    with method():
        return seconds_of(lambda: sample_images(pipe, jobs, num_steps, batch))


def evaluate_plan(
    pipe: Any,
    plan: Plan,
    jobs: Sequence[Job],
    num_steps: int,
    batch: int,
    on_mismatch: OnMismatch = "error",
    level: float = LEVEL,
) -> tuple[Evaluation, SampledRun, SampledRun]:
    """Figures of `plan` on `jobs`, with its run and the full one.

    Args:
        level: probability of what is said of new prompts.
    """
    full = _timed_run(pipe, jobs, num_steps, batch, nullcontext)
    each = plan.decides_by_sample
    run = _timed_run(pipe, jobs, num_steps, batch, lambda: followed(pipe, plan, on_mismatch), each)
    report = run.report or RunReport()
    prompts = prompt_groups(jobs)
    found = Evaluation.of(
        run,
        full,
        wall_ratio=full.seconds / run.seconds,
        steps_total=report.steps,
        steps_computed=report.computed,
        cache_bytes=report.cache_bytes,
        num_samples=len(run.images),
        batch=batch,
        peak_bytes=run.peak_bytes,
        steps_flops_ratio=full.flops.steps / run.flops.steps,
        num_prompts=len(set(prompts)),
        seconds=run.seconds,
        new_prompt_level=level,
    )
    bound = new_prompt_bound(found.agreement_db_each, prompts, level)
    return replace(found, new_prompt_db=bound), run, full


def _timed_run(
    pipe: Any, jobs: Sequence[Job], num_steps: int, batch: int, method: Method, each: bool = False
) -> SampledRun:
    """Sample `jobs` inside `method`.

    FLOPs are counted on one sample of its own, which warms up a CPU; a GPU, which tunes itself to shapes, by a batch.

    Args:
        each: FLOPs are counted on all samples, in the very batches that are timed, as of a plan that decides by them.
    """
    device = runs_on(pipe)
    with method() as context:
        flops, _ = _counted(pipe, jobs if each else jobs[:1], num_steps, batch if each else 1, context)
        if device.type != "cpu":
            sample_images(pipe, jobs[:batch], num_steps, batch)
        with peak_memory(device) as peak:
            parts, seconds = timed_calls(pipe, jobs, num_steps, batch)
        report = context.report() if isinstance(context, Session) else None
    images, latents = (torch.cat(column) for column in zip(*parts, strict=True))
    return SampledRun(images, latents, seconds, flops, peak.bytes, report)


def timed_calls(
    pipe: Any, jobs: Sequence[Job], num_steps: int, batch: int
) -> tuple[list[tuple[Tensor, Tensor]], float]:
    """What every call samples, and the seconds of a sample in the largest calls: in smaller ones it takes longer."""
    parts, spent = list[tuple[Tensor, Tensor]](), defaultdict[int, list[float]](list)
    for group in batches(jobs, batch):
        begun = time.perf_counter()
        parts.append(sample_images(pipe, group, num_steps, batch))
        spent[len(group)].append(time.perf_counter() - begun)
    largest = max(spent)
    return parts, statistics.fmean(spent[largest]) / largest


def _of_forecasts(context: Any) -> RunFlops:
    spent = context.report().forecast_flops if isinstance(context, Session) else 0.0
    return RunFlops(spent, spent)
