r"""Rows fitted where they are used: in a run of the plan itself, without gradients.

Rows that are fitted to full runs know nothing of what their own errors do. In a run of the plan the latent is off, and
every later call of the network answers to that. With :math:`a_j` the weight of step j's feature in the end, what the
plan has done to the final latent by step c is

.. math:: E_c = \sum_{j \le c} a_j (f_j - F_j),

of the features :math:`f_j` that the run stepped with, computed or forecast, and :math:`F_j` of the full run from the
same noise: exact where a sampler is linear in them, as most are in the network's output. Some samples of the fit split
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

from hyca_calib.pipelines.workload import Job
from hyca_calib.search.problem import Problem
from hyca_calib.search.replay import Array, in_own_units
from hyca_calib.search.rows import Regressor, Row, rows_of
from hyca_calib.search.tap_rollout import TapRollout
from hyca_calib.search.watched_run import WatchedCall, watch
from hyca_calib.trace.looked_at import LookedAt, tokens_first
from hyca_calib.trace.scheduler_response import undone
from hyca_runtime.feature import Feature
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.schedule import EVERY, FEATURE
from hyca_runtime.stacked import stacked_labels

NUMBERS, MOST_TOKENS = 2**16, 1024
"""Of a feature that are looked at, and tokens: each is an equation for every channel."""
RIDGE = 1e-5
"""Of regressors in units of their own size."""
TINY = 1e-30

Seen = dict[tuple[str, int], Array]
"""Features of some tokens, ``(sample and token, channel)``, by guidance branch and step."""


def guidance_of(problem: Problem) -> dict[str, float]:
    """The weight of each traced branch in what the sampler steps with; nothing where that is not known."""
    branches, weights = problem.trace.branches, problem.trace.guidance
    return {branches[0]: 1.0} if len(branches) == 1 else dict(zip(branches, weights, strict=bool(weights)))


def full_run(pipe: Any, problem: Problem, job: Job, tokens: Tokens) -> Seen:
    """What the full run of a job stepped with; nothing where several calls of a branch make one step together, or
    several passes over the steps one sample."""
    found, whole = Seen(), True

    def hear(call: WatchedCall) -> None:
        nonlocal whole
        whole = whole and call.stream[1] == 0 and not (call.begins and found)
        found.update(tokens.of(call.features[FEATURE], call.stream[0], call.step, problem.trace.stacked, 1))

    watch(pipe, problem, {FEATURE: problem.trace.point}, job, problem.workload.num_steps, hear)
    return found if whole else {}


class Tokens:
    """The tokens of a feature that are looked at, the same in all calls."""

    def __init__(self, problem: Problem) -> None:
        most = min(MOST_TOKENS, max(1, NUMBERS // problem.trace.num_channels))
        self._looked_at = LookedAt(most, problem.workload.seed)
        self._axis = problem.trace.point.channel_axis

    def of(self, feature: Feature, label: str, step: int, parts: int, batch: int) -> Seen:
        """Those of each of the branches that a call holds, `parts` of them, of so many samples each."""
        labels = stacked_labels(label, parts)
        found, pieces = Seen(), zip(*(part.chunk(parts) for part in feature), strict=True)
        for branch, piece in zip(labels, pieces, strict=True):
            ordered = [self._looked_at.of(part) for part in tokens_first(Feature(piece), self._axis, batch)]
            count = min(part.shape[1] for part in ordered)
            found[branch, step] = (
                torch.cat([part[:, :count] for part in ordered], -1).flatten(0, 1).cpu().float().numpy()
            )
        return found


class ClosingRollout(TapRollout):
    """One run of several samples in which the rows of every gap are fitted when it begins.

    Args:
        full: what full runs of the samples stepped with.
        count: of samples.

    Attributes:
        whole: whether all gaps were fitted.
        taps: the section's, as far as they are fitted.
        error: what the steps that are settled have done to the latent in the end, ``(sample and token, channel)``.
    """

    def __init__(
        self, pipe: Any, problem: Problem, section: NetworkPlan, tokens: Tokens, full: Seen, count: int
    ) -> None:
        super().__init__(pipe, section, checkpointed=False)
        self.taps, self._tokens, self._full = self._parts[0].taps, tokens, full
        self.whole, self._count = True, count
        self._held = problem.trace.stacked // section.stacked
        reaction = undone(pipe.scheduler, problem.trace.sigmas) if hasattr(pipe, "scheduler") else 1.0
        self._effects, self._guidance = replace(problem, damping=()).step_weights / reaction, guidance_of(problem)
        self._used, self.error, self._told = Seen(), np.zeros((1, problem.trace.num_channels)), 0
        rows = sorted(enumerate(rows_of(section)), key=lambda of: of[1].newest)
        self._gaps = {newest: list(of) for newest, of in itertools.groupby(rows, key=lambda of: of[1].newest)}

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
        for key, seen in self._tokens.of(feature, label, step, self._held, self._count).items():
            if key in self._full and seen.shape == self._full[key].shape:
                self._used[key] = seen
            else:
                self._give_up()

    def _give_up(self) -> None:
        """Of calls that are not of all the samples, as where they are drawn in several for want of memory."""
        self.whole = False
        self._gaps.clear()

    def settle(self, end: int) -> bool:
        """Add up what the steps before `end` have done; whether all branches were called on each."""
        steps = range(self._told, end)
        if any((branch, step) not in self._used for step in steps for branch in self._guidance):
            return False
        for step, (branch, weight) in itertools.product(steps, self._guidance.items()):
            off = self._used[branch, step] - self._full[branch, step]
            self.error = self.error + self._effects[step] * weight * off
        self._told = end
        return True

    def _fit(self, gap: Sequence[tuple[int, Row]]) -> None:
        """Move the rows of a gap, given with their numbers, such that its end is as near to the full run as can be."""
        first = min(row.step for _, row in gap)
        if not self.settle(first):
            self._give_up()  # a branch that is not called on every step
            return
        missed, moved = self.error.copy(), dict[Regressor, float]()
        for number, row in gap:
            taps, effect = self.taps[number].cpu().double().numpy(), self._effects[row.step]
            for branch in self._branches(row):
                missed -= effect * self._guidance[branch] * self._full[branch, row.step]
            for k, regressor in enumerate(row.regressors):
                missed += effect * self._share(row) * taps[k] * self._seen(row, regressor)
                moved[regressor] = moved.get(regressor, 0.0) + (effect * self._share(row)) ** 2
        regressors = [of for of, square in moved.items() if square > TINY]
        if not regressors:
            return
        found = _least_squares(np.stack([self._seen(gap[0][1], of) for of in regressors]), -missed)
        for number, row in gap:
            effect = self._effects[row.step] * self._share(row)
            for k, regressor in enumerate(row.regressors):
                if regressor in regressors:
                    move = effect / moved[regressor] * found[regressors.index(regressor)]
                    self.taps[number, k, : len(move)] += torch.from_numpy(move).to(self.taps)

    def _branches(self, row: Row) -> Sequence[str]:
        return list(self._guidance) if row.branch == EVERY else [row.branch]

    def _share(self, row: Row) -> float:
        """The weight of what a row forecasts in what is stepped with."""
        return 1.0 if row.branch == EVERY else self._guidance[row.branch]

    def _seen(self, row: Row, regressor: Regressor) -> Array:
        """A regressor, under guidance where rows are for all branches alike."""
        if regressor is None:
            return np.ones_like(self.error)
        if row.branch != EVERY:
            return self._used[regressor]
        return np.asarray(sum(weight * self._used[of, regressor[1]] for of, weight in self._guidance.items()))


def _least_squares(regressors: Array, target: Array) -> Array:
    """Weights ``(regressor, channel)`` for a target ``(token, channel)``.

    Args:
        regressors: ``(regressor, token, channel)``.
    """
    regressors = regressors.astype(np.float64)
    gram = np.einsum("rtc,stc->crs", regressors, regressors)
    alike, size = in_own_units(gram)
    cross = np.einsum("rtc,tc->cr", regressors, target) / size
    damped = alike + RIDGE * np.eye(len(regressors))
    return np.asarray((np.linalg.solve(damped, cross[..., None])[..., 0] / size).T)
