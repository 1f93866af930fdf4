"""Pipelines that sample under `torch.inference_mode`, whose tensors autograd refuses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyca_runtime.attach.attachment import Handler
from hyca_runtime.attach.compiling import around


def outside_inference_mode(handler: Handler) -> Handler:
    """`handler` of a network's calls, run without gradients where the pipeline is in inference mode.

    What it keeps, and what the network keeps for later calls, are ordinary tensors then.
    """
    around(handler)

    def answer(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not torch.is_inference_mode_enabled():
            return handler(args, kwargs)
        with torch.inference_mode(False), torch.no_grad():
            return handler(_ordinary(args), _ordinary(kwargs))

    return answer


def _ordinary(value: Any) -> Any:
    """`value` with copies in the place of tensors made in inference mode."""
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() else value
    if type(value) in (list, tuple):
        return type(value)(_ordinary(inner) for inner in value)
    return {key: _ordinary(inner) for key, inner in value.items()} if type(value) is dict else value
