"""Instance methods: replaced, and put back exactly."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import nn

__all__ = ["Patch", "Replacement"]


class Replacement:
    """A callable in the place of a method of `owner`.

    A deep copy of the owner gets the plain method of its class back: a copied network follows no plan.
    """

    def __init__(self, owner: nn.Module, name: str, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, getattr(owner, name), updated=())
        self._owner, self._name, self._function = owner, name, function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = memo.get(id(self._owner))
        return MethodType(getattr(type(self._owner), self._name), copied) if copied is not None else self


class Patch:
    """One replaced attribute of one object, an instance attribute that shadows the class's own."""

    def __init__(self, owner: Any, name: str, replacement: Callable[..., Any]) -> None:
        self._owner = owner
        self._name = name
        self._shadowed = vars(owner).get(name)
        self._replacement = replacement
        setattr(owner, name, replacement)

    @property
    def in_place(self) -> bool:
        """Whether the attribute is still ours, not wrapped again by somebody else."""
        return vars(self._owner).get(self._name) is self._replacement

    def remove(self) -> None:
        """Put back what was there, if the attribute is still ours; else leave it to who wrapped it."""
        if not self.in_place:
            return
        if self._shadowed is None:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._shadowed)
