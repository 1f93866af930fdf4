"""Whatever is done to a pipeline meanwhile is undone.

Most methods are other people's code. Some leave a bound `forward` behind, some put a network's lists of blocks back in
another order, which caches that read that order then take for another network.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["hook_registries", "untouched"]


def hook_registries(network: nn.Module) -> list[Any]:
    """Where diffusers keeps the hooks of the network's modules."""
    attributes = [vars(module) for module in network.modules()]
    return [of_module["_diffusers_hook"] for of_module in attributes if "_diffusers_hook" in of_module]


@contextmanager
def untouched(pipe: Any) -> Iterator[None]:
    """`pipe` gets back its attributes and methods, and its networks the modules, order, classes, methods and hooks."""
    kind = type(pipe)
    networks = [part for part in vars(pipe).values() if isinstance(part, nn.Module)]
    modules = [module for network in networks for module in network.modules()]
    registries = [registry for network in networks for registry in hook_registries(network)]
    methods, restorers = dict(vars(kind)), [_restorer(owner) for owner in (pipe, *modules, *registries)]
    try:
        yield
    finally:
        for restore in restorers:
            restore()
        for name in vars(kind).keys() - methods.keys():
            delattr(kind, name)
        for name, method in methods.items():
            if vars(kind).get(name) is not method:
                setattr(kind, name, method)


def _restorer(owner: Any) -> Callable[[], None]:
    """Gives an object its class and attributes back, and its dictionaries and lists what they hold now."""
    kind, attributes = type(owner), dict(vars(owner))
    held = [
        (value, copy.copy(value))
        for value in attributes.values()
        if type(value) in (dict, OrderedDict, list)  # tensors and modules have a content that nobody changes
    ]

    def restore() -> None:
        owner.__class__ = kind
        vars(owner).clear()
        vars(owner).update(attributes)
        for value, content in held:
            value.clear()
            value.extend(content) if isinstance(value, list) else value.update(content)

    return restore
