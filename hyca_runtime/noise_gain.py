r"""What a plan makes of noise in the steps that it computes, such as the rounding of quantised weights.

A forecast weighs computed features and their noise with them, again and again until the next is computed, so the noise
of one computed step :math:`j` reaches the sample with :math:`c_j = a_j + \sum_s a_s w_{sj}`, over the steps :math:`s`
that are forecast from it with the share :math:`a_s` that the sampler gives them. Where all is computed each has its
own, :math:`a_s`. With noise that is independent from step to step the ratio of both powers is

.. math:: \sum_j c_j^2 \Big/ \sum_s a_s^2 .
"""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np

from hyca_runtime.forecast import Source
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.schedule import EVERY


def noise_gain_db(section: NetworkPlan) -> float | None:
    """How many dB more noise of computed steps weighs than in a run that computes all; None where steps are decided
    in each run, several points or differences of branches are forecast, or there is one step.

    A step counts by the time that it crosses, as in Euler's method.
    """
    times = section.grid.timesteps
    if section.policy is not None or len(section.points) > 1 or len(times) < 2:
        return None
    ((name, forecast),) = section.points.items()
    if forecast.against:
        return None
    branches = sorted(forecast.groups.keys() - {EVERY}) or [EVERY]
    shares = np.abs(np.diff([*times, 2 * times[-1] - times[-2]]))
    power = defaultdict[tuple[str, int], np.ndarray](lambda: np.zeros(forecast.num_channels))
    for branch in branches:
        taps = section.taps(name, branch)
        for step, share in enumerate(shares):
            if step not in taps:
                power[branch, step] += share
                continue
            own = [((branch, past), row) for past, row in zip(taps[step].history, taps[step].weights, strict=True)]
            for source, table in section.sources(name, branch):
                own += _weighed(source, branch, table[step].history, table[step].weights)
            for place, row in own:
                power[place] += share * row
    computed = sum(float(np.square(weighed).mean()) for weighed in power.values())
    return 10 * math.log10(computed / (len(branches) * float(np.square(shares).sum())))


def _weighed(
    source: Source, branch: str, history: tuple[int, ...], weights: np.ndarray
) -> list[tuple[tuple[str, int], np.ndarray]]:
    """The computed features that a source weighs, by branch and step, with their rows; none of a constant."""
    if source.is_constant:
        return []
    read = branch if source.branch in (None, EVERY) else str(source.branch)
    return [((read, past), row) for past, row in zip(history, weights, strict=True)]
