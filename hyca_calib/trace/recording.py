"""What watching one batch of samples gives."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyca_calib.trace.streamed import TracedChunks
from hyca_runtime.errors import TraceError
from hyca_runtime.feature import Feature


@dataclass(frozen=True)
class PointRecording:
    """What one cache point showed.

    Attributes:
        features: ``[branch][step]``, one ``(sample, token, channel)`` for each part, on the device; of very
            many tokens a random subset.
        tokens: ``[branch][part]``, which tokens those are.
        num_tokens: ``[branch][part]``, how many one sample has.
        gains: ``[branch][step]``, each ``(channel,)``: mean squared change of the network's output
            per squared change of the feature, channels of all parts.
        channel_axis: of the tensors that the network had there.
    """

    features: list[list[Feature]]
    tokens: list[list[np.ndarray]]
    num_tokens: list[list[int]]
    gains: list[list[Tensor]]
    channel_axis: int = -1

    @property
    def channels(self) -> int:
        """Of all parts."""
        return sum(part.shape[2] for part in self.features[0][0])


@dataclass(frozen=True)
class Recording:
    """One batch of samples, watched.

    Attributes:
        branches: guidance branches, in the order of their first call.
        stacked: how many of them each call holds, side by side in its batch.
        guidance: weight of each branch in what the sampler steps with; empty where that is not known.
        timesteps: what the network was called with, one for each step.
        scheduler_timesteps: the scheduler's own on those steps; empty where it does not say them.
        points: by key, see `point_key`.
        first_computed: first steps that a plan must compute: two where the first one also fills a cache of keys.
        latents: final latents ``(sample, ...)``.
        scheduler: a copy of the pipeline's as it was before the first step.
        chunks: of a video whose calls hold several, those that these are of.
    """

    branches: list[str]
    stacked: int
    guidance: list[float]
    timesteps: list[float]
    scheduler_timesteps: list[float]
    points: dict[str, PointRecording]
    first_computed: int
    latents: Tensor
    scheduler: Any
    chunks: TracedChunks | None = None

    def across(self) -> PointRecording:
        """All points as if each were more guidance branches of one.

        Raises:
            TraceError: their features have no products with each other.
        """
        found = list(self.points.values())
        sizes = [(of.channels, [number for counts in of.num_tokens for number in counts]) for of in found]
        if any(size != sizes[0] or len(of.features[0][0]) > 1 for size, of in zip(sizes, found, strict=True)):
            told = ", ".join(
                f"{key} {channels} of {counts}" for key, (channels, counts) in zip(self.points, sizes, strict=True)
            )
            raise TraceError(f"expected points of the same channels and tokens, got {told}; trace without --across")
        return PointRecording(
            features=[branch for of in found for branch in of.features],
            tokens=[branch for of in found for branch in of.tokens],
            num_tokens=[branch for of in found for branch in of.num_tokens],
            gains=[branch for of in found for branch in of.gains],
        )

    @property
    def common(self) -> dict[str, Any]:
        """What must be the same for all samples of a trace, by what people call it."""
        return {
            "guidance branches": (self.branches, self.stacked),
            "timesteps": self.timesteps,
            "tokens": {key: of.num_tokens for key, of in self.points.items()},
            "size": list(self.latents.shape[1:]),
            "chunks": self.chunks,
        }

    @property
    def device(self) -> torch.device:
        """Where the features are: not where weights are, which may be offloaded."""
        return next(iter(self.points.values())).features[0][0][0].device
