"""Computing when what is signal, at the present level of noise, has changed enough (SeaCache, arXiv 2602.18993)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from hyca_runtime.errors import PlanMismatchError
from hyca_runtime.moment import Moment
from hyca_runtime.policies.accumulated_change import AccumulatedChange
from hyca_runtime.policies.base import register_policy


def wiener_gain(grid: Sequence[int], level: float, power: float, device: torch.device | str = "cpu") -> Tensor:
    r"""Gains of the frequencies of a grid that leave what is signal, of mean 1; shape `grid`.

    Of a signal of power :math:`|f|^{-p}` on each axis, scaled by a = 1 - level beside white noise scaled by b = level,
    the Wiener filter keeps :math:`a / (a^2 + b^2 |f|^p)`; the axes' gains are multiplied.
    """
    b = min(max(level, 1e-6), 1 - 1e-6)
    a, gain = 1 - b, torch.ones((), device=device)
    for size in grid:
        frequencies = torch.fft.fftfreq(size, device=device).abs()
        gain = gain[..., None] * (a / (a * a + b * b * frequencies**power))
    return gain / gain.mean()


@register_policy
@dataclass(frozen=True)
class FilteredChange(AccumulatedChange):
    """Sums the relative change of the filtered probe from call to call, and computes once it reaches `threshold`.

    The filter is that of the noise at each call's own step, see `wiener_gain`.

    Args:
        levels: share of noise at each step of the plan, from 0 to 1.
        grid: how the probe's tokens lie, the last axis runs fastest.
        power: p, how fast the signal's power falls with the frequency.
        blocks: how many blocks are the probe.
        consecutive: most calls in a row that are not computed; None for any number.
        retained, last: steps at the start and at the end of the run that are computed.
    """

    threshold: float
    levels: tuple[float, ...]
    grid: tuple[int, ...]
    power: float = 2.0
    blocks: int = 1
    consecutive: int | None = 2
    retained: int = 1
    last: int = 1
    name: ClassVar[str] = "filtered_change"

    def __post_init__(self) -> None:
        self._check_probe(self.threshold)
        object.__setattr__(self, "levels", tuple(self.levels))
        object.__setattr__(self, "grid", tuple(self.grid))
        if not self.levels or not all(0 <= level <= 1 for level in self.levels):
            raise ValueError("filtered_change: levels must be shares of noise from 0 to 1, one for each step")
        if not self.grid or not all(type(size) is int and size > 0 for size in self.grid):
            raise ValueError(f"filtered_change: grid must be numbers of tokens, got {list(self.grid)}")
        if not self.power > 0:
            raise ValueError(f"filtered_change: power must be positive, got {self.power}")
        if min(self.retained, self.last) < 0 or (self.consecutive is not None and self.consecutive < 1):
            raise ValueError("filtered_change: retained and last must be 0 or more, consecutive 1 or more or None")

    def look(self, probe: Tensor, added: Tensor, position: float) -> Tensor:
        """The filtered tokens ``(sample, *grid, channel)``.

        Raises:
            PlanMismatchError: there are not as many as the grid has.
        """
        del added
        if probe.ndim != 3 or probe.shape[1] != math.prod(self.grid):
            shape = " x ".join(map(str, self.grid))
            raise PlanMismatchError(f"the plan's filter is for {shape} tokens, got {tuple(probe.shape)}; search again")
        level = float(np.interp(position, range(len(self.levels)), self.levels))
        gain, axes = wiener_gain(self.grid, level, self.power, probe.device), tuple(range(1, 1 + len(self.grid)))
        spectrum = torch.fft.fftn(probe.float().reshape(len(probe), *self.grid, -1), dim=axes)
        filtered: Tensor = torch.fft.ifftn(spectrum * gain[..., None], dim=axes).real
        return filtered  # in float32: near pure noise it exceeds float16

    def forces(self, moment: Moment, skipped: int) -> bool:
        often = self.consecutive is not None and skipped >= self.consecutive
        return often or not self.retained <= moment.position < moment.num_steps - self.last
