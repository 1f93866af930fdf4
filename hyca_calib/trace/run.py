"""The whole of ``hyca_calib trace``: sample in full, reduce, store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hyca_calib.models import weights_digest
from hyca_calib.provenance import versions
from hyca_calib.trace.recorder import Recorder
from hyca_calib.trace.sampling import choose_tokens
from hyca_calib.trace.statistics import GramAccumulator
from hyca_calib.trace.store import Layout, TraceWriter, stored_bytes
from hyca_calib.workload import Workload, batches
from hyca_runtime.errors import TraceError
from hyca_runtime.point import CachePoint
from hyca_runtime.session import config_digest

__all__ = ["trace"]


def trace(
    pipe: Any,
    workload: Workload,
    point: CachePoint,
    out: Path,
    *,
    model_name: str,
    batch: int,
    tokens: int,
    overwrite: bool = False,
    on_size: Callable[[int], None] = lambda size: None,
    on_samples: Callable[[int], None] = lambda done: None,
) -> None:
    """Record `workload` at `point` into `out`.

    Args:
        batch: samples in one pipeline call.
        tokens: tokens of each sample whose features are stored.
        on_size: told the size in bytes, before compression, before the first sample.
        on_samples: told how many samples a batch finished.

    Memory: the features of one batch, and the Gram matrices; independent of the number of samples.
    """
    if out.exists() and not overwrite:
        raise TraceError(f"{out} exists; choose another --out, or --overwrite it")
    steps = workload.num_steps
    with Recorder(pipe, point, workload.seed) as recorder:
        first = list(workload.jobs[:1])
        probe = recorder.record(first, steps)
        num_tokens, channels = probe.features[0][0].shape[1:]
        kept = choose_tokens(num_tokens, tokens, workload.seed)
        latent = tuple(probe.latents.shape[1:])
        layout = Layout(len(workload.jobs), len(probe.branches), steps, len(kept), channels, latent)
        writer = TraceWriter(out, point, layout)
        on_size(stored_bytes(layout))

        gram = GramAccumulator()
        gain = torch.zeros(layout.branches, steps, channels, dtype=torch.float64)
        for jobs in batches(workload.jobs, batch):
            recording = recorder.record(jobs, steps)
            if recording.timesteps != probe.timesteps:
                raise TraceError("samples have different timesteps; trace each resolution and setting on its own")
            gram.add(jobs[0].split, recording.features)
            gain += len(jobs) * torch.stack([torch.stack(s) for s in recording.gains]).double().cpu()
            picked = [torch.stack([f[:, kept] for f in s], 1).float().cpu() for s in recording.features]
            values = torch.stack(picked, 1).numpy()  # (sample, branch, step, token, channel)
            latents = recording.latents.cpu().numpy()
            for i, job in enumerate(jobs):
                writer.write_sample(job.index, values[i], latents[i])
            on_samples(len(jobs))
        cost = recorder.measure_cost(jobs, layout.branches)

    transformer, scheduler = recorder.module, getattr(pipe, "scheduler", None)
    sigmas = getattr(scheduler, "sigmas", None)
    writer.commit(
        {
            "gram": gram.result(),
            "gain": (gain / len(workload.jobs)).numpy(),
            "tokens": kept,
            "times/timestep": np.asarray(probe.timesteps),
            "times/sigma": _sigmas(sigmas, steps, probe.timesteps),
        },
        {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": {
                "name": model_name,
                "pipeline": type(pipe).__name__,
                "transformer": type(transformer).__name__,
                "scheduler": type(scheduler).__name__,
                "config_digest": config_digest(transformer),
                "weights_digest": weights_digest(transformer),
            },
            "workload": workload.describe(),
            "splits": [job.split for job in workload.jobs],
            "branches": probe.branches,
            "point": point.model_dump(),
            "num_tokens": num_tokens,
            "batch": batch,
            "cost": asdict(cost),
            "device": str(next(transformer.parameters()).device),
            "versions": versions(),
        },
    )


def _sigmas(sigmas: Any, steps: int, timesteps: list[float]) -> np.ndarray:
    """Noise level before each step and after the last; the timesteps themselves where there is none."""
    if sigmas is not None and len(sigmas) == steps + 1:
        return np.asarray(torch.as_tensor(sigmas).double().cpu())
    return np.asarray([*timesteps, 0.0], dtype=np.float64)
