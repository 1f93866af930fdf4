"""A network with a handle on its cache point.

Everything that drives a network (the runtime session, the trace recorder, the refinement of taps)
does so through two functions of the same call: `Attachment.compute` runs it and also hands out the
feature at the cache point, `Attachment.predict` runs only what lies behind that point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from hyca_runtime.attach.block_io import pass_through
from hyca_runtime.attach.clock import ContextTap
from hyca_runtime.attach.compiling import around, outside
from hyca_runtime.attach.forwards import Patch, is_patched
from hyca_runtime.attach.points import find_blocks, find_final_norm
from hyca_runtime.errors import AttachError
from hyca_runtime.point import CachePoint

__all__ = ["Attachment", "Handler"]

Handler = Callable[[tuple[Any, ...], dict[str, Any]], Any]
"""Answers a call of the network, given its arguments."""


class _Gate:
    """What the wrapped final norm and blocks look at; plain attributes, so that they compile."""

    def __init__(self) -> None:
        self.forecast: Tensor | None = None
        self.captured: Tensor | None = None


class Attachment:
    """Wraps `module` so that `handler` answers its calls, until `remove`.

    Args:
        module: the network, unwrapped from `torch.compile`.
        point: where its feature is taken.

    Raises:
        AttachError: the network has no such point, or is driven by a cache already. Nothing was
            changed then.
    """

    def __init__(self, module: nn.Module, point: CachePoint) -> None:
        if is_patched(module):
            raise AttachError(f"{type(module).__name__} has a plan applied already; call remove() on its session first")
        if getattr(module, "is_cache_enabled", False) is True:
            raise AttachError(f"{type(module).__name__} has a diffusers cache enabled; call disable_cache() first")
        self.module = module
        self.point = point
        self.context = ContextTap(module)
        self._forward = module.forward
        self._gate = _Gate()
        self._wrappers: list[tuple[nn.Module, Callable[..., Any]]] = []
        if point.kind == "trunk":
            norm = find_final_norm(module)
            self._wrappers = [(norm, self._wrap_norm(norm)), *((b, self._wrap_block(b)) for b in find_blocks(module))]
        self._patches: list[Patch] = []
        self._open = outside(_open)
        self._rebuild: Callable[[Tensor], Any] = lambda tensor: tensor

    def install(self, handler: Handler) -> None:
        """Let `handler` answer every call of the network.

        Under `torch.compile` the frame of `handler` is not traced, what it calls is; see `compiling`.
        """

        def forward(*args: Any, **kwargs: Any) -> Any:
            return handler(args, kwargs)

        for function in (forward, handler, self.compute, self.predict):
            around(function)
        forward.__dict__.update(_hyca=True, __wrapped__=self._forward)
        self._patches = [Patch(owner, "forward", wrapper) for owner, wrapper in self._wrappers]
        self._patches += self.context.install()
        self._patches.append(Patch(self.module, "forward", forward))

    def remove(self) -> None:
        """Restore every forward exactly as it was.

        Raises:
            AttachError: something else wrapped one of them meanwhile; nothing was changed then.
        """
        for patch in self._patches:
            if not patch.in_place:
                patch.remove()  # raises, before anything was touched
        while self._patches:
            self._patches.pop().remove()

    def compute(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Tensor]:
        """Run the network in full; returns its output and the feature at the cache point."""
        output = self._forward(*args, **kwargs)
        if self.point.kind == "output":
            feature, self._rebuild = self._open(output)
            return output, feature
        captured, self._gate.captured = self._gate.captured, None
        if captured is None:
            raise AttachError(f"{type(self.module).__name__} ran without calling its final norm")
        return output, captured

    def predict(self, feature: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run only what lies behind the cache point, on `feature`."""
        if self.point.kind == "output":
            return self._rebuild(feature)
        self._gate.forecast = feature
        try:
            return self._forward(*args, **kwargs)
        finally:
            self._gate.forecast = None

    def _wrap_norm(self, norm: nn.Module) -> Callable[..., Any]:
        gate, inner = self._gate, norm.forward

        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            if gate.forecast is not None:
                x = gate.forecast
            else:
                gate.captured = x
            return inner(x, *args, **kwargs)

        return forward

    def _wrap_block(self, block: nn.Module) -> Callable[..., Any]:
        gate, inner, hand_on = self._gate, block.forward, pass_through(block)

        def forward(*args: Any, **kwargs: Any) -> Any:
            return inner(*args, **kwargs) if gate.forecast is None else hand_on(args, kwargs)

        return forward


def _open(output: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """The tensor inside a network's output, and how to wrap another one the same way."""
    if isinstance(output, Tensor):
        return output, lambda tensor: tensor
    if isinstance(output, tuple) and len(output) == 1 and isinstance(output[0], Tensor):
        return output[0], lambda tensor: (tensor,)
    if isinstance(getattr(output, "sample", None), Tensor):
        kind = type(output)
        return output.sample, lambda tensor: kind(sample=tensor)
    raise AttachError(f"the point 'output' needs a network that returns one tensor, got {type(output).__name__}")
