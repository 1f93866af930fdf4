"""What a full run tells about the network's output: inner products between all its steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hyca_calib.baselines.base import Setup
from hyca_calib.baselines.planned import OUTPUT
from hyca_calib.baselines.stepwise import Stream, stepwise
from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Job
from hyca_runtime.feature import Feature

__all__ = ["known_grams", "output_grams"]


class _Watching:
    """Forecasts nothing, and keeps the streams of a run."""

    def __init__(self) -> None:
        self.streams: dict[str, Stream] = {}

    def forecast(self, stream: Stream) -> Feature | None:
        self.streams[stream.branch] = stream
        return None


def output_grams(pipe: Any, jobs: Sequence[Job], num_steps: int) -> list[list[list[float]]]:
    """Full runs of `jobs`, one by one: ``(sample, step, step)``, summed over guidance branches."""
    found = []
    for job in jobs:
        watching = _Watching()
        with stepwise(pipe, watching, OUTPUT):
            sample_latents(pipe, [job], num_steps, 1)
        runs = [
            torch.stack([torch.cat([part.flatten() for part in known.feature]) for known in reversed(stream.past)])
            for stream in watching.streams.values()
        ]
        found.append(torch.stack([run.double() @ run.double().T for run in runs]).sum(dim=0).tolist())
    return found


def known_grams(pipe: Any, setup: Setup) -> NDArray[np.float64]:
    """As `output_grams` of all samples for calibration, made once."""
    name = f"inner products of outputs, {len(setup.jobs)} samples"
    return np.asarray(setup.recall(name, lambda: output_grams(pipe, setup.jobs, setup.num_steps)))
