"""Other ways to find a schedule, as controls; all score by the same table of gap costs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hyca_calib.search.exact import GapTable
from hyca_runtime.schedule import Schedule
from studies.paper.planning.table_cost import table_cost
from studies.paper.replay_setup import Array

Steps = NDArray[np.int64]

HOT, COLD = 0.3, 0.01  # temperatures, in units of log cost: the end of a run minds differences of one per cent
CHUNK = 1 << 17


def anneal(
    table: GapTable, count: int, evaluations: int, restarts: int, rng: np.random.Generator
) -> tuple[Steps, Array]:
    """Simulated annealing over masks of `count` computed steps, several independent runs side by side.

    A move takes one computed step elsewhere: the nearer the likelier, within a reach that is drawn anew between
    one step and the whole run. Acceptance is Metropolis on the log of the cost, whose scale then does not matter;
    the temperature falls geometrically.

    Args:
        count: at least 2; step 0 is always computed.
        evaluations: schedules that each run scores.

    Returns:
        The best schedule of each run ``(restart, count)`` and its cost ``(restart,)``.
    """
    steps, run = table.num_steps, np.arange(restarts)
    now = draw(steps, count, restarts, rng)
    energy = np.log(table_cost(table, now))
    best, lowest = now.copy(), energy.copy()
    for temperature in np.geomspace(HOT, COLD, evaluations - 1):
        moved = rng.integers(1, count, restarts)
        reach = steps ** rng.random((restarts, 1))
        chances = rng.gumbel(size=(restarts, steps)) - np.abs(np.arange(steps) - now[run, moved][:, None]) / reach
        np.put_along_axis(chances, now, -np.inf, axis=1)
        new = now.copy()
        new[run, moved] = chances.argmax(1)
        new.sort(axis=1)
        found = np.log(table_cost(table, new))
        accepted = np.log(rng.random(restarts)) * temperature < energy - found
        now[accepted], energy[accepted] = new[accepted], found[accepted]
        better = energy < lowest
        best[better], lowest[better] = now[better], energy[better]
    return best, table_cost(table, best)


def random_search(table: GapTable, count: int, evaluations: int, rng: np.random.Generator) -> tuple[Steps, float]:
    """The best of schedules drawn uniformly, and its cost."""
    sizes = [min(CHUNK, evaluations - done) for done in range(0, evaluations, CHUNK)]
    return _cheapest(table, (draw(table.num_steps, count, size, rng) for size in sizes))


def enumerate_all(table: GapTable, count: int) -> tuple[Steps, float]:
    """The best of all schedules of `count` steps, by trying each, and its cost."""
    chosen = itertools.combinations(range(1, table.num_steps), count - 1)
    rows = math.comb(table.num_steps - 1, count - 1)

    def chunks() -> Iterator[Steps]:
        for done in range(0, rows, CHUNK):
            size = min(CHUNK, rows - done)
            flat = itertools.chain.from_iterable(itertools.islice(chosen, size))
            rest = np.fromiter(flat, dtype=np.int64, count=size * (count - 1)).reshape(size, count - 1)
            yield np.pad(rest, ((0, 0), (1, 0)))

    return _cheapest(table, chunks())


def even_schedule(num_steps: int, count: int) -> Schedule:
    """Exactly `count` steps as evenly spaced as whole steps can be."""
    return Schedule.from_steps(num_steps, [i * num_steps // count for i in range(count)])


def draw(num_steps: int, count: int, size: int, rng: np.random.Generator) -> Steps:
    """Schedules drawn uniformly, ``(size, count)``, step 0 always among them."""
    rest = rng.random((size, num_steps - 1)).argsort(axis=1)[:, : count - 1] + 1
    return np.pad(np.sort(rest, axis=1), ((0, 0), (1, 0)))


def _cheapest(table: GapTable, chunks: Iterator[Steps]) -> tuple[Steps, float]:
    found = []
    for computed in chunks:
        costs = table_cost(table, computed)
        at = int(costs.argmin())
        found.append((computed[at], float(costs[at])))
    return min(found, key=lambda pair: pair[1])
