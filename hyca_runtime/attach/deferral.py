"""ControlNets that run only where their answer is looked at.

A pipeline calls its ControlNet before the network, when nobody knows yet whether the step will be predicted. So the
call is kept instead of made. Who computes the network makes it first; where no block runs, nobody looks.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from hyca_runtime.attach.compiling import around, outside
from hyca_runtime.attach.deferred import Form, KeptCall, form_of
from hyca_runtime.attach.forwards import ForwardSlot
from hyca_runtime.attach.points import CONTROL, find_components, find_transformers
from hyca_runtime.feature import Signature, signature
from hyca_runtime.point import CachePoint

MAX_FORMS = 16
"""Forms of answers that are remembered for one ControlNet."""

_deferring: weakref.WeakSet[nn.Module] = weakref.WeakSet()


class Deferral:
    """Keeps the calls of one ControlNet, from when it is made until `remove`.

    The first call of each shape is made at once, for the form of its answer is not known; so is every call in which
    autograd, autocast, inference mode or `torch.compile` takes part, and what it makes might depend on when.
    """

    def __init__(self, pipe: Any, name: str, module: nn.Module) -> None:
        self._pipe, self._name, self._module = weakref.ref(pipe), name, module
        self._slot = ForwardSlot(module)
        self._forms: dict[Signature, Form | None] = {}
        self._thread = threading.local()
        self._on = True
        self._try_to_keep, self._learn = outside(self._kept), outside(self._note)
        around(self._answer)
        self._slot.put(self._answer)
        _deferring.add(module)

    def remove(self) -> None:
        """Put the ControlNet's forward back."""
        self._on = False
        self._slot.restore()
        _deferring.discard(self._module)

    def _answer(self, *args: Any, **kwargs: Any) -> Any:
        found = self._try_to_keep(args, kwargs)
        if found is None:
            found = self._slot.original(*args, **kwargs)
            self._learn(args, kwargs, found)
        return found

    def _make(self, *args: Any, **kwargs: Any) -> Any:
        self._thread.makes = True
        try:
            with torch.no_grad():
                return self._module(*args, **kwargs)  # under its hooks, which bring its weights
        finally:
            self._thread.makes = False

    def _note(self, args: tuple[Any, ...], kwargs: dict[str, Any], answer: Any) -> None:
        if len(self._forms) >= MAX_FORMS:
            self._forms.clear()
        self._forms[signature((args, kwargs))] = form_of(answer)

    def _kept(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Stand-ins for the answer; None if the call is to be made now."""
        if not self._on or getattr(self._thread, "makes", False) or not self._may_wait(args, kwargs):
            return None
        form = self._forms.get(signature((args, kwargs)))
        return KeptCall(self._make, form, args, kwargs).stand_ins() if form is not None else None

    def _may_wait(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        module = self._module
        if module.training or torch.is_grad_enabled() or module._compiled_call_impl is not None:  # noqa: SLF001
            return False
        if getattr(self._pipe(), self._name, None) is not module:  # compiled, or another by now
            return False
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        return not any(t.is_inference() or torch.is_autocast_enabled(t.device.type) for t in tensors)


def defer_control(pipe: object, points: Mapping[str, Sequence[CachePoint]]) -> list[Deferral]:
    """Let a pipeline's ControlNets wait, but those that wait already, if no network reads them on a predicted step.

    Args:
        points: where the networks that follow a plan are cached, by component name.
    """
    if points.keys() != find_transformers(pipe).keys() or not all(
        p.skips_loop for each in points.values() for p in each
    ):
        return []
    found = {name: module for name, module in find_components(pipe).items() if CONTROL.match(name)}
    return [Deferral(pipe, name, module) for name, module in found.items() if module not in _deferring]
