"""Instance methods: replaced, and put back exactly.

Offloaders and caches stack hooks on a network by replacing its `forward`, and put back later what
they found. So the runtime's own replacement lies below them all, where the class's method was.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import nn


class Replacement:
    """A callable in the place of a method of `owner`.

    A copy of the owner, deep or pickled, gets the plain method of its class back: a copied network follows no plan.
    """

    def __init__(self, owner: Any, name: str, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, getattr(owner, name), updated=())
        self._owner, self._name, self._function = owner, name, function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._owner, self._name)  # the copied owner, which has no attribute of that name yet


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


class ForwardSlot:
    """The place of a network's own forward, under the hooks of accelerate and diffusers if there are any.

    Attributes:
        original: the forward that lies there.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._owner, self._name = self._innermost()
        self.original: Callable[..., Any] = getattr(self._owner, self._name)
        self._replacement: Replacement | None = None

    def put(self, function: Callable[..., Any]) -> None:
        """Let `function` be called instead of the original."""
        self._replacement = Replacement(self._module, "forward", function)
        setattr(self._owner, self._name, self._replacement)

    def restore(self) -> None:
        """Put the original wherever the replacement lies by now; nowhere if something unknown wrapped it."""
        for owner, name in self._places():
            if self._replacement is not None and vars(owner).get(name) is self._replacement:
                if owner is self._module and name == "forward" and self._is_own(self.original):
                    delattr(owner, name)
                else:
                    setattr(owner, name, self.original)

    def _innermost(self) -> tuple[Any, str]:
        held = ((owner, name) for owner, name in self._places() if self._is_own(getattr(owner, name, None)))
        return next(held, (self._module, "forward"))

    def _places(self) -> list[tuple[Any, str]]:
        """Where hooks keep the forward they found, the innermost first."""
        hooked = getattr(getattr(self._module, "_diffusers_hook", None), "_fn_refs", ())
        found = [(r, "forward" if r.original_forward is None else "original_forward") for r in hooked]
        kept = [(self._module, "_old_forward")] if "_old_forward" in vars(self._module) else []
        return [*found, *kept, (self._module, "forward")]

    def _is_own(self, function: Any) -> bool:
        return isinstance(function, MethodType) and function.__self__ is self._module
