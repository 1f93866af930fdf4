"""Modules that stand in for others while the network runs.

A network is never rebuilt and its submodules are never wrapped: for the time of one call a stand-in
takes a module's place in its parent, and afterwards the module is back. So whatever is done to the
submodules (compiled, quantised, adapted, offloaded) neither sees nor disturbs a plan, and a module
without a stand-in costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from hyca_runtime.attach.block_io import BlockIO, Streams, block_io, check_streams, streams
from hyca_runtime.attach.points import Place
from hyca_runtime.attach.wrappers import unwrapped
from hyca_runtime.errors import AttachError

Standing = list[tuple[Place, nn.Module]]
"""Who stood in some places."""


def exchange(modules: Iterable[tuple[Place, nn.Module]]) -> Standing:
    """Let each module take its place; returns those that stood there."""
    coming = list(modules)
    going = [(place, place.module) for place, _ in coming]
    for place, module in coming:
        place.put(module)
    return going


def take_places(stands: Iterable[Callable[[], Iterable[tuple[Place, nn.Module]]]]) -> list[Standing]:
    """Let everybody take their places, one after the other: what stands in one place is stacked.

    Returns:
        Who stood there, as `put_back` takes it.
    """
    own: list[Standing] = []
    try:
        for modules in stands:
            own.append(exchange(modules()))  # noqa: PERF401  (what was put in is put back)
    except BaseException:
        put_back(own)
        raise
    return own


def put_back(own: list[Standing]) -> None:
    """Let those stand again who stood there before."""
    while own:
        exchange(own.pop())


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
        self.inner: nn.Module = inner

    @property
    def own(self) -> nn.Module:
        """The network's own module, behind all that stand in for it and all that wraps it."""
        return self.inner.own if isinstance(self.inner, Proxy) else unwrapped(self.inner)

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
        self.io = block_io(self.own)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.captured = self.io.inputs(self.own.forward, args, kwargs)
        return self.inner(*args, **kwargs)

    @property
    def streams(self) -> Streams:
        """Those that are tensors; none before the call."""
        return self.io.named(self.captured or ())


Outputs = tuple[bool, tuple[Any, ...]]
"""What one call returned: whether it was a tensor alone, and the tensors."""


class CaptureOutput(Proxy):
    """Runs `inner` and keeps its outputs, less its inputs if there is a contract `io`.

    With an `origin` the inputs are those of another module, the first of a span.
    """

    def __init__(self, inner: nn.Module, io: BlockIO | None, origin: CaptureStreams | None = None) -> None:
        super().__init__(inner)
        self.io, self.origin = io, origin
        self.captured: list[Outputs] = []

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.inner(*args, **kwargs)
        alone, outputs = not isinstance(output, tuple), streams(output)
        if self.io is not None:
            inputs = self.origin.captured if self.origin else self.io.inputs(self.own.forward, args, kwargs)
            check_streams(self.own, inputs or (), outputs)
            outputs = tuple(None if b is None else b - a for a, b in zip(inputs or (), outputs, strict=True))
        elif not all(value is None or isinstance(value, Tensor) for value in outputs):
            raise AttachError(f"{type(self.own).__name__} returns more than tensors; its output cannot be kept")
        self.captured.append((alone, outputs))
        return output


class Recall(Proxy):
    """Answers with kept outputs, plus its inputs if there is a contract `io`; `inner` does not run.

    Args:
        kept: of each call in order; some networks call one module for text and for pictures.
    """

    def __init__(self, inner: nn.Module, kept: Sequence[Outputs], io: BlockIO | None) -> None:
        super().__init__(inner)
        self.kept, self.io, self.calls = kept, io, 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        alone, outputs = self.kept[self.calls % len(self.kept)]
        self.calls += 1
        if self.io is not None:
            inputs = self.io.inputs(self.own.forward, args, kwargs)
            outputs = tuple(None if b is None else a + b for a, b in zip(inputs, outputs, strict=True))
        return outputs[0] if alone else outputs


class PassBy(Proxy):
    """Hands its inputs on; `inner` does not run."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__(inner)
        self.io = block_io(self.own)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        values = self.io.inputs(self.own.forward, args, kwargs)
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


class LeadingBlocks(nn.ModuleList):
    """Takes the place of a list of blocks: only the first ones run, yet a network may look at all of them by index.

    Args:
        running: how many run; of a slice, as many as are left.
    """

    def __init__(self, blocks: Iterable[nn.Module], running: int = 0) -> None:
        if isinstance(blocks, nn.ModuleList):
            super().__init__()
            self._modules = blocks._modules  # noqa: SLF001  # the same members, not listed anew
        else:
            super().__init__(blocks)
        self.running = running

    def __iter__(self) -> Iterator[nn.Module]:
        return islice(super().__iter__(), self.running)

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, slice):
            return super().__getitem__(index)
        start, members = index.indices(len(self))[0], list(self._modules.values())
        return LeadingBlocks(members[index], max(0, self.running - start))
