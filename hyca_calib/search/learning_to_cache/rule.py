"""From a router to the steps on which layers run, above a threshold of its own or under a budget."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hyca_calib.costs.budget import Budget
from hyca_calib.search.replay import Array
from hyca_calib.search.smoothcache.layers import Layers
from hyca_runtime.errors import BudgetError

HALF = 0.5
"""The threshold that training holds against its budget."""


@dataclass(frozen=True)
class Gated:
    """The layers and steps that a router has a gate for.

    Attributes:
        names: of the points of single layers.
        steps: those on which they may repeat their latest output.
        saved: FLOPs that each of them then saves, ``(layer,)``.
    """

    names: tuple[str, ...]
    steps: tuple[int, ...]
    num_steps: int
    full_flops: float
    saved: Array

    def allowed(self, budget: Budget) -> float:
        """The most FLOPs of a run, rounding forgiven."""
        least = self.full_flops - float(self.saved.sum())
        return (1 + 1e-9) * budget.most_flops(self.full_flops, least, self.num_steps)

    def run_flops(self, reused: Array | NDArray[np.bool_]) -> float:
        """FLOPs of the network in a run of one sample.

        Args:
            reused: whether layers repeat their output, ``(step, layer)``.
        """
        return self.num_steps * self.full_flops - float((reused @ self.saved).sum())


def gated_steps(num_steps: int, first: int, free: bool) -> tuple[int, ...]:
    """The steps on which layers may repeat their output: every other one as published, or all.

    Args:
        first: leading steps that run in any case.
    """
    return tuple(range(first, num_steps, 1 if free else 2))


def gated(layers: Layers, num_steps: int, first: int, free: bool) -> Gated:
    """What a router decides about."""
    names = tuple(layers.points)
    saved = np.array([layers.full_flops - layers.flops[name,] for name in names])
    return Gated(names, gated_steps(num_steps, first, free), num_steps, layers.full_flops, saved)


def runs_of(router: Array, threshold: float, site: Gated) -> dict[str, tuple[bool, ...]]:
    """Whether each layer runs on each step: where its gate is above the threshold, and on all steps without a gate.

    Args:
        router: gates ``(step, layer)``.
    """
    runs = np.ones((site.num_steps, len(site.names)), dtype=bool)
    runs[list(site.steps)] = router > threshold
    return {name: tuple(of.tolist()) for name, of in zip(site.names, runs.T, strict=True)}


def least_threshold(values: Array, budget: Budget, site: Gated) -> float:
    """The least threshold under which a budget is met, if a layer runs where its value is above it.

    Args:
        values: ``(step, layer)``.

    Returns:
        One of the values; minus infinity if all layers may run.

    Raises:
        BudgetError: not even repeating all that may be repeated meets it.
    """
    check_budget(budget, site)
    if site.run_flops(np.zeros_like(values)) <= site.allowed(budget):
        return -math.inf
    order = np.sort(np.unique(values))
    low, high = 0, len(order) - 1  # the last one repeats all
    while low < high:
        middle = (low + high) // 2
        enough = site.run_flops(values <= order[middle]) <= site.allowed(budget)
        low, high = (low, middle) if enough else (middle + 1, high)
    return float(order[high])


def check_budget(budget: Budget, site: Gated) -> None:
    """Whether a budget can be met at all.

    Raises:
        BudgetError: not even repeating all that may be repeated meets it.
    """
    least = site.run_flops(np.ones((len(site.steps), len(site.names))))
    if least > site.allowed(budget):
        most = math.floor(100 * site.num_steps * site.full_flops / least) / 100
        raise BudgetError(
            f"budget {budget.text!r} cannot be met by learning-to-cache: with every layer repeated on "
            f"{len(site.steps)} of {site.num_steps} steps, and the rest of the network live, {most}x is the most; "
            "ask for less, or let it choose the steps with --free"
        )


def patterns_of(runs: Mapping[str, Sequence[bool]]) -> dict[tuple[bool, ...], list[str]]:
    """The layers by the steps on which they run, those that always run left out unless all do."""
    found = dict[tuple[bool, ...], list[str]]()
    for name, steps in runs.items():
        found.setdefault(tuple(steps), []).append(name)
    return {steps: names for steps, names in found.items() if not all(steps)} or found
