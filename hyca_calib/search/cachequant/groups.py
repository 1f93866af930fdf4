r"""Which steps are computed: neighbouring steps are grouped, the first of a group is computed, the others reuse it.

With :math:`X_t` what is reused, as full runs have it, a group of steps i to j - 1 costs

.. math:: \sum_{t=i}^{j-1} \| X_t - X_i \|_1,

and the groups are those of the least sum, K of them, each of :math:`\lceil N/2 \rceil` to :math:`2N` steps. N is the
mean length, :math:`K = \lceil T/N \rceil`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hyca_calib.search.replay import Array


@dataclass(frozen=True)
class Grouping:
    """How many groups of which lengths.

    Attributes:
        num_steps: of the sampler.
        interval: N.
        first: leading steps that are computed in any case, the last of which may begin a longer group.
    """

    num_steps: int
    interval: int
    first: int = 1

    @property
    def count(self) -> int:
        """Computed steps."""
        return self.first - 1 + math.ceil((self.num_steps - self.first + 1) / self.interval)

    @property
    def even(self) -> tuple[int, ...]:
        """The first steps of groups of one length, but the last."""
        return (*range(self.first - 1), *range(self.first - 1, self.num_steps, self.interval))

    @property
    def lengths(self) -> range:
        """That a group may have."""
        return range(math.ceil(self.interval / 2), 2 * self.interval + 1)


def best_groups(distances: Sequence[Sequence[float]], grouping: Grouping) -> tuple[int, ...]:
    """The first step of each group.

    Args:
        distances: ``[j - 1][t]``, between steps t and t + j, for every j that a group spans.
    """
    begin = grouping.first - 1
    steps, costs = grouping.num_steps - begin, group_costs(distances, grouping)
    least: Array = np.full((grouping.count - begin + 1, steps + 1), np.inf)  # (groups, steps that they hold together)
    before = np.zeros(least.shape, dtype=np.int64)
    least[0, 0] = 0.0
    for k in range(1, len(least)):
        for end in range(1, steps + 1):
            starts = [end - length for length in grouping.lengths if length <= end]
            ways = [least[k - 1, start] + costs[begin + start, end - start] for start in starts] or [np.inf]
            chosen = int(np.argmin(ways))
            least[k, end] = ways[chosen]
            before[k, end] = starts[chosen] if starts else 0
    ends, found = steps, list[int]()
    for k in range(len(least) - 1, 0, -1):
        ends = int(before[k, ends])
        found.append(begin + ends)
    return (*range(begin), *reversed(found))


def group_costs(distances: Sequence[Sequence[float]], grouping: Grouping) -> Array:
    """Costs of groups by their first step and their length, ``(step, length)``; infinity beyond the last step."""
    steps, most = grouping.num_steps, grouping.lengths[-1]
    found = np.full((steps, most + 1), np.inf)
    for step in range(steps):
        reused = [row[step] for row in distances[: most - 1] if step < len(row)]
        found[step, 1 : 2 + len(reused)] = np.cumsum([0.0, *reused])
    return found


def total_cost(distances: Sequence[Sequence[float]], begins: Sequence[int], num_steps: int) -> float:
    """What groups cost that begin on some steps, together."""
    ends = [*begins[1:], num_steps]
    return sum(distances[j - 1][a] for a, b in zip(begins, ends, strict=True) for j in range(1, b - a))
