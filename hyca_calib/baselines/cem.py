r"""CEM (arXiv 2512.23258): steps planned by dynamic programming on an error prior measured offline.

The prior is how far the network's output at step t is from that n steps earlier, as cosine distance, the mean over
samples; its running sum over the run stands for how errors build up ("cumulative error approximation"):

.. math:: E(t, n) = 1 - \cos\big(D(t), D(t - n)\big), \qquad E^*(t, n) = \sum_{u \le t} E(u, n).

Steps a and b with none computed between cost :math:`E^*(b, n)\,n^w`, where n = b - a - 1 steps are skipped; first
and last step are computed, and gaps differ from the mean one by at most a given spread. The paper's release has
weights w of 0, 1 and 2, a spread of 1, and the running sum for FLUX and DiT but not for Wan.

The plan is put onto other methods: here onto reuse of the block stack's residual (what TeaCache holds), and onto
TaylorSeer of order 1.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyca_calib.baselines.base import Applied, Axis, Family, HalfOpenAxis, Settings, Setup
from hyca_calib.baselines.full_run import output_grams
from hyca_calib.baselines.stepwise import RESIDUAL, TRUNK, solver_weights, tabled
from hyca_runtime.solvers import Hold, Taylor

Array = NDArray[np.float64]
FORECASTS = {"reuse": (RESIDUAL, Hold()), "TaylorSeer": (TRUNK, Taylor(1))}
"""Where a feature is forecast, and how."""
SPREADS = (0, 1, 2, 3, 4, 6, 9, 14, 20, 30, 50, 100)
"""One of all steps rules nothing out."""


def cem_family(setup: Setup) -> Family:
    """CEM on reuse and on TaylorSeer; its prior is measured on `setup.jobs`."""

    def apply(pipe: Any, settings: Settings) -> Applied:
        count, weight, spread = (int(settings[name]) for name in ("computed", "weight", "spread"))
        prior = error_prior(output_grams(pipe, setup))
        steps = planned_steps(prior, count, weight, spread, settings["sum"] == "running")
        point, solver = FORECASTS[str(settings["forecast"])]
        return tabled(pipe, solver_weights(solver, setup.num_steps, steps), point)

    axes = (
        computed_axis(setup.num_steps),
        Axis("forecast", tuple(FORECASTS), ordered=False),
        Axis("weight", (0, 1, 2, 3), (2,), closed=True),
        HalfOpenAxis("spread", SPREADS, (1,), closed=setup.num_steps <= SPREADS[-1]),
        Axis("sum", ("none", "running"), ("running",), closed=True),
    )
    return Family("CEM", "arXiv 2512.23258, own implementation", axes, apply, setup.num_steps)


def computed_axis(num_steps: int) -> Axis:
    """The number of computed steps: each up to a half of the run, then every third."""
    half = num_steps // 2
    rungs = (*range(min(2, half), half), *range(half, num_steps, 3))
    return HalfOpenAxis("computed", rungs, tuple(num_steps * percent / 100 for percent in (10, 16, 24, 36, 56)))


def error_prior(grams: Array) -> Array:
    """``(step, n)``: cosine distance to the output n steps earlier, the mean over samples; 0 before there is one.

    Args:
        grams: inner products of outputs ``(sample, step, step)``.
    """
    norms = np.sqrt(np.einsum("stt->st", grams))
    distance = (1 - grams / (norms[:, :, None] * norms[:, None, :])).mean(axis=0)
    prior: Array = np.zeros(distance.shape)
    for n in range(1, len(prior)):
        prior[n:, n] = np.maximum(np.diagonal(distance, -n), 0)
    return prior


def planned_steps(prior: Array, count: int, weight: int, spread: int, running: bool) -> tuple[int, ...]:
    """The `count` steps with the least total error.

    Args:
        spread: how far a gap may be from the mean one; more if no path fits otherwise.
        running: whether errors are summed up over the run.
    """
    steps = len(prior)
    if count >= steps:
        return tuple(range(steps))
    error = prior.cumsum(axis=0) if running else prior
    base, widened = max(1, round(steps / count)), spread
    while not (count - 1) * max(1, base - widened) <= steps - 1 <= (count - 1) * (base + widened):
        widened += 1
    gaps = np.arange(steps) - np.arange(steps)[:, None]
    skipped = np.maximum(gaps - 1, 0)
    costs = error[np.arange(steps), skipped] * skipped**weight
    return best_path(np.where(abs(gaps - base) <= widened, costs, np.inf), count)


def best_path(costs: Array, count: int) -> tuple[int, ...]:
    """The path from the first to the last step over exactly `count` steps that costs least.

    Args:
        costs: ``(from, to)`` of computing both and nothing between; infinite where that is not allowed.

    Raises:
        ValueError: there is no such path.
    """
    steps = len(costs)
    forward = np.where(np.triu(np.ones_like(costs), 1) > 0, costs, np.inf)
    least = np.full(steps, np.inf)
    least[0] = 0.0
    before = []
    for _ in range(count - 1):
        arrivals = least[:, None] + forward
        before.append(arrivals.argmin(axis=0))
        least = arrivals.min(axis=0)
    if not np.isfinite(least[-1]):
        raise ValueError(f"no path over {count} of {steps} steps; expected at least 2 steps, and costs that allow one")
    path = [steps - 1]
    for origins in reversed(before):
        path.append(int(origins[path[-1]]))
    return tuple(reversed(path))
