"""What networks and pipelines return."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyca_runtime.errors import WorkloadError

PICTURE_CHANNELS = (1, 3, 4)
"""Grey, colours, colours with transparency."""


def tensors_of(output: Any) -> list[Tensor]:
    """All tensors of a nested output, in order."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        output = list(output.values())
    return [t for item in output for t in tensors_of(item)] if isinstance(output, tuple | list) else []


def are_pictures(samples: Tensor) -> bool:
    """Whether samples are pictures or clips, ``(sample, [frame,] channel, height, width)``, by their shape.

    All else, such as time series ``(sample, variable, time)`` or sound, is compared and shown as the numbers it is.
    """
    return samples.ndim in (4, 5) and samples.shape[-3] in PICTURE_CHANNELS


def samples_of(drawn: object, drawn_by: str) -> Tensor:
    """Finished samples as a pipeline returns them for ``output_type="pt"``, pictures as clips.

    Pipelines that do not know "pt" return arrays, whose pictures have their channels last; whole numbers are of 0 to
    their type's largest.

    Raises:
        WorkloadError: neither a tensor nor an array.
    """
    if isinstance(drawn, np.ndarray):
        drawn = torch.from_numpy(drawn)
        drawn = last if are_pictures(last := drawn.movedim(-1, -3) if drawn.ndim >= 4 else drawn) else drawn
    if not isinstance(drawn, Tensor):
        raise WorkloadError(
            f"{drawn_by} returned {type(drawn).__name__} for output_type='pt'; expected a tensor or an array"
        )
    if not are_pictures(drawn):
        return drawn
    if drawn.dtype == torch.uint8:
        drawn = drawn / 255
    return drawn if drawn.ndim == 5 else drawn.unsqueeze(1)
