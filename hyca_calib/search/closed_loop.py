r"""Rows fitted where they are used: in a run of the plan itself, without gradients.

Rows that are fitted to full runs know nothing of what their own errors do. In a run of the plan the latent is off, and
every later call of the network answers to that. With :math:`a_j` the weight of step j's feature in the end, what the
plan has done to the final latent by step c is

.. math:: E_c = \sum_{j \le c} a_j (f_j - F_j),

of the features :math:`f_j` that the run stepped with, computed or forecast, and :math:`F_j` of the full run from the
same noise: exact where a sampler is linear in them, as all are in the network's output. Some samples of the fit split
run together; behind every computed step c, the rows of the coming gap are moved by u, spread over its steps, such that

.. math:: \sum_k u_k f_{h_k} \approx - \Big( E_c + \sum_{t} a_t \big( \sum_k w_{tk} f_{h_k} - F_t \big) \Big)

in least squares over samples and tokens. The gap is then run with them, so what they miss is in the next one's E. So a
plan brings the latent back as far as its features can tell how, for the price of one run of each sample.

`with_feedback` does the same with what is known of full runs alone; the corrector of UniPC (arXiv 2302.04867) is its
kin among solvers, and rows for a gap's end that of non-stationary solvers (arXiv 2403.01329).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.search.problem import Problem
from hyca_calib.search.replay import Array, in_own_units
from hyca_calib.search.rows import Regressor, Row, rows_of, with_taps
from hyca_calib.search.tap_rollout import TapRollout
from hyca_calib.trace.looked_at import tokens_first
from hyca_runtime.feature import Feature
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.schedule import EVERY
from hyca_runtime.stacked import stacked_labels

SAMPLES, LEAST = 24, 4
"""Of the fit split that run together, fewer where memory is short; rows of fewer than the least are noise."""
RIDGE = 1e-5
"""Of regressors in units of their own size."""

Seen = dict[tuple[str, int], Array]
"""Features of tokens that the trace stores, ``(sample and token, channel)``, by guidance branch and step."""


def can_close(problem: Problem, section: NetworkPlan) -> bool:
    """Whether the rows of a section can be fitted so: one point, one schedule, and a guidance that is known."""
    forecasts, trace = section.points.values(), problem.trace
    alone = len(forecasts) == 1 and section.policy is None and section.chunks is None
    alike = section.schedule.apart == (EVERY,) and not any(forecast.against for forecast in forecasts)
    return alone and alike and len(trace.guidance) in (0, len(trace.branches)) and bool(guidance_of(problem))


def guidance_of(problem: Problem) -> dict[str, float]:
    """The weight of each branch in what the sampler steps with; nothing where that is not known."""
    branches, weights = problem.trace.branches, problem.trace.guidance
    return dict(zip(branches, weights or (1.0,), strict=True)) if weights or len(branches) == 1 else {}


def closed_loop(pipe: Any, problem: Problem, section: NetworkPlan, samples: int = SAMPLES) -> NetworkPlan | None:
    """`section` with rows that are fitted in runs of it; None where that cannot be, see `can_close`.

    Args:
        samples: of the fit split, the first.
    """
    count = min(samples, len(problem.trace.samples("fit")))
    while can_close(problem, section) and count >= min(LEAST, samples):
        try:
            return _closed(pipe, problem, section, count)
        except torch.OutOfMemoryError:
            count //= 2
    return None


def _closed(pipe: Any, problem: Problem, section: NetworkPlan, count: int) -> NetworkPlan:
    jobs, steps = problem.samples("fit").jobs[:count], problem.workload.num_steps
    with ClosingRollout(pipe, problem, section, count) as rollout, torch.no_grad():
        sample_latents(pipe, jobs, steps, count)
        return with_taps(section, rollout.taps.double().cpu().numpy())


class ClosingRollout(TapRollout):
    """One run of several samples in which the rows of every gap are fitted when it begins.

    Attributes:
        taps: the section's, as far as they are fitted.
    """

    def __init__(self, pipe: Any, problem: Problem, section: NetworkPlan, count: int) -> None:
        super().__init__(pipe, section, checkpointed=False)
        self.taps, self._count = self._parts[0].taps, count
        trace, (forecast,) = problem.trace, section.points.values()
        self._axis, self._stacked = forecast.at.channel_axis, trace.stacked // section.stacked
        self._tokens = dict(zip(trace.branches, trace.array(f"points/{trace.key}/tokens"), strict=True))
        self._effects = replace(problem, damping=()).step_weights
        self._guidance = guidance_of(problem)
        values = trace.values("fit", count).astype(np.float64)  # (sample, branch, step, token, channel)
        self._full: Seen = {
            (branch, step): values[:, b, step].reshape(-1, values.shape[-1])
            for b, branch in enumerate(trace.branches)
            for step in range(trace.num_steps)
        }
        self._used: Seen = {}
        rows = sorted(enumerate(rows_of(section)), key=lambda of: (of[1].newest, of[1].step))
        gaps = itertools.groupby(rows, key=lambda of: of[1].newest)
        self._gaps = {newest: list(of) for newest, of in gaps}
        self._error, self._told = np.zeros((1, values.shape[-1])), 0

    def _remember(self, name: str, label: str, part: int, step: int, feature: Feature) -> None:
        super()._remember(name, label, part, step, feature)
        self._note(label, step, feature)

    def _forecast(self, name: str, label: str, part: int, step: int) -> Feature | None:
        found = self._row(name, label, step)
        if found is not None and (gap := self._gaps.pop(found[1].newest, None)) is not None:
            self._fit(gap)
        feature = super()._forecast(name, label, part, step)
        if feature is not None:
            self._note(label, step, feature)
        return feature

    def _note(self, label: str, step: int, feature: Feature) -> None:
        """Keep what is stepped with, as the trace keeps what full runs stepped with."""
        labels = stacked_labels(label, self._stacked)
        for branch, *pieces in zip(labels, *(part.chunk(len(labels)) for part in feature), strict=True):
            parts = zip(tokens_first(Feature(pieces), self._axis, self._count), self._tokens[branch], strict=True)
            picked = [part[:, torch.from_numpy(tokens).to(part.device)] for part, tokens in parts]
            self._used[branch, step] = torch.cat(picked, -1).flatten(0, 1).double().cpu().numpy()

    def _fit(self, gap: Sequence[tuple[int, Row]]) -> None:
        """Move the rows of a gap, given with their numbers, such that its end is as near to the full run as can be."""
        first = min(row.step for _, row in gap)
        if any((branch, step) not in self._used for step in range(self._told, first) for branch in self._guidance):
            self._gaps.clear()  # a branch that is not called on every step
            return
        for step, (branch, weight) in itertools.product(range(self._told, first), self._guidance.items()):
            told = self._used[branch, step] - self._full[branch, step]
            self._error = self._error + self._effects[step] * weight * told
        self._told = first
        missed, moved = self._error.copy(), dict[Regressor, float]()
        for number, row in gap:
            taps, effect = self.taps[number].double().cpu().numpy(), self._effects[row.step]
            for branch in self._branches(row):
                missed -= effect * self._guidance[branch] * self._full[branch, row.step]
            for k, regressor in enumerate(row.regressors):
                missed += effect * self._share(row) * taps[k] * self._seen(row, regressor)
                moved[regressor] = moved.get(regressor, 0.0) + effect * self._share(row) ** 2
        regressors = [of for of, effect in moved.items() if effect]
        found = _least_squares(np.stack([self._seen(gap[0][1], of) for of in regressors]), -missed)
        for number, row in gap:
            for k, regressor in enumerate(row.regressors):
                if regressor in regressors:
                    move = self._share(row) / moved[regressor] * found[regressors.index(regressor)]
                    self.taps[number, k, : len(move)] += torch.from_numpy(move).to(self.taps)

    def _branches(self, row: Row) -> Sequence[str]:
        return list(self._guidance) if row.branch == EVERY else [row.branch]

    def _share(self, row: Row) -> float:
        """The weight of what a row forecasts in what is stepped with."""
        return 1.0 if row.branch == EVERY else self._guidance[row.branch]

    def _seen(self, row: Row, regressor: Regressor) -> Array:
        """A regressor, under guidance where rows are for all branches alike."""
        if regressor is None:
            return np.ones_like(self._error)
        if row.branch != EVERY:
            return self._used[regressor]
        return np.asarray(sum(weight * self._used[of, regressor[1]] for of, weight in self._guidance.items()))


def _least_squares(regressors: Array, target: Array) -> Array:
    """Weights ``(regressor, channel)`` for a target ``(token, channel)``.

    Args:
        regressors: ``(regressor, token, channel)``.
    """
    gram = np.einsum("rtc,stc->crs", regressors, regressors)
    alike, size = in_own_units(gram)
    cross = np.einsum("rtc,tc->cr", regressors, target) / size
    damped = alike + RIDGE * np.eye(len(regressors))
    return np.asarray((np.linalg.solve(damped, cross[..., None])[..., 0] / size).T)
