"""Features that are remembered, and moved."""

from __future__ import annotations

import torch

from hyca_runtime.feature import Feature
from hyca_runtime.history import History


def remembered(depth: int, **features: float) -> History:
    """A history of one part; names end with positions."""
    history = History(depth)
    for name, value in features.items():
        history.push(float(name[1:]), Feature([torch.full((2, 3), value)]))
    return history


def values(history: History) -> list[float]:
    return [float(part[0, 0]) for (part,) in history.features]


def test_features_since_a_position_are_moved_by_what_is_better_there() -> None:
    history, better = remembered(3, _2=1.0, _4=2.0, _5=5.0), remembered(3, _1=0.0, _4=2.5)
    history.learnt["solver"] = 1
    assert history.carry(4.0, better)
    assert (values(history), history.learnt) == ([5.5, 2.5, 1.0], {})
    assert values(better) == [2.5, 0.0]


def test_nothing_is_moved_where_one_lacks_the_position_or_has_other_shapes() -> None:
    history = remembered(2, _2=1.0, _4=2.0)
    other = History(2)
    other.push(4.0, Feature([torch.zeros(2, 4)]))
    assert not any(history.carry(at, better) for at, better in ((2.0, remembered(1, _4=0.0)), (4.0, other)))
    assert not remembered(1, _2=0.0, _4=0.0).carry(2.0, history)  # remembered no more
    assert values(history) == [2.0, 1.0]
