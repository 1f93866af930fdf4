"""What a search knows about a model: a trace, reduced to the numbers the algebra needs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hyca_calib.pipelines.workload import Split
from hyca_calib.trace.store import Trace

__all__ = ["AXES", "Problem"]

Array = NDArray[np.float64]

AXES = ("step", "sigma", "log_snr")
"""Time axes a solver can extrapolate on: step index, noise level, log signal-to-noise ratio of a
rectified flow, ``2 log((1 - sigma) / sigma)``."""


@dataclass(frozen=True)
class Problem:
    """A trace seen by the search.

    Attributes:
        healing: share of an error at each step that is left in the end, see `measure_healing`; all of it if empty.
    """

    trace: Trace
    healing: tuple[float, ...] = ()

    @cached_property
    def identity(self) -> str:
        """Short digest of what was traced and what its numbers mean: names its studies on a shared storage."""
        traced = self.trace.attributes.model_dump(include={"version", "model", "workload", "point", "batch"})
        return hashlib.sha256(json.dumps(traced, sort_keys=True).encode()).hexdigest()[:12]

    def gram(self, split: Split) -> Array:
        """``(channel, step, step)``, the mean over the samples of the split."""
        return np.asarray(self.trace.gram(split) / len(self.trace.samples(split)))

    @property
    def inference_steps(self) -> int:
        """What the pipeline is called with; it may run fewer (image to image)."""
        return self.trace.attributes.workload.num_steps

    @cached_property
    def fit(self) -> Array:
        return self.gram("fit")

    @cached_property
    def select(self) -> Array:
        return self.gram("select")

    @cached_property
    def channel_gain(self) -> Array:
        """Mean squared gain of each channel through the network's tail on the fit split, ``(channel,)``."""
        return np.asarray(self.trace.gain.mean(axis=(0, 1)))

    @cached_property
    def step_weights(self) -> Array:
        """Weight of an error at each step: the sampler's response times the tail's gain there, ``(step,)``.

        Less what heals.
        """
        known = self.channel_gain > 0
        gain = self.trace.gain.mean(axis=0)[:, known] / self.channel_gain[known]
        return np.asarray(self.trace.response * np.sqrt(gain.mean(axis=1)) * (self.healing or 1.0))

    def times(self, axis: str) -> Array:
        """Position of each step on `axis`, one of `AXES`."""
        sigmas = self.trace.sigmas[:-1]
        if axis == "step":
            return np.arange(self.trace.num_steps, dtype=np.float64)
        if axis == "sigma":
            return np.asarray(sigmas, dtype=np.float64)
        scaled = np.clip(sigmas / max(1.0, sigmas.max()), 1e-3, 1 - 1e-3)  # timesteps, where there are no levels
        return np.asarray(2 * np.log((1 - scaled) / scaled))
