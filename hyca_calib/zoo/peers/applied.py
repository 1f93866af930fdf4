"""How a peer is put on a network, and how a pipeline then calls it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from hyca_calib.zoo.check import tensors_in

__all__ = ["COMPUTED", "Applied", "Call", "Outputs", "Peer", "Way", "bare_outputs", "named_context", "pipeline_around"]


COMPUTED = (0, 1, 3, 5)
"""Steps that this project's runtime computes, as the others do with an interval of 2 after two steps."""


Call = Mapping[str, Any]


Outputs = list[list[Tensor]]


def bare_outputs(module: nn.Module, calls: Iterable[Call]) -> Outputs:
    """The tensors of each call, with nothing around the network."""
    return [tensors_in(module(**call)) for call in calls]


@dataclass(frozen=True)
class Applied:
    """A peer on one network.

    Attributes:
        run: make the calls of one run as a pipeline does, with all it does before, around and after them.
        remove: switch the peer off.
        steady: `run` for calls that do not differ, where a peer cannot tell a run from them.
    """

    run: Callable[[Iterable[Call]], Outputs]
    remove: Callable[[], None]
    steady: Callable[[Iterable[Call]], Outputs] | None = None


@dataclass(frozen=True)
class Way:
    """One way to apply a peer.

    Attributes:
        notes: what a user must write for it besides the usual call.
        setting: where it differs by network.
    """

    apply: Callable[[nn.Module, Sequence[Call]], Applied]
    notes: tuple[str, ...] = ()
    setting: str = ""


@dataclass(frozen=True)
class Peer:
    """A method and settings with which it can act on every other step at least.

    Attributes:
        ways: to apply it to a network, tried in order until one gets through a single run.
    """

    settings: str
    ways: Callable[[nn.Module], list[Way]]
    package: str = "diffusers"


def pipeline_around(module: nn.Module, around: Callable[[int], AbstractContextManager[Any]]) -> Any:
    """A diffusers pipeline of which a call makes the calls of one run and nothing else.

    Its class is its own, for cache-dit changes the class, and is named for the network, for by that name
    cache-dit finds its adapter.
    """
    from diffusers import DiffusionPipeline

    def initialise(self: Any, transformer: nn.Module) -> None:
        DiffusionPipeline.__init__(self)
        self.register_modules(transformer=transformer)

    def call(self: Any, calls: Iterable[Call]) -> Outputs:
        found = []
        for step, call in enumerate(calls):
            with around(step):
                found.append(tensors_in(self.transformer(**call)))
        self.maybe_free_model_hooks()  # resets the caches of diffusers, as at the end of its pipelines
        return found

    stem = re.sub(r"(Transformer)?([123]D)?(Model)?$", "", type(module).__name__)
    name = f"{PIPELINE_STEMS.get(stem, stem)}Pipeline"
    kind: Any = type(name, (DiffusionPipeline,), {"__init__": initialise, "__call__": call})
    return kind(module)


PIPELINE_STEMS = {"SD3": "StableDiffusion3"}
"""How pipelines are named that are not named for their network."""


def named_context(module: nn.Module) -> AbstractContextManager[Any]:
    """The context that diffusers pipelines enter around a call, where the network has it."""
    named = getattr(module, "cache_context", None)
    return named("cond") if named is not None else nullcontext()
