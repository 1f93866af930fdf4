"""What a search knows about a model: a trace, reduced to the numbers the algebra needs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from hyca_calib.pipelines.workload import Job, Split, Workload
from hyca_calib.search.options import Sources
from hyca_calib.search.replay import Array
from hyca_calib.search.rows import Places, places_of, rows_of
from hyca_calib.trace.store import Trace
from hyca_runtime.network_plan import NetworkPlan

AXES = ("step", "sigma", "log_snr")
"""Time axes a solver can extrapolate on: step index, noise level, log signal-to-noise ratio of a
rectified flow, ``2 log((1 - sigma) / sigma)``."""


@dataclass(frozen=True)
class Samples:
    """Jobs and their full runs.

    Attributes:
        latents: final latents of the full runs, ``(job, ...)``.
        num_steps: what the pipeline is called with; it may run fewer (image to image).
    """

    jobs: tuple[Job, ...]
    latents: Tensor
    num_steps: int

    @cached_property
    def log_peak(self) -> Tensor:
        """The logarithm of each latent's squared range, float64 ``(job,)``: latents may be of any size."""
        low, high = self.latents.double().flatten(1).aminmax(dim=1)
        return (high - low).square().clamp_min(1e-20).log()

    def __getitem__(self, chosen: slice | list[int]) -> Samples:
        places = np.arange(len(self.jobs))[chosen]
        return replace(self, jobs=tuple(self.jobs[place] for place in places), latents=self.latents[chosen])


@dataclass(frozen=True)
class Problem:
    """A trace seen by the search.

    Attributes:
        damping: factor that is left in the end of an error at each step, see `measure_damping`; 1 if empty.
    """

    trace: Trace
    damping: tuple[float, ...] = ()

    @cached_property
    def identity(self) -> str:
        """Short digest of what was traced and what its numbers mean: names its studies on a shared storage."""
        traced = self.trace.attributes.model_dump(include={"version", "model", "workload", "batch"})
        traced["point"] = self.trace.point.model_dump()
        return hashlib.sha256(json.dumps(traced, sort_keys=True).encode()).hexdigest()[:12]

    def gram(self, split: Split) -> Array:
        """``(channel, step, step)``, summed over guidance branches, the mean over the samples of the split."""
        return np.asarray(self.trace.gram(split) / len(self.trace.samples(split)))

    def guided(self, split: Split) -> Array:
        """As `gram`, of the feature that guidance makes of all branches'; where that is not known, `gram`."""
        weights = np.asarray(self.trace.guidance)
        if len(weights) < 2 or not self.trace.crossed:
            return self.gram(split)
        blocks = self.joint(split)[:, :-1, :-1]
        apart = blocks.reshape(len(blocks), *(len(weights), self.trace.num_steps) * 2)
        return np.asarray(np.einsum("a,b,casbt->cst", weights, weights, apart, optimize=True))

    @property
    def sources(self) -> tuple[Sources, ...]:
        """What rows may weigh beside the own past of a branch; nothing where guidance is not known."""
        if len(self.trace.branches) == 1:
            return ("constant",)
        return ("all", "branches", "constant") if self.trace.crossed and self.trace.guidance else ()

    def joint(self, split: Split) -> Array:
        """``(channel, regressor, regressor)``, the mean over the samples; see `Trace.joint_gram`."""
        return np.asarray(self.trace.joint_gram(split) / len(self.trace.samples(split)))

    def places(self, section: NetworkPlan) -> Places:
        """Where the Gram matrices have what a section's rows weigh and forecast."""
        return places_of(rows_of(section), self.trace.branches, self.trace.num_steps)

    def regressions(self, section: NetworkPlan) -> tuple[Array, Places]:
        """Gram matrices of the fit split for a section's rows, and their places there."""
        return (self.joint_fit if section.is_joint else self.fit), self.places(section)

    @cached_property
    def workload(self) -> Workload:
        """What was traced."""
        return self.trace.workload()

    def samples(self, split: Split) -> Samples:
        """The traced jobs of a split."""
        latents = torch.from_numpy(self.trace.latents_of(split))
        return Samples(self.workload.of(split), latents, self.workload.num_steps)

    @cached_property
    def fit(self) -> Array:
        return self.gram("fit")

    @cached_property
    def joint_fit(self) -> Array:
        return self.joint("fit")

    @cached_property
    def select(self) -> Array:
        return self.guided("select")

    @cached_property
    def channel_gain(self) -> Array:
        """Mean squared gain of each channel through the network's tail on the fit split, ``(channel,)``."""
        return np.asarray(self.trace.gain.mean(axis=(0, 1)))

    @cached_property
    def step_weights(self) -> Array:
        """Weight of an error at each step: the sampler's response times the tail's gain there, damped, ``(step,)``."""
        known = self.channel_gain > 0
        gain = self.trace.gain.mean(axis=0)[:, known] / self.channel_gain[known]
        return np.asarray(self.trace.response * np.sqrt(gain.mean(axis=1)) * (self.damping or 1.0))

    def axis(self, wanted: str) -> str:
        """`wanted`, one of `AXES`, or "step" where two steps have one time on it, as Heun's two of one noise level."""
        return wanted if len(np.unique(self._positions(wanted))) == self.trace.num_steps else "step"

    def times(self, axis: str) -> Array:
        """Position of each step on `axis`, as far as it can be used, see `axis`."""
        return self._positions(self.axis(axis))

    def _positions(self, axis: str) -> Array:
        sigmas = self.trace.sigmas[:-1]
        if axis == "step":
            return np.arange(self.trace.num_steps, dtype=np.float64)
        if axis == "sigma":
            return np.asarray(sigmas, dtype=np.float64)
        scaled = np.clip(sigmas / max(1.0, sigmas.max()), 1e-3, 1 - 1e-3)  # timesteps, where there are no levels
        return np.asarray(2 * np.log((1 - scaled) / scaled))
