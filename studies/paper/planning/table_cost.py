"""The costs of many schedules at once, from the table of gap costs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hyca_calib.search.exact import GapTable
from studies.paper.replay_setup import Array


def table_cost(table: GapTable, computed: NDArray[np.int64]) -> Array:
    """Costs ``(n,)`` of many schedules of equally many steps at once.

    Args:
        computed: ``(n, K)`` ascending computed steps, the first of them 0.
    """
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
