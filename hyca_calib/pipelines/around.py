"""A pipeline around a network that has none."""

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn

from hyca_calib.pipelines.outputs import tensors_of
from hyca_calib.pipelines.pipeline import Pipeline


def pipeline_around(module: nn.Module, around: Callable[[int], AbstractContextManager[Any]]) -> Pipeline:
    """A diffusers pipeline of which a call makes the calls of one run and nothing else.

    Its class is its own, for cache-dit changes the class, and is named for the network, for by that name
    cache-dit finds its adapter.
    """
    from diffusers import DiffusionPipeline

    def initialise(self: Any, transformer: nn.Module) -> None:
        DiffusionPipeline.__init__(self)
        self.register_modules(transformer=transformer)

    def call(self: Any, calls: Iterable[Mapping[str, Any]]) -> list[list[Tensor]]:
        found = []
        for step, call in enumerate(calls):
            with around(step):
                found.append(tensors_of(self.transformer(**call)))
        self.maybe_free_model_hooks()  # resets the caches of diffusers, as at the end of its pipelines
        return found

    stem = re.sub(r"(Transformer)?([123]D)?(Model)?$", "", type(module).__name__)
    name = f"{PIPELINE_STEMS.get(stem, stem)}Pipeline"
    pipe: Pipeline = type(name, (DiffusionPipeline,), {"__init__": initialise, "__call__": call})(module)
    return pipe


PIPELINE_STEMS = {"SD3": "StableDiffusion3"}
"""How pipelines are named that are not named for their network."""


def named_context(module: nn.Module) -> AbstractContextManager[Any]:
    """The context that diffusers pipelines enter around a call, where the network has it."""
    named = getattr(module, "cache_context", None)
    return named("cond") if named is not None else nullcontext()
