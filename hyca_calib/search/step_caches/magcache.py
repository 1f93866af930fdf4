"""MagCache, arXiv 2506.09045: ratios of magnitudes, the same in every run, decide."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from hyca_calib.pipelines.workload import Job
from hyca_calib.search.kept_runs import Rows, measured
from hyca_calib.search.problem import Problem
from hyca_calib.search.sources import MAGCACHE
from hyca_calib.search.step_caches.rule import FIT_SAMPLES, STACK, Progress, Rule
from hyca_calib.search.watched_run import WatchedCall, watch
from hyca_runtime.policies import MagnitudeRatio
from hyca_runtime.schedule import EVERY

KEPT = "magnitude_ratios.json"
EASIER = ((5, 0.1), (9, 0.05), (24, 0.0))
"""K and the retained share, for budgets beyond what the published ones allow; the first are those for FLUX."""


@dataclass(frozen=True)
class MagCache(Rule):
    """The settings of MagCache, but the threshold.

    Attributes:
        ratios: by guidance branch, see `MagnitudeRatio`; until fitted nothing is known of them.
        calls: the steps on which each is called; on all, until that is known.
        consecutive: K, the most steps in a row that are not computed.
        retained: the share of the run that is computed at its start.
    """

    ratios: tuple[tuple[str, tuple[float, ...]], ...] = ((EVERY, (1.0,)),)
    calls: tuple[tuple[str, tuple[int, ...]], ...] = ()
    consecutive: int = 3
    retained: float = 0.2
    preset: ClassVar[str] = MAGCACHE

    @property
    def probes(self) -> int:
        return 0

    @property
    def branches(self) -> tuple[str, ...]:
        return tuple(branch for branch, _ in self.ratios if branch != EVERY) or (EVERY,)

    def called(self, branch: str, num_steps: int) -> Sequence[int]:
        return dict(self.calls).get(branch) or range(num_steps)

    def policy(self, threshold: float) -> MagnitudeRatio:
        return MagnitudeRatio(threshold, dict(self.ratios), self.consecutive, self.retained)

    def easier(self) -> tuple[Self, ...]:
        return (self, *(replace(self, consecutive=most, retained=share) for most, share in EASIER))

    def fitted(self, pipe: Any, problem: Problem, folder: Path, on_progress: Progress) -> Self:
        jobs, of = problem.workload.of("fit")[:FIT_SAMPLES], f"{problem.identity}, ratios of magnitudes, all calls"
        found = measured(folder / KEPT, of, jobs, lambda job: self._ratios(pipe, problem, job), on_progress)
        rows = {branch: [row for run in found for row in run.get(branch, [])] for branch in found[0]}
        calls = {branch: tuple(sorted({int(step) for step, *_ in of_branch})) for branch, of_branch in rows.items()}
        rows[EVERY] = [row for of_branch in rows.values() for row in of_branch]
        steps = range(problem.trace.num_steps)
        ratios = {
            branch: tuple(_mean(r for s, *told in of_branch for r in told if s == step) for step in steps)
            for branch, of_branch in rows.items()
        }
        return replace(self, ratios=tuple(ratios.items()), calls=tuple(calls.items()))

    def _ratios(self, pipe: Any, problem: Problem, job: Job) -> Rows:
        """By guidance branch, step and ratio of each call in the full run of one sample; of the first no ratio."""
        before: dict[tuple[str, int], Tensor] = {}
        found: Rows = defaultdict(list)

        def hear(call: WatchedCall) -> None:
            if call.begins:
                before.clear()
            norms = torch.cat([part.detach().float().norm(dim=-1).flatten() for part in call.features[STACK]])
            told = [(norms / before[call.stream].clamp_min(1e-8)).mean().item()] if call.stream in before else []
            found[call.stream[0]].append([float(call.step), *told])
            before[call.stream] = norms

        watch(pipe, problem, {STACK: self.point}, job, problem.workload.num_steps, hear)
        return dict(found)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return statistics.fmean(found) if found else 1.0
