"""Other ways to find a schedule, as controls; all score by the same table of gap costs."""

import numpy as np
from numpy.typing import NDArray

from hyca_calib.search.exact import GapTable
from hyca_calib.search.replay import Array
from hyca_runtime.schedule import Schedule

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
    best, lowest = np.zeros(0, dtype=np.int64), np.inf
    for done in range(0, evaluations, CHUNK):
        drawn = draw(table.num_steps, count, min(CHUNK, evaluations - done), rng)
        costs = table_cost(table, drawn)
        if costs.min() < lowest:
            best, lowest = drawn[costs.argmin()], float(costs.min())
    return best, lowest


def even_schedule(num_steps: int, count: int) -> Schedule:
    """Exactly `count` steps as evenly spaced as whole steps can be."""
    return Schedule.from_steps(num_steps, [i * num_steps // count for i in range(count)])


def draw(num_steps: int, count: int, size: int, rng: np.random.Generator) -> Steps:
    """Schedules drawn uniformly, ``(size, count)``, step 0 always among them."""
    rest = rng.random((size, num_steps - 1)).argsort(axis=1)[:, : count - 1] + 1
    return np.pad(np.sort(rest, axis=1), ((0, 0), (1, 0)))


def table_cost(table: GapTable, computed: Steps) -> Array:
    """Costs ``(n,)`` of schedules of equally many computed steps ``(n, K)``, which ascend from 0."""
    ends = np.concatenate([computed, np.full((len(computed), 1), table.num_steps)], axis=1)
    gaps, count, longest = np.diff(ends, axis=1), computed.shape[1], len(table.histories)
    within = gaps.max(axis=1) <= table.max_gap
    g = np.minimum(gaps, table.max_gap)

    def costs(length: int, of: slice) -> Array:
        """Summed over the gaps after the steps `of`, each with a history of `length`."""
        back = [g[:, of.start - i : of.stop - i] for i in range(1, length)]
        return np.asarray(table.histories[length - 1][computed[:, of], *back, g[:, of]].sum(axis=1))

    short = min(count, longest - 1)
    total = costs(longest, slice(short, count))
    for k in range(short):
        total += costs(k + 1, slice(k, k + 1))
    return np.where(within, total, np.inf)
