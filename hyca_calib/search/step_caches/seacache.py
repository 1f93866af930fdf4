"""SeaCache, arXiv 2602.18993: the change of what is signal, at the present level of noise, decides."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from hyca_calib.search.problem import Problem
from hyca_calib.search.sources import SEACACHE
from hyca_calib.search.step_caches.rule import Rule
from hyca_calib.search.watched_run import WatchedCall
from hyca_runtime.errors import AttachError
from hyca_runtime.policies import FilteredChange
from hyca_runtime.solvers import Newton

VIDEO, IMAGE = 3.0, 2.0
"""How fast the power of a signal falls with the frequency, as published."""


@dataclass(frozen=True)
class SeaCache(Rule):
    """The settings of SeaCache, but the threshold.

    Attributes:
        levels, grid, power: of the filter, see `FilteredChange`; until a call of the network is known those of nothing.
        consecutive: the most steps in a row that are not computed.
    """

    levels: tuple[float, ...] = (0.0,)
    grid: tuple[int, ...] = (1,)
    power: float = IMAGE
    consecutive: int | None = 2
    preset: ClassVar[str] = SEACACHE

    @property
    def solver(self) -> Newton:
        return Newton(1)

    def policy(self, threshold: float) -> FilteredChange:
        return FilteredChange(threshold, self.levels, self.grid, self.power, self.probes, self.consecutive)

    def easier(self) -> tuple[Self, ...]:
        return (self, *(replace(self, consecutive=most) for most in (4, 9, None)))

    def fitting(self, problem: Problem, network: nn.Module, call: WatchedCall) -> Self:
        levels = tuple(problem.trace.sigmas[:-1].tolist())
        if not all(0 <= level <= 1 for level in levels):
            raise AttachError("seacache filters by the level of noise, and the trace's scheduler does not tell it")
        grid = token_grid(network, call)
        return replace(self, levels=levels, grid=grid, power=VIDEO if len(grid) > 2 else IMAGE)


def token_grid(network: nn.Module, call: WatchedCall) -> tuple[int, ...]:
    """How the tokens of the probe lie, without axes of a single one.

    Raises:
        AttachError: the call does not tell, or there are other tokens, too.
    """
    ids, latents = call.kwargs.get("img_ids"), call.kwargs.get("hidden_states", next(iter(call.args), None))
    sizes = list[int]()
    if isinstance(ids, Tensor):  # the place of each token
        sizes = [len(torch.unique(axis)) for axis in ids.flatten(0, -2).unbind(-1)]
    elif isinstance(latents, Tensor) and latents.ndim > 3:
        shape = latents.shape[2:]
        sizes = [size // patch for size, patch in zip(shape, _patches(network, len(shape)), strict=True)]
    tokens = 0 if call.probe is None else call.probe.reached.shape[1]
    if math.prod(sizes) != tokens or tokens < 2:
        kind = type(network).__name__
        raise AttachError(
            f"seacache filters tokens that lie as the latents do; {tokens} come out of the first block of {kind}, "
            f"and its call tells of {' x '.join(map(str, sizes)) or 'no grid'}"
        )
    return tuple(size for size in sizes if size > 1)


def _patches(network: nn.Module, axes: int) -> tuple[int, ...]:
    """How many latents a token has on each of the last axes."""
    config: Any = getattr(network, "config", {})
    size = config.get("patch_size", 1)
    whole = tuple(size) if isinstance(size, list | tuple) else (config.get("patch_size_t") or 1, size, size)
    return (1,) * (axes - len(whole)) + whole[-axes:]
