"""A pipeline's call whose batch holds every sample several times, once for each lane."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hyca_runtime.errors import SamplerError

LISTS = ("prompt", "negative_prompt", "prompt_2", "negative_prompt_2", "prompt_3", "negative_prompt_3", "class_labels")
"""Arguments that are one thing for each sample."""


def with_copies(call: Mapping[str, Any], copies: int) -> tuple[dict[str, Any], int]:
    """The arguments of a call that draws each sample so often, and how many samples there are.

    Raises:
        SamplerError: it cannot be told how to repeat them.
    """
    given = {name: call[name] for name in LISTS if call.get(name) is not None}
    sizes = {len(value) for value in given.values() if isinstance(value, list | tuple)}
    samples = sizes.pop() if len(sizes) == 1 else 1
    if sizes or not given:
        raise SamplerError(f"lanes in one batch need one of {', '.join(LISTS)}, each as long, got {sorted(given)}")
    repeated: dict[str, Any] = {
        name: list(value if isinstance(value, list | tuple) else [value] * samples) * copies
        for name, value in given.items()
    }
    generator, latents = call.get("generator"), call.get("latents")
    if isinstance(generator, torch.Generator) and samples > 1:
        raise SamplerError("lanes in one batch need a generator for each sample, got one for all; give a list")
    if generator is not None:
        repeated["generator"] = (list(generator) if isinstance(generator, list | tuple) else [generator]) * copies
    if isinstance(latents, Tensor):
        repeated["latents"] = torch.cat([latents] * copies)
    return {**call, **repeated}, samples


def drawn_first(output: Any, copies: int) -> Any:
    """What a pipeline returned, without the copies."""
    if copies == 1:
        return output
    fields = dict(output) if isinstance(output, Mapping) else None
    if fields is not None:
        return type(output)(**{name: _first(value, copies) for name, value in fields.items()})
    return tuple(_first(value, copies) for value in output)


def _first(value: Any, copies: int) -> Any:
    return value[: len(value) // copies] if hasattr(value, "__len__") else value
