"""Watching a pipeline sample: features, times, costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from hyca_calib.cost import CostModel, count_flops, measure_seconds
from hyca_calib.rollout import sample_latents
from hyca_calib.workload import Job
from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.errors import TraceError
from hyca_runtime.point import CachePoint

__all__ = ["Recorder", "Recording"]


@dataclass
class Recording:
    """One batch of samples, watched.

    Attributes:
        branches: guidance branches, in the order of their first call.
        timesteps: what the network was called with, one for each step.
        features: ``[branch][step]``, each ``(sample, token, channel)`` on the device.
        gains: ``[branch][step]``, each ``(channel,)``: mean squared change of the network's output
            per squared change of the feature.
        latents: final latents ``(sample, ...)``.
    """

    branches: list[str] = field(default_factory=list)
    timesteps: list[float] = field(default_factory=list)
    features: list[list[Tensor]] = field(default_factory=list)
    gains: list[list[Tensor]] = field(default_factory=list)
    latents: Tensor = field(default_factory=lambda: torch.empty(0))


class Recorder:
    """Runs a pipeline in full and keeps what its cache point shows. A context manager."""

    def __init__(self, pipe: Any, point: CachePoint, seed: int = 0) -> None:
        self._pipe = pipe
        self.module = find_transformer(pipe)
        self._attachment = Attachment(self.module, point)
        self._clock = Clock(self.module, self._attachment.context)
        self._noise = torch.Generator("cpu").manual_seed(seed)
        self._calls: list[tuple[str, float, Tensor, Tensor]] = []
        self._sample_call: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    def __enter__(self) -> Self:
        self._attachment.install(self._answer)
        return self

    def __exit__(self, *exc: object) -> None:
        self._attachment.remove()

    def record(self, jobs: Sequence[Job], num_steps: int) -> Recording:
        """Sample `jobs` in one batch.

        Raises:
            TraceError: guidance branches with unequal times, or a step count that is not `num_steps`.
        """
        self._calls.clear()
        latents = sample_latents(self._pipe, jobs, num_steps, len(jobs))
        recording = Recording(latents=latents)
        for branch, time, feature, gain in self._calls:
            if branch not in recording.branches:
                recording.branches.append(branch)
                recording.features.append([])
                recording.gains.append([])
            at = recording.branches.index(branch)
            if at == 0:
                recording.timesteps.append(time)
            recording.features[at].append(self._by_sample(feature, len(jobs)))
            recording.gains[at].append(gain)
        self._calls.clear()
        lengths = {branch: len(s) for branch, s in zip(recording.branches, recording.features, strict=True)}
        if set(lengths.values()) != {num_steps}:
            raise TraceError(
                f"expected {num_steps} calls of the network in every guidance branch, got {lengths or 'none'}; "
                "samplers with several calls a step, and guidance that stops midway, cannot be traced yet"
            )
        return recording

    def measure_cost(self, jobs: Sequence[Job], num_branches: int) -> CostModel:
        """Count and time a full and a predicted step on the latest recorded call."""
        if self._sample_call is None:
            raise TraceError("nothing was recorded yet, so no step can be measured")
        (args, kwargs), samples = self._sample_call, len(jobs)
        with torch.no_grad():
            _, feature = self._attachment.compute(args, kwargs)
            full = count_flops(lambda: self._attachment.compute(args, kwargs))
            tail = count_flops(lambda: self._attachment.predict(feature, args, kwargs))
            full_seconds = measure_seconds(lambda: self._attachment.compute(args, kwargs))
            tail_seconds = measure_seconds(lambda: self._attachment.predict(feature, args, kwargs))
        each = num_branches / samples
        return CostModel(
            full_flops=full * each,
            tail_flops=tail * each,
            feature_numel=round(feature.numel() * each),
            full_seconds=full_seconds * each,
            predicted_seconds=tail_seconds * each,
        )

    def _answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output, feature = self._attachment.compute(args, kwargs)
        tick = self._clock.read(args, kwargs, after=-1)
        feature = feature.detach().clone()
        self._calls.append((tick.branch, tick.time, feature, self._gain(feature, args, kwargs)))
        self._sample_call = (args, kwargs)
        return output

    def _gain(self, feature: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Squared gain of each channel through the tail, estimated with one random output direction.

        For v with unit covariance, E (J^T v)_c^2 is the squared norm of column c of the Jacobian J.
        """
        axis = self._attachment.point.channel_axis
        others = [i for i in range(feature.ndim) if i != axis % feature.ndim]
        if self._attachment.point.kind == "output":
            return torch.ones(feature.shape[axis], device=feature.device)
        with torch.enable_grad():
            probe = feature.clone().requires_grad_()
            output = self._attachment.predict(probe, args, kwargs)
            output = output[0] if isinstance(output, tuple) else getattr(output, "sample", output)
            direction = torch.randn(output.shape, generator=self._noise).to(output)
            (gradient,) = torch.autograd.grad(output, probe, direction)
        return gradient.float().square().mean(others)

    def _by_sample(self, feature: Tensor, num_samples: int) -> Tensor:
        """``(sample, token, channel)``; the halves of a batched guidance call become tokens."""
        feature = feature.movedim(self._attachment.point.channel_axis, -1).flatten(1, -2)
        if feature.shape[0] % num_samples:
            raise TraceError(f"the network was called with a batch of {feature.shape[0]} for {num_samples} samples")
        tokens, channels = feature.shape[1:]
        return feature.reshape(-1, num_samples, tokens, channels).transpose(0, 1).flatten(1, 2)
