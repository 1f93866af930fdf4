"""What is said about a call beside its arguments: by diffusers' ``cache_context``, or by the caller."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from operator import index
from types import MappingProxyType
from typing import Any

from torch import nn

from hyca_runtime.attach.forwards import Patch, Replacement
from hyca_runtime.errors import ClockError


def step_number(step: Any, what: str = "step") -> int:
    """A step as it is said, or whatever else is counted.

    Raises:
        ClockError: it is no whole number from 0 on.
    """
    try:
        number = index(step)
    except TypeError:
        number = -1
    if number < 0:
        raise ClockError(f"expected the number of a {what}, a whole one from 0 on, got {step!r}")
    return number


@dataclass(frozen=True)
class Said:
    """What was said of the calls of one network.

    Attributes:
        branch: name of the guidance branch, "" if none was said.
        step: the step, None if it was not said.
        lane: which of several samplers that take turns.
        chunk: which part of a long video, None if it is not made in parts.
        pipe: the pipeline that calls, None for that the plan was applied to.
        plan: what the calls follow, None for the usual.
    """

    branch: str = ""
    step: int | None = None
    lane: int = 0
    chunk: int | None = None
    pipe: Any = None
    plan: Any = None


_NOTHING = Said()
_SAID: ContextVar[Mapping[Context, Said]] = ContextVar("what is said of calls", default=MappingProxyType({}))


class Context:
    """What is said of the calls of one network: in a thread, or a task of an event loop, until a block ends."""

    @property
    def said(self) -> Said:
        """What the calling thread or task has said."""
        return _SAID.get().get(self, _NOTHING)

    @contextmanager
    def saying(self, **what: Any) -> Iterator[None]:
        """Say more of the calls inside; what is None stays as it was."""
        before = self.said
        self._set(replace(before, **{name: value for name, value in what.items() if value is not None}))
        try:
            yield
        finally:
            self._set(before)

    def _set(self, said: Said) -> None:
        others = {context: of for context, of in _SAID.get().items() if context is not self}
        _SAID.set(others if said is _NOTHING else {**others, self: said})

    def listen(self, module: nn.Module) -> list[Patch]:
        """Overhear the names a pipeline gives to ``module.cache_context``, and ``chunk`` and ``step`` of a long video.

        A context that does not take the last two is not told them.
        """
        inner = getattr(module, "cache_context", None)
        if inner is None:
            return []
        taken = inspect.signature(inner).parameters

        @contextmanager
        def cache_context(name: str, **fields: Any) -> Iterator[None]:
            said = {of: step_number(fields[of], of) for of in ("chunk", "step") if fields.get(of) is not None}
            passed = {of: value for of, value in fields.items() if of in taken or of not in said}
            with self.saying(branch=name, **said), inner(name, **passed):
                yield

        return [Patch(module, "cache_context", Replacement(module, "cache_context", cache_context))]
