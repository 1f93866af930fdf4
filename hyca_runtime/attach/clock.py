"""Telling the step of a network call: never by counting calls.

Three sources, the first that speaks wins: `Clock.at` (the caller says), the fields a pipeline gives
to diffusers' ``cache_context``, and the timestep the network is called with, looked up in the plan's.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hyca_runtime.attach.forwards import Patch
from hyca_runtime.errors import ClockError

__all__ = ["Clock", "ContextTap", "Tick"]

TIMESTEP_NAMES = ("timestep", "timesteps", "t")


class ContextTap:
    """Overhears the names and steps a pipeline gives to ``module.cache_context``."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self.branch = ""
        self.step_index: int | None = None

    def install(self) -> list[Patch]:
        inner = getattr(self._module, "cache_context", None)
        if inner is None:
            return []

        @contextlib.contextmanager
        def cache_context(name: str, **fields: Any) -> Iterator[None]:
            outer = self.branch, self.step_index
            self.branch, self.step_index = name, fields.get("step_index")
            try:
                with inner(name, **fields):
                    yield
            finally:
                self.branch, self.step_index = outer

        return [Patch(self._module, "cache_context", cache_context)]


@dataclass(frozen=True)
class Tick:
    """A network call as the clock sees it; `step` is None where the grid knows no such time."""

    step: int | None
    time: float
    branch: str


class Clock:
    """Matches calls of a network to the steps of a known time grid.

    Args:
        module: the network; its forward must take a timestep, by one of the usual names.
        context: the overheard context.
        timesteps: what the network is called with on each step; None if not known yet.

    Raises:
        ClockError: the network's forward has no timestep argument.
    """

    def __init__(self, module: nn.Module, context: ContextTap, timesteps: Sequence[float] | None = None) -> None:
        names = list(inspect.signature(module.forward).parameters)
        found = [name for name in TIMESTEP_NAMES if name in names]
        if not found:
            raise ClockError(
                f"{type(module).__name__}.forward takes none of {', '.join(TIMESTEP_NAMES)}; "
                "no step can be told, so no plan can be applied"
            )
        self._name, self._position = found[0], names.index(found[0])
        self._context = context
        self._timesteps = torch.tensor(timesteps, dtype=torch.float64) if timesteps is not None else None
        self._said: int | None = None

    @contextlib.contextmanager
    def _saying(self, step: int) -> Iterator[None]:
        self._said = step
        try:
            yield
        finally:
            self._said = None

    def at(self, step: int) -> AbstractContextManager[None]:
        """Calls inside this context are at `step`, whatever their timestep."""
        return self._saying(step)

    def read(self, args: tuple[Any, ...], kwargs: dict[str, Any], after: int) -> Tick:
        """The moment of a call.

        Args:
            args, kwargs: what the network is called with.
            after: the stream's last step. In half precision several steps may share one timestep;
                the first beyond `after` is taken.

        Raises:
            ClockError: the call carries no timestep.
        """
        value = args[self._position] if self._position < len(args) else kwargs.get(self._name)
        if value is None:
            raise ClockError(f"the network was called without {self._name!r}; say the step: with session.at(step)")
        time, tolerance = _scalar(value)
        if self._said is not None:
            step: int | None = self._said
        elif self._context.step_index is not None:
            step = self._context.step_index
        else:
            step = self._match(time, tolerance, after)
        return Tick(step, time, self._context.branch)

    def _match(self, time: float, tolerance: float, after: int) -> int | None:
        if self._timesteps is None:
            return None
        near = (self._timesteps - time).abs() <= tolerance * self._timesteps.abs().clamp(min=1e-6)
        steps: list[int] = near.nonzero().flatten().tolist()
        return next((step for step in steps if step > after), steps[0] if steps else None)


def _scalar(value: Any) -> tuple[float, float]:
    """A timestep argument as a number, with the relative rounding error of its dtype."""
    if not isinstance(value, Tensor):
        return float(value), 1e-6
    time = float(value.flatten()[0])
    rounding = torch.finfo(value.dtype).eps if value.is_floating_point() else 0.0
    return time, max(2 * rounding, 1e-6)
