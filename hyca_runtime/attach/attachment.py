"""A network with a handle on its cache point.

Everything that drives a network (the runtime session, the trace recorder, the refinement of taps)
does so through two functions of the same call: `Attachment.compute` runs it and also hands out the
feature at the cache point, `Attachment.predict` runs only what lies behind that point.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

from torch import nn

from hyca_runtime.attach.bound_points import BoundOutput, bind_point
from hyca_runtime.attach.compiling import around, outside
from hyca_runtime.attach.context import Context
from hyca_runtime.attach.deferred import settled
from hyca_runtime.attach.forwards import ForwardSlot, Patch, Replacement
from hyca_runtime.attach.proxies import exchange
from hyca_runtime.errors import AttachError
from hyca_runtime.feature import Feature
from hyca_runtime.point import CachePoint

Handler = Callable[[tuple[Any, ...], dict[str, Any]], Any]
"""Answers a call of the network, given its arguments."""

Keeper = Callable[[Feature | None], None]

_attached: weakref.WeakSet[nn.Module] = weakref.WeakSet()


class Attachment:
    """Lets `handler` answer the calls of `module`, from `install` until `remove`.

    Only the network's own `forward` and `cache_context` are replaced. Calls from several threads
    take turns, for a stand-in is seen by all of them.

    Args:
        module: the network, unwrapped from `torch.compile`.
        point: where its feature is taken.

    Raises:
        AttachError: the network has no such point, or is driven by a cache already. Nothing was
            changed then.
    """

    def __init__(self, module: nn.Module, point: CachePoint) -> None:
        if module in _attached:
            raise AttachError(f"{type(module).__name__} has a plan applied already; call remove() on its session first")
        if getattr(module, "is_cache_enabled", False) is True or _has_cache_hooks(module):
            raise AttachError(f"{type(module).__name__} has a diffusers cache enabled; call disable_cache() first")
        if getattr(module, "_is_cached", False) is True:
            raise AttachError(f"{type(module).__name__} has cache-dit enabled; call its disable_cache first")
        self.module = module
        self.point = point
        self.context = Context()
        self._slot = ForwardSlot(module)
        self._forward = self._slot.original
        self._bound = bind_point(module, point)
        self._patches: list[Patch] = []
        self._handler: Handler | None = None
        self._turn = threading.RLock()
        self._captures = outside(self._bound.captures)
        self._take = outside(self._hand_over)
        self._settle = outside(settled)
        self._injectors = outside(self._bound.injectors)
        self._exchange = outside(exchange)

    def install(self, handler: Handler) -> None:
        """Let `handler` answer every call of the network.

        Under `torch.compile` the frame of `handler` is not traced, what it calls is; see `compiling`.
        """
        self._handler = handler

        def forward(*args: Any, **kwargs: Any) -> Any:
            answer = self._handler
            return answer(args, kwargs) if answer is not None else self._forward(*args, **kwargs)

        for function in (Replacement.__call__, forward, handler, self.compute, self.predict):
            around(function)
        self._slot.put(forward)
        self._patches = self.context.listen(self.module)
        if hasattr(self.module, "enable_cache"):
            self._patches.append(
                Patch(self.module, "enable_cache", Replacement(self.module, "enable_cache", self._refuse))
            )
        _attached.add(self.module)

    def remove(self) -> None:
        """Restore the network exactly, under whatever hooks were put on it meanwhile.

        Where something unknown wrapped its forward, our link in that chain stays and hands every
        call through.
        """
        self._handler = None
        self._slot.restore()
        while self._patches:
            self._patches.pop().remove()
        _attached.discard(self.module)

    def _refuse(self, *_: Any, **__: Any) -> None:
        raise AttachError(f"{type(self.module).__name__} has a plan applied; call remove() on its session first")

    def compute(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], keep: Keeper | None = None
    ) -> tuple[Any, Feature | None]:
        """Run the network in full; returns its output and the feature at the cache point.

        Calls of ControlNets that were kept for it are made before. The feature is None for a call that only fills a
        cache of keys and values.

        Args:
            keep: told the feature, never inside a compiled graph.
        """
        args, kwargs = self._settle((args, kwargs))
        with self._turn:
            own = self._exchange(self._captures())
            try:
                output = self._forward(*args, **kwargs)
                return output, self._take(output, keep)
            finally:
                self._exchange(own)

    def _hand_over(self, output: Any, keep: Keeper | None) -> Feature | None:
        feature = self._bound.captured(output)
        if keep is not None:
            keep(feature)
        return feature

    def predict(self, feature: Feature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run only what lies behind the cache point, on `feature`."""
        if isinstance(self._bound, BoundOutput):
            return self._bound.output(feature)
        with self._turn:
            own = self._exchange(self._injectors(feature))
            try:
                return self._forward(*args, **kwargs)
            finally:
                self._exchange(own)


def _has_cache_hooks(module: nn.Module) -> bool:
    """Whether a cache of diffusers was put on the blocks directly; offload hooks keep no state of a run."""
    registries = (getattr(part, "_diffusers_hook", None) for part in module.modules())
    hooks = [hook for registry in registries if registry is not None for hook in registry.hooks.values()]
    return any(getattr(hook, "_is_stateful", False) for hook in hooks)
