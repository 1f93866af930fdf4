"""From changes of layers to the steps on which they run, under one threshold for all kinds or under a budget."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hyca_calib.costs.budget import Budget
from hyca_calib.search.smoothcache.calibration import FAR, Changes
from hyca_calib.search.smoothcache.layers import Layers, Reused
from hyca_runtime.errors import BudgetError

Runs = Mapping[str, Sequence[bool]]
"""By point, whether its layers run on each step."""


@dataclass(frozen=True)
class Reach:
    """How far reuse goes.

    Attributes:
        num_steps: of the sampler.
        lookahead: most steps in a row that repeat an output.
        first: leading steps that run in any case.
    """

    num_steps: int
    lookahead: int = 3
    first: int = 1


def smooth_runs(changes: Sequence[Sequence[float]], threshold: float, reach: Reach) -> tuple[bool, ...]:
    """Whether the layers of one kind run on each step.

    A step that runs is repeated on as many steps as the change to the last of them allows: changes to those between
    are not looked at. The first and the last step run.

    Args:
        changes: ``[j - 1][t]``, the change from step t to t + j.
    """
    runs, step = [True] * reach.num_steps, reach.first - 1
    while step < reach.num_steps:
        near = [j for j, row in enumerate(changes, 1) if step < len(row) and row[step] <= threshold]
        repeated = max(near, default=0)
        runs[step + 1 : step + 1 + repeated] = [False] * repeated
        step += repeated + 1
    runs[-1] = True
    return tuple(runs)


def reused_at(runs: Runs, step: int) -> Reused:
    """The points that repeat their output at a step."""
    return tuple(name for name, of_name in runs.items() if not of_name[step])


def run_flops(runs: Runs, layers: Layers, num_steps: int) -> float:
    """FLOPs of the network in a run of one sample."""
    return sum(layers.flops[reused_at(runs, step)] for step in range(num_steps))


def check_budget(budget: Budget, layers: Layers, reach: Reach) -> None:
    """Whether a budget can be met at all.

    Raises:
        BudgetError: not even reusing everything that may be reused does it.
    """
    never = [[0.0] * (reach.num_steps - j) for j in range(1, min(reach.lookahead + 1, reach.num_steps))]
    least = run_flops(dict.fromkeys(layers.points, smooth_runs(never, 0.0, reach)), layers, reach.num_steps)
    if least > _allowed(budget, layers, reach):
        most = math.floor(100 * reach.num_steps * layers.full_flops / least) / 100
        raise BudgetError(
            f"budget {budget.text!r} cannot be met by smoothcache: with layers of {' and '.join(layers.points)} reused "
            f"on at most {reach.lookahead} steps in a row, and the rest of the network live, {most}x is "
            "the most; ask for less, or raise --lookahead"
        )


def choose_runs(changes: Changes, budget: Budget, layers: Layers, reach: Reach) -> tuple[float, Runs]:
    """The threshold whose schedules spend most of a budget, and those schedules.

    Only the changes themselves are tried: between two of them nothing is decided otherwise.

    Raises:
        BudgetError: no threshold meets it.
    """
    check_budget(budget, layers, reach)
    allowed, most, chosen = _allowed(budget, layers, reach), 0.0, None
    for threshold in sorted({0.0, *(value for rows in changes.values() for row in rows for value in row)} - {FAR}):
        runs = {name: smooth_runs(rows, threshold, reach) for name, rows in changes.items()}
        spent = run_flops(runs, layers, reach.num_steps)
        if most < spent <= allowed:
            most, chosen = spent, (threshold, runs)
    if chosen is None:
        raise BudgetError(f"budget {budget.text!r} cannot be met: the shapes of layers change during the run")
    return chosen


def _allowed(budget: Budget, layers: Layers, reach: Reach) -> float:
    return (1 + 1e-9) * budget.most_flops(layers.full_flops, min(layers.flops.values()), reach.num_steps)
