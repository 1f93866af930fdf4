"""The whole of ``hyca_calib trace``: sample in full, reduce, store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyca_calib.models import weights_digest
from hyca_calib.provenance import versions
from hyca_calib.trace.recorder import Recorder
from hyca_calib.trace.sampler import impulse_response, noise_levels
from hyca_calib.trace.sampling import choose_tokens
from hyca_calib.trace.statistics import GramAccumulator
from hyca_calib.trace.store import Layout, TraceWriter, stored_bytes
from hyca_calib.workload import Workload, batches
from hyca_runtime.errors import TraceError
from hyca_runtime.feature import Feature
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
    component: str = "transformer",
    overwrite: bool = False,
    on_size: Callable[[int], None] = lambda size: None,
    on_samples: Callable[[int], None] = lambda done: None,
) -> None:
    """Record `workload` at `point` into `out`.

    Args:
        batch: samples in one pipeline call.
        tokens: tokens of each sample whose features are stored.
        component: which of the pipeline's networks.
        on_size: told the size in bytes, before compression, before the first sample.
        on_samples: told how many samples a batch finished.

    Memory: the features of one batch, and the Gram matrices; independent of the number of samples.
    """
    if out.exists() and not overwrite:
        raise TraceError(f"{out} exists; choose another --out, or --overwrite it")
    with Recorder(pipe, point, workload.seed, component) as recorder:
        first = list(workload.jobs[:1])
        probe = recorder.record(first, workload.num_steps)
        steps, parts = len(probe.timesteps), probe.features[0][0]
        channels = sum(part.shape[2] for part in parts)
        num_tokens = [[part.shape[1] for part in branch[0]] for branch in probe.features]
        most = min(tokens, *(count for counts in num_tokens for count in counts))
        kept = [[choose_tokens(count, most, workload.seed) for count in counts] for counts in num_tokens]
        latent = tuple(probe.latents.shape[1:])
        layout = Layout(len(workload.jobs), len(probe.branches), steps, most, channels, latent)
        writer = TraceWriter(out, point, layout)
        on_size(stored_bytes(layout))

        gram = GramAccumulator()
        gain = torch.zeros(layout.branches, steps, channels, dtype=torch.float64)
        for jobs in batches(workload.jobs, batch):
            recording = recorder.record(jobs, workload.num_steps)
            if recording.timesteps != probe.timesteps:
                raise TraceError("samples have different timesteps; trace each resolution and setting on its own")
            gram.add(jobs[0].split, recording.features)
            gain += len(jobs) * torch.stack([torch.stack(s) for s in recording.gains]).double().cpu()
            picked = [
                torch.stack([_pick(feature, k) for feature in branch], 1)
                for branch, k in zip(recording.features, kept, strict=True)
            ]
            values = torch.stack(picked, 1).numpy()  # (sample, branch, step, token, channel)
            latents = recording.latents.cpu().numpy()
            for i, job in enumerate(jobs):
                writer.write_sample(job.index, values[i], latents[i])
            on_samples(len(jobs))
        cost = recorder.measure_cost(jobs, layout.branches)

    transformer, scheduler = recorder.module, getattr(pipe, "scheduler", None)
    times = probe.scheduler_timesteps or probe.timesteps
    sigmas, response = noise_levels(probe.scheduler, times), impulse_response(probe.scheduler, times)
    if response is None:
        response = np.diff(sigmas)
    writer.commit(
        {
            "gram": gram.result(),
            "gain": (gain / len(workload.jobs)).numpy(),
            "tokens": np.asarray(kept),
            "times/timestep": np.asarray(probe.timesteps),
            "times/sigma": sigmas,
            "times/response": response,
        },
        {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": {
                "name": model_name,
                "pipeline": type(pipe).__name__,
                "component": component,
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
            "scheduler_timesteps": probe.scheduler_timesteps,
            "batch": batch,
            "cost": asdict(cost),
            "device": str(next(transformer.parameters()).device),
            "versions": versions(),
        },
    )


def _pick(feature: Feature, kept: Sequence[np.ndarray]) -> Tensor:
    """``(sample, token, channel)`` of the kept tokens, channels of all parts side by side."""
    return torch.cat([part[:, tokens] for part, tokens in zip(feature, kept, strict=True)], dim=-1).float().cpu()
