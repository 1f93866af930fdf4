"""Which steps to compute where nothing is known of a model: what searched plans of others have in common."""

from __future__ import annotations

import numpy as np

from hyca_runtime.solvers import ClosedFormSolver, Newton

CURVE = (0.0, 0.072, 0.163, 0.281, 0.412, 0.531, 0.643, 0.745, 0.837, 0.913, 0.977)
"""How far a run has come, of its steps, when so many tenths of the steps that are computed are behind it: the mean over
the plans in ``studies/bench``, as `python -m studies.starter` finds it and a test holds it."""

SOLVER: ClosedFormSolver = Newton(1)
"""Forecasts what the network returns: linear extrapolation; from the same command."""


def learnt_steps(num_steps: int, count: int, curve: tuple[float, ...] = CURVE) -> tuple[int, ...]:
    """The steps that are computed, so many of all, denser at both ends of a run than between.

    Args:
        count: from 1 to `num_steps`.
        curve: where the computed steps lie, see `CURVE`.
    """
    shares = np.linspace(0, 1, count)
    wanted = np.interp(shares, np.linspace(0, 1, len(curve)), curve) * (num_steps - 1)
    steps = np.rint(wanted).astype(int)
    for k in range(1, count):  # no two on one step
        steps[k] = max(steps[k], steps[k - 1] + 1)
    last = num_steps - count + np.arange(count)  # the latest that leave room for those behind
    return tuple(np.minimum(steps, last).tolist())
