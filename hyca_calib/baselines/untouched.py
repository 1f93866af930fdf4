"""Whatever is done to a pipeline meanwhile is undone.

Rivals are other people's code. Some leave a bound `forward` behind, some put a network's lists of blocks back in
another order, which caches that read that order then take for another network.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["untouched"]

REGISTRY = "_diffusers_hook"
"""Where diffusers keeps the hooks of a module."""


@contextmanager
def untouched(pipe: Any) -> Iterator[None]:
    """`pipe` gets back its attributes and methods, and its networks the modules, order, classes, methods and hooks."""
    kind = type(pipe)
    networks = [part for part in vars(pipe).values() if isinstance(part, nn.Module)]
    modules = [module for network in networks for module in network.modules()]
    registries = [vars(module)[REGISTRY] for module in modules if REGISTRY in vars(module)]
    methods, kept = dict(vars(kind)), [_Kept(owner) for owner in (pipe, *modules, *registries)]
    try:
        yield
    finally:
        for one in kept:
            one.put_back()
        for name in vars(kind).keys() - methods.keys():
            delattr(kind, name)
        for name, method in methods.items():
            if vars(kind).get(name) is not method:
                setattr(kind, name, method)


class _Kept:
    """The class and attributes of an object, and what its dictionaries and lists held."""

    def __init__(self, owner: Any) -> None:
        self._owner, self._kind, self._values = owner, type(owner), dict(vars(owner))
        self._held = [
            (value, copy.copy(value))
            for value in self._values.values()
            if type(value) in (dict, OrderedDict, list)  # tensors and modules have a content that nobody changes
        ]

    def put_back(self) -> None:
        self._owner.__class__ = self._kind
        vars(self._owner).clear()
        vars(self._owner).update(self._values)
        for value, content in self._held:
            value.clear()
            value.extend(content) if isinstance(value, list) else value.update(content)
