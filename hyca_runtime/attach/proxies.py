"""Modules that stand in for others while the network runs.

A network is never rebuilt and its submodules are never wrapped: for the time of one call a stand-in
takes a module's place in its parent, and afterwards the module is back. So whatever is done to the
submodules (compiled, quantised, adapted, offloaded) neither sees nor disturbs a plan, and a module
without a stand-in costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hyca_runtime.attach.block_io import BlockIO, block_io, check_streams, streams
from hyca_runtime.attach.points import Place
from hyca_runtime.errors import AttachError


def exchange(modules: Iterable[tuple[Place, nn.Module]]) -> list[tuple[Place, nn.Module]]:
    """Let each module take its place; returns those that stood there."""
    coming = list(modules)
    going = [(place, place.module) for place, _ in coming]
    for place, module in coming:
        place.put(module)
    return going


@contextmanager
def placed(modules: Iterable[tuple[Place, nn.Module]]) -> Iterator[None]:
    """Let each module take its place until the context ends; not under `torch.compile`."""
    own = exchange(modules)
    try:
        yield
    finally:
        exchange(own)


class Proxy(nn.Module):
    """A module in the place of `inner`, whose attributes it also shows."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)


class CaptureInput(Proxy):
    """Runs `inner` and keeps what it was called with."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__(inner)
        self.kept: list[Tensor] = []

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.kept.append(x)
        return self.inner(x, *args, **kwargs)


class InjectInput(Proxy):
    """Runs `inner` on `feature` instead of its input."""

    def __init__(self, inner: nn.Module, feature: Tensor) -> None:
        super().__init__(inner)
        self.feature = feature

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        del x
        return self.inner(self.feature, *args, **kwargs)


class AddToInput(InjectInput):
    """Runs `inner` on the sum of `feature` and its input."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.inner(x + self.feature, *args, **kwargs)


class CaptureStreams(Proxy):
    """Runs `inner` and keeps the streams it was called with: where a span begins."""

    captured: tuple[Any, ...] | None = None

    def __init__(self, inner: nn.Module) -> None:
        super().__init__(inner)
        self.io = block_io(inner)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.captured = self.io.inputs(self.inner.forward, args, kwargs)
        return self.inner(*args, **kwargs)


class CaptureOutput(Proxy):
    """Runs `inner` and keeps its outputs, less its inputs if there is a contract `io`.

    With an `origin` the inputs are those of another module, the first of a span.
    """

    captured: tuple[Any, ...] | None = None
    alone = False

    def __init__(self, inner: nn.Module, io: BlockIO | None, origin: CaptureStreams | None = None) -> None:
        super().__init__(inner)
        self.io, self.origin = io, origin

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.inner(*args, **kwargs)
        self.alone, outputs = not isinstance(output, tuple), streams(output)
        if self.io is not None:
            inputs = self.origin.captured if self.origin else self.io.inputs(self.inner.forward, args, kwargs)
            check_streams(self.inner, inputs or (), outputs)
            outputs = tuple(None if b is None else b - a for a, b in zip(inputs or (), outputs, strict=True))
        elif not all(value is None or isinstance(value, Tensor) for value in outputs):
            raise AttachError(f"{type(self.inner).__name__} returns more than tensors; its output cannot be kept")
        self.captured = outputs
        return output


class Recall(Proxy):
    """Answers with kept outputs, plus its inputs if there is a contract `io`; `inner` does not run."""

    def __init__(self, inner: nn.Module, outputs: tuple[Any, ...], alone: bool, io: BlockIO | None) -> None:
        super().__init__(inner)
        self.outputs, self.alone, self.io = outputs, alone, io

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        outputs = self.outputs
        if self.io is not None:
            inputs = self.io.inputs(self.inner.forward, args, kwargs)
            outputs = tuple(None if b is None else a + b for a, b in zip(inputs, outputs, strict=True))
        return outputs[0] if self.alone else outputs


class PassBy(Proxy):
    """Hands its inputs on; `inner` does not run."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__(inner)
        self.io = block_io(inner)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        values = self.io.inputs(self.inner.forward, args, kwargs)
        return values if len(values) > 1 else values[0]


class IdleLinear(Proxy):
    """Answers with a tensor of the right shape and dtype that takes no memory and no time; its values are not read."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__(inner)
        self.width = inner.out_features

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        return x.new_zeros((), dtype=dtype).expand(*x.shape[:-1], self.width)


class IdleList(nn.ModuleList):
    """Takes the place of a list of blocks: none of them runs, yet a network may look at them by index.

    A slice of it is idle, too.
    """

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        if isinstance(blocks, nn.ModuleList):
            super().__init__()
            self._modules = blocks._modules  # noqa: SLF001  # the same members, not listed anew
        else:
            super().__init__(blocks)

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(())
