"""A method of acceleration against the model's own full run: agreement, FLOPs, time, memory."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from hyca_calib.costs.flops import count_flops
from hyca_calib.costs.memory import peak_memory
from hyca_calib.pipelines.rollout import device_of, sample_images
from hyca_calib.pipelines.workload import Job, batches
from hyca_calib.quality.metrics import Agreement, compare_images
from hyca_runtime import Plan, Session, apply_plan
from hyca_runtime.attach.forwards import Patch, Replacement
from hyca_runtime.attach.points import find_transformers
from hyca_runtime.compiled_plan import OnMismatch

__all__ = ["Evaluation", "Run", "evaluate_plan", "full_run", "network_flops", "run_method", "run_untimed"]


@dataclass(frozen=True)
class Run:
    """What one way of sampling produced.

    Attributes:
        images, latents: see `sample_images`.
        seconds: wall time of all pipeline calls, NaN if nobody looked at the clock.
        flops: of the network, for one sample.
        peak_bytes: most memory at once beyond what was held before, see `peak_memory`; None if nobody looked.
    """

    images: Tensor
    latents: Tensor
    seconds: float
    flops: float
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Evaluation:
    """Figures of one method; ratios are full run over method, so above 1 is cheaper.

    Attributes:
        peak_bytes: see `Run`.
    """

    psnr_db: float
    psnr_db_worst: float
    ssim: float
    ssim_worst: float
    latent_error: float
    flops_ratio: float
    wall_ratio: float
    steps_total: int
    steps_computed: int
    cache_bytes: int
    num_samples: int
    batch: int
    psnr_db_each: tuple[float, ...]
    peak_bytes: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run_method(
    pipe: Any,
    jobs: Sequence[Job],
    num_steps: int,
    batch: int,
    method: Callable[[], AbstractContextManager[Any]],
) -> tuple[Run, Any]:
    """Sample `jobs` inside `method`; returns the run and what the context gave.

    FLOPs are counted on one sample of its own, which warms up a CPU; a GPU, which tunes itself to shapes, by a batch.
    """
    device = device_of(pipe)
    with method() as context:
        flops = network_flops(pipe, lambda: sample_images(pipe, jobs[:1], num_steps, 1))
        if isinstance(context, Session):
            flops += context.report().forecast_flops
        if device.type != "cpu":
            sample_images(pipe, jobs[:batch], num_steps, batch)
        with peak_memory(device) as peak:
            begun = time.perf_counter()
            images, latents = sample_images(pipe, jobs, num_steps, batch)
            seconds = time.perf_counter() - begun
        report = context.report() if isinstance(context, Session) else None
    return Run(images, latents, seconds, flops, peak.bytes), report


def run_untimed(
    pipe: Any,
    jobs: Sequence[Job],
    num_steps: int,
    batch: int,
    method: Callable[[], AbstractContextManager[Any]],
) -> Run:
    """Sample `jobs` inside `method`, each once and without a clock; FLOPs are the mean over all samples.

    A cache that decides while it runs costs more on some samples than on others.
    """
    flops = 0.0
    parts: list[tuple[Tensor, Tensor]] = []
    with method() as context:
        for group in batches(jobs, batch):
            flops += network_flops(pipe, lambda group=group: parts.append(sample_images(pipe, group, num_steps, batch)))  # type: ignore[misc]
            if isinstance(context, Session):
                flops += context.report().forecast_flops
    images, latents = (torch.cat(column) for column in zip(*parts, strict=True))
    return Run(images, latents, math.nan, flops / len(jobs))


def full_run(pipe: Any, jobs: Sequence[Job], num_steps: int, batch: int) -> Run:
    """The reference: every step computed."""
    return run_method(pipe, jobs, num_steps, batch, nullcontext)[0]


def compare(run: Run, full: Run, steps: tuple[int, int], cache_bytes: int, batch: int) -> Evaluation:
    """`steps` are those of the sampler, and those computed."""
    agreement: Agreement = compare_images(run.images, full.images, run.latents, full.latents)
    return Evaluation(
        psnr_db=statistics.fmean(agreement.psnr_db),
        psnr_db_worst=min(agreement.psnr_db),
        ssim=statistics.fmean(agreement.ssim),
        ssim_worst=min(agreement.ssim),
        latent_error=statistics.fmean(agreement.latent_error),
        flops_ratio=full.flops / run.flops,
        wall_ratio=full.seconds / run.seconds,
        steps_total=steps[0],
        steps_computed=steps[1],
        cache_bytes=cache_bytes,
        num_samples=len(agreement.psnr_db),
        batch=batch,
        psnr_db_each=agreement.psnr_db,
        peak_bytes=run.peak_bytes,
    )


def evaluate_plan(
    pipe: Any,
    plan: Plan,
    jobs: Sequence[Job],
    num_steps: int,
    batch: int,
    full: Run | None = None,
    on_mismatch: OnMismatch = "error",
) -> tuple[Evaluation, Run, Run]:
    """Figures of `plan` on `jobs`, with the pictures of both runs."""
    full = full or full_run(pipe, jobs, num_steps, batch)
    run, report = run_method(pipe, jobs, num_steps, batch, lambda: apply_plan(pipe, plan, on_mismatch))
    return compare(run, full, (report.steps, report.computed), report.cache_bytes, batch), run, full


def network_flops(pipe: Any, sample: Callable[[], Any]) -> float:
    """FLOPs inside the transformers while `sample` runs; text encoder and decoder do not count."""
    total = 0.0

    def counted(inner: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            nonlocal total
            output: list[Any] = []
            total += count_flops(lambda: output.append(inner(*args, **kwargs)))
            return output[0]

        return forward

    modules = find_transformers(pipe).values()
    patches = [Patch(m, "forward", Replacement(m, "forward", counted(m.forward))) for m in modules]
    try:
        sample()
    finally:
        for patch in patches:
            patch.remove()
    return total
