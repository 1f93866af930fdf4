"""Instance forwards: replaced, and put back exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from hyca_runtime.errors import AttachError

__all__ = ["Patch"]


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
        """Put back what was there.

        Raises:
            AttachError: something wrapped the attribute after us.
        """
        if not self.in_place:
            raise AttachError(
                f"{type(self._owner).__name__}.{self._name} was wrapped again after the plan was applied; "
                "remove what was added last (offload, another cache), then remove the plan"
            )
        if self._shadowed is None:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._shadowed)


def is_patched(module: nn.Module) -> bool:
    """Whether a HyCa handler drives `module` already."""
    return getattr(vars(module).get("forward"), "_hyca", False) is True
