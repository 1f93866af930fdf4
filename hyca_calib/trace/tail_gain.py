"""What the network behind a cache point makes of its feature: the feature's own output, and the gain of an error."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hyca_calib.pipelines.outputs import tensors_of
from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.errors import AttachError, HycaError
from hyca_runtime.feature import Feature

RECALL = {True: 1e-3, False: 0.05}
"""Relative error of a step predicted from its own feature, in float32 and in fewer bits: rounding, no more."""
PUSH = 0.1
"""Change of a feature over its size, where there are only differences to go by: well above rounding to 8 bits."""


@dataclass(frozen=True)
class Tail:
    """The part of the network behind a cache point, at one call.

    Attributes:
        name: of the point.
    """

    attachment: Attachment
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def gradient(self, feature: Feature, noise: torch.Generator, output: Any = None) -> Feature:
        """For each number of the feature one whose square is, in the mean, the squared change of the output per squared
        change of that number.

        Where no gradient gets through (layers that compute in 8 bits) all have the mean.

        Args:
            output: of the network in full at this call; the tail's own is held against it, if it is given.

        Raises:
            AttachError: a step that is predicted from its own feature is not that step.
        """
        try:
            found = self._gradient(feature, noise, output)
        except (HycaError, torch.OutOfMemoryError):
            raise
        except RuntimeError:  # an operation without a derivative
            found = ()
        if any(part.any() for part in found):
            return Feature(found)
        mean = self._mean_gain(feature, noise, output) ** 0.5
        return Feature(torch.full((1,), mean, device=part.device).expand(part.shape) for part in feature)

    def _gradient(self, feature: Feature, noise: torch.Generator, output: Any) -> tuple[Tensor, ...]:
        """By one random output direction: for v with unit covariance, E (J^T v)_c^2 is the squared norm of column c of
        the Jacobian J."""
        with torch.enable_grad():
            probe = Feature((part.clone().requires_grad_() for part in feature), feature.form)
            outputs = [tensor for tensor in self._checked(probe, output) if tensor.requires_grad]
            directions = [torch.randn(o.shape, generator=noise).to(o) for o in outputs]
            return torch.autograd.grad(outputs, probe, directions, allow_unused=True, materialize_grads=True)

    def _mean_gain(self, feature: Feature, noise: torch.Generator, output: Any) -> float:
        """Estimated with one random push d of the feature: the mean over all columns is E |J d|^2 / |d|^2."""
        pushes = [
            PUSH * part.float().square().mean().sqrt().to(part) * torch.randn(part.shape, generator=noise).to(part)
            for part in feature
        ]
        moved = Feature((part + push for part, push in zip(feature, pushes, strict=True)), feature.form)
        with torch.no_grad():
            pairs = zip(self._checked(moved, None), self._checked(feature, output), strict=True)
            apart = sum(float((a.float() - b.float()).square().sum()) for a, b in pairs)
        return apart / max(sum(float(push.float().square().sum()) for push in pushes), 1e-30)

    def _checked(self, feature: Feature, output: Any) -> list[Tensor]:
        """What the tail makes of a feature, which is its own where an output is given."""
        found = tensors_of(self.attachment.run(self.args, self.kwargs, (), {self.name: feature})[0])
        if output is None:
            return found
        pairs = [(a.detach().float(), b.float()) for a, b in zip(found, tensors_of(output), strict=True)]
        error = max((float((a - b).norm() / b.norm().clamp_min(1e-12)) for a, b in pairs), default=0.0)
        if error > RECALL[tensors_of(output)[0].dtype == torch.float32]:
            point = self.attachment.points[self.name]
            raise AttachError(
                f"{type(self.attachment.module).__name__} at '{point}': expected a step predicted from "
                f"its own feature to be that step, got a relative error of {error:.2g}; use the point 'trunk' or "
                "'output'"
            )
        return found
