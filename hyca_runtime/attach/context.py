"""What is said about a call beside its arguments: by diffusers' ``cache_context``, or by the caller."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from operator import index
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


class Context(threading.local):
    """What this thread has said about its calls of one network.

    Attributes:
        branch: name of the guidance branch, "" if none was said.
        step: the step, None if it was not said.
        lane: which of several samplers that this thread runs in turn.
        chunk: which part of a long video, None if it is not made in parts.
        pipe: the pipeline that this thread runs, None for that the plan was applied to.
        plan: what its calls follow, None for the usual.
    """

    def __init__(self) -> None:
        self.branch = ""
        self.step: int | None = None
        self.lane = 0
        self.chunk: int | None = None
        self.pipe: Any = None
        self.plan: Any = None

    @contextmanager
    def saying(self, **what: Any) -> Iterator[None]:
        """Set attributes for the calls inside; what is None stays as it was."""
        said = {name: value for name, value in what.items() if value is not None}
        outer = {name: getattr(self, name) for name in said}
        vars(self).update(said)
        try:
            yield
        finally:
            vars(self).update(outer)

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
