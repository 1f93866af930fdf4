"""Pipelines that sample under `torch.inference_mode`, whose tensors autograd refuses."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from hyca_runtime.attach.attachment import Handler
from hyca_runtime.attach.compiling import around


def outside_inference_mode(handler: Handler) -> Handler:
    """`handler` of a network's calls, run without gradients where the pipeline is in inference mode.

    What it keeps, and what the network keeps for later calls, are ordinary tensors then. A tensor that is given again,
    unchanged, is the same one again: guidance branches are told apart by that.
    """
    around(handler)
    known = WeakTensorKeyDictionary()

    def ordinary(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_inference():
            if value not in known or not torch.equal(known[value], value):
                known[value] = value.clone()
            return known[value]
        if type(value) in (list, tuple):
            return type(value)(ordinary(inner) for inner in value)
        return {key: ordinary(inner) for key, inner in value.items()} if type(value) is dict else value

    def answer(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not torch.is_inference_mode_enabled():
            return handler(args, kwargs)
        with torch.inference_mode(False), torch.no_grad():
            return handler(ordinary(args), ordinary(kwargs))

    return answer
