"""Names of things that outsiders may add: solvers here, clusterers in `hyca_calib`.

Another distribution adds one by an entry point::

    [project.entry-points."hyca.solvers"]
    my_solver = "my_package.my_module:MySolver"
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from hyca_runtime.errors import HycaError

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping from names to objects, completed by the entry points of `group`."""

    def __init__(self, kind: str, group: str) -> None:
        self._kind = kind
        self._group = group
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> None:
        """Make `entry` known as `name`.

        Raises:
            HycaError: the name is taken.
        """
        if name in self._entries:
            raise HycaError(f"{self._kind} {name!r} is registered already; choose another name")
        self._entries[name] = entry

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            for point in entry_points(group=self._group, name=name):
                self._entries[name] = point.load()
        if name not in self._entries:
            hint = did_you_mean(name, self)
            raise HycaError(f"unknown {self._kind} {name!r}{hint} Known: {', '.join(sorted(self))}.")
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)


def did_you_mean(word: str, known: Iterator[str] | Registry[T] | list[str]) -> str:
    """``; did you mean "x"?`` for the closest known word, else a full stop."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f'; did you mean "{close[0]}"?' if close else "."
