"""What is said about a call beside its arguments: by diffusers' ``cache_context``, or by the caller."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from hyca_runtime.attach.forwards import Patch, Replacement

__all__ = ["Context"]


class Context(threading.local):
    """What this thread has said: the guidance branch, and perhaps the step.

    Attributes:
        branch: name of the guidance branch, "" if none was said.
        step: the step, None if it was not said.
    """

    def __init__(self) -> None:
        self.branch = ""
        self.step: int | None = None

    @contextmanager
    def saying(self, branch: str | None = None, step: int | None = None) -> Iterator[None]:
        """Let calls inside be of `branch` and at `step`; what is None stays as it was."""
        outer = self.branch, self.step
        self.branch = self.branch if branch is None else branch
        self.step = self.step if step is None else step
        try:
            yield
        finally:
            self.branch, self.step = outer

    def listen(self, module: nn.Module) -> list[Patch]:
        """Overhear the names a pipeline gives to ``module.cache_context``."""
        inner = getattr(module, "cache_context", None)
        if inner is None:
            return []

        @contextmanager
        def cache_context(name: str, **fields: Any) -> Iterator[None]:
            with self.saying(branch=name), inner(name, **fields):
                yield

        return [Patch(module, "cache_context", Replacement(module, "cache_context", cache_context))]
