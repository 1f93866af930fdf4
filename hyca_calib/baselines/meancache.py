r"""MeanCache (arXiv 2601.19961): average velocities from cached ones, at steps of a peak-suppressed shortest path.

With :math:`v_t` the velocity at level t, and r > t > s levels of the run, the average velocity that leads from t to
s is taken as (MeanFlow's identity at the start of an interval, with its total derivative from the one before)

.. math:: \hat u(t, s) = v_t + (s - t)\,J, \qquad J = \frac{u(r, t) - v_r}{t - r}, \qquad
          u(r, t) = \frac{z_t - z_r}{t - r}.

r lies K steps before t; K = 1 is no correction. The error :math:`C = \|u(t, s) - \hat u(t, s)\|` on full runs weighs
an edge t to s of a graph that has one edge for every K; computed are the steps of the path with the least
:math:`\sum C^\gamma`. The paper's ablation has :math:`\gamma` of 1 to 5; first and last step are computed, as in all
tables of its release.

A gap is crossed in one of two ways: "jump" lands at s as the formula says; "rolling" is what the release does, for
Qwen-Image and Z-Image: every skipped step starts from the velocity of the step before, and r is K steps before *it*.

A displacement :math:`z_t - z_r` is a sum of velocities times level differences (Euler steps), so latents need not be
seen, and guidance branches may keep histories of their own, for all is linear. The paper treats flow matching only;
a diffusion is taken in the time in which what its network predicts is the velocity: the angle for v (Salimans and Ho
2022), :math:`\sigma / \alpha` for the noise.
"""

import itertools
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyca_calib.baselines.base import Applied, Axis, Family, Settings, Setup
from hyca_calib.baselines.cem import best_path, computed_axis
from hyca_calib.baselines.full_run import output_grams
from hyca_calib.baselines.stepwise import OUTPUT, Call, Computed, Stream, driven, weighted
from hyca_runtime.feature import Feature

Array = NDArray[np.float64]
SPANS = (1, 2, 3, 4, 5, 6)
"""The values of K in the release's tables."""


def meancache_family(pipe: Any, setup: Setup) -> Family:
    """MeanCache; its edge costs are measured on `setup.jobs`."""
    prediction = str(getattr(pipe.scheduler.config, "prediction_type", "flow"))

    def apply(pipe: Any, settings: Settings) -> Applied:
        levels = setup.recall("noise levels of a full run", lambda: [*map(float, setup.problem().trace.sigmas)])
        times = velocity_times(np.asarray(levels), prediction)
        costs, spans = edge_costs(output_grams(pipe, setup), times)
        gaps = planned_gaps(costs, spans, int(settings["computed"]), float(settings["gamma"]))
        averaged = Averaged(times, gaps, rolling=settings["crossing"] == "rolling")
        return driven(pipe, averaged.answer, OUTPUT, depth=1)

    axes = (
        computed_axis(setup.num_steps),
        Axis("gamma", (0.5, 1, 2, 3, 4, 5, 7, 10), (4,)),
        Axis("crossing", ("jump", "rolling"), ordered=False),
    )
    known = ("flow", "flow_prediction", "v_prediction", "epsilon")
    refused = "" if prediction in known else f"its network predicts {prediction!r}, which is no velocity in any time"
    return Family("MeanCache", "arXiv 2601.19961, own implementation", axes, apply, setup.num_steps, refused=refused)


def velocity_times(levels: Array, prediction: str) -> Array:
    """The time in which the network's output is the velocity, before each step and after the last.

    Args:
        levels: share of noise, of a diffusion ``sigma / (alpha + sigma)``.
    """
    if prediction not in ("v_prediction", "epsilon"):
        return np.asarray(levels, dtype=np.float64)
    ratio = levels / np.maximum(1 - levels, 1e-9)
    return np.asarray(np.arctan(ratio) if prediction == "v_prediction" else ratio, dtype=np.float64)


def average_weights(times: Array, start: int, end: int, span: int) -> Array:
    """The average velocity from step `start` to `end` as weights of the velocities at `start` and `span` steps before.

    Returns:
        ``(span + 1,)``, newest first.
    """
    weights = np.zeros(span + 1)
    weights[0] = 1.0
    before = times[start] - times[start - span]
    ahead = (times[end] - times[start]) / before
    steps = np.arange(start - 1, start - span - 1, -1)
    weights[1:] += ahead * (times[steps + 1] - times[steps]) / before
    weights[span] -= ahead
    return weights


def edge_costs(grams: Array, times: Array) -> tuple[Array, NDArray[np.int64]]:
    """What it costs to compute two steps and none between, ``(from, to)``, and the span K that costs least.

    Args:
        grams: inner products of velocities on full runs, ``(sample, step, step)``.
    """
    steps = grams.shape[1]
    costs, spans = np.full((steps, steps), np.inf), np.ones((steps, steps), dtype=np.int64)
    lengths = np.diff(times)
    for start in range(steps):
        for end in range(start + 1, steps):
            true = np.zeros(steps)
            true[start:end] = lengths[start:end] / lengths[start:end].sum()
            for span in SPANS:
                error = -true
                if span <= start:
                    error[start - span : start + 1] += average_weights(times, start, end, span)[::-1]
                elif span == 1:
                    error[start] += 1.0
                else:
                    break
                squares = np.einsum("t,stu,u->s", error, grams, error)
                cost = float(np.sqrt(np.maximum(squares, 0)).mean()) if end > start + 1 else 0.0
                if cost < costs[start, end]:
                    costs[start, end], spans[start, end] = cost, span
    return costs, spans


def planned_gaps(costs: Array, spans: NDArray[np.int64], count: int, gamma: float) -> dict[int, int]:
    """The `count` steps that are computed, ascending, and the K of the gap behind each."""
    top = costs[np.isfinite(costs)].max()  # powers of small numbers would vanish
    path = best_path((costs / (top or 1.0)) ** gamma, count)
    return {start: int(spans[start, end]) for start, end in itertools.pairwise(path)} | {path[-1]: 1}


@dataclass(frozen=True)
class Averaged:
    """Answers the calls of one network.

    Attributes:
        times: of the velocities, before each step and after the last.
        spans: steps that are computed, ascending, and the K of the gap behind each.
        rolling: whether a gap is crossed step by step, else by a jump.
    """

    times: Array
    spans: Mapping[int, int]
    rolling: bool = False

    def answer(self, call: Call) -> Any:
        feature = self.forecast(call.stream) if call.stream.past else None
        return call.compute() if feature is None else call.predict(feature)

    def forecast(self, stream: Stream) -> Feature | None:
        """The velocity of the present step, None where it is computed."""
        used = stream.memory.setdefault("used", deque(maxlen=max(SPANS) + 1))  # of every step, newest first
        if not used or used[0].step < stream.past[0].step:
            used.appendleft(stream.past[0])
        if stream.step in self.spans:
            return None
        last = stream.past[0].step
        if self.rolling:
            feature = weighted(used, self._rolled(stream.step, self.spans[last]))
        elif stream.step == last + 1:
            stream.memory["gap"] = feature = weighted(used, self._rest(last, self.spans[last]))
        else:
            feature = stream.memory["gap"]
        used.appendleft(Computed(stream.step, feature))
        return feature

    def _rolled(self, step: int, span: int) -> Array:
        """Of a step from the `span` before."""
        weights = average_weights(self.times, step, step + 1, min(span, step))[1:]
        weights[0] += 1.0
        return weights

    def _rest(self, last: int, span: int) -> Array:
        """The one velocity that, after the computed step's own, makes the gap's average what it is to be."""
        times = self.times
        end = min(step for step in (*self.spans, len(times) - 1) if step > last)
        average = average_weights(times, last, end, span) if span > 1 else np.ones(1)
        whole, own = times[end] - times[last], times[last + 1] - times[last]
        weights = whole * average
        weights[0] -= own
        return np.asarray(weights / (whole - own))
