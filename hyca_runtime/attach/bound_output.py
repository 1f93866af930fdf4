"""The output of a network as a cache point."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hyca_runtime.attach.bound_point import BoundPoint, Proxies
from hyca_runtime.feature import Feature


class BoundOutput(BoundPoint):
    """What the network returns."""

    def captures(self) -> Proxies:
        return ()

    def captured(self, output: Any) -> Feature:
        parts: list[Tensor] = []
        form = _take_apart(output, parts)
        return Feature(parts, form)

    def discard(self) -> None:
        """Nothing is seen but the output."""

    def injectors(self, feature: Feature) -> Proxies:
        raise NotImplementedError("nothing runs when an output is predicted")

    def output(self, feature: Feature) -> Any:
        """`feature` in the form in which the network returned it."""
        return _put_together(feature.form, iter(feature))


@dataclass(frozen=True)
class _Form:
    """How a nested output is built: a container and what is in it, or a constant that holds no tensor."""

    kind: Any
    inside: Any


def _take_apart(output: Any, parts: list[Tensor]) -> Any:
    """The form of `output`; its tensors are appended to `parts`."""
    if isinstance(output, Tensor):
        parts.append(output)
        return Tensor
    if isinstance(output, dict) and type(output) is not dict:  # an output class of diffusers
        return _Form(type(output), {key: _take_apart(value, parts) for key, value in output.items()})
    if isinstance(output, tuple | list):
        return _Form(type(output), [_take_apart(value, parts) for value in output])
    return _Form(None, output)  # a cache of keys and values, or None


def _put_together(form: Any, parts: Iterator[Tensor]) -> Any:
    if form is Tensor:
        return next(parts)
    if form.kind is None:
        return form.inside
    if isinstance(form.inside, dict):
        return form.kind(**{key: _put_together(value, parts) for key, value in form.inside.items()})
    return form.kind(_put_together(value, parts) for value in form.inside)
