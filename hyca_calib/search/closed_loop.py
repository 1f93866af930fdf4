"""Candidates whose rows are fitted in runs of themselves, before they are judged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Job, batches
from hyca_calib.records.atomic import replacing
from hyca_calib.search.assemble import build_section
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.closing_rollout import ClosingRollout, Seen, Tokens, full_run, guidance_of
from hyca_calib.search.options import RolloutLimits
from hyca_calib.search.problem import Problem
from hyca_calib.search.rows import with_taps
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.schedule import EVERY

SAMPLES, LEAST = 8, 4
"""Of the fit split that run together, fewer where memory or time is short; rows of fewer than the least are noise."""
SHARE = 1 / 8
"""Of the minutes of rollouts, that full runs at one point may take."""
FULL_RUNS = "full_runs"


def can_close(problem: Problem, section: NetworkPlan) -> bool:
    """Whether the rows of a section can be fitted so: one point, one schedule, and a guidance that is known."""
    forecasts, schedule = section.points.values(), section.schedule
    alone = len(forecasts) == 1 and section.policy is None and section.chunks is None
    alike = schedule.apart == (EVERY,) and not any(forecast.against for forecast in forecasts)
    return alone and alike and bool(schedule.predicted_steps and guidance_of(problem))


class InTheLoop:
    """Makes sections of a problem's candidates, with rows fitted in a run of each where its settings say so.

    Args:
        folder: full runs of fit samples are kept here, a file each; they serve all candidates, and all budgets.
        count: of samples that run together, the first of the fit split, as far as one call of the pipeline takes them.
    """

    def __init__(self, pipe: Any, problem: Problem, folder: Path, count: int = SAMPLES) -> None:
        self._pipe, self._problem, self._folder = pipe, problem, folder
        self._jobs: Sequence[Job] = max(
            batches(problem.samples("fit").jobs[:count], max(1, count)), key=len, default=()
        )
        self._tokens, self._full = Tokens(problem), list[Seen]()

    @classmethod
    def within(cls, limits: RolloutLimits, pipe: Any, problem: Problem, folder: Path) -> InTheLoop:
        """Of as many samples as the limits of a stage of rollouts leave time for."""
        count, run_seconds = SAMPLES, problem.trace.cost.full_seconds * problem.trace.num_steps
        if limits.rollouts is None:
            count = min(SAMPLES, int(SHARE * 60 * limits.minutes / run_seconds))
        return cls(pipe, problem, folder, count)

    def can_fit(self, candidate: Candidate) -> bool:
        """Whether rows of such a candidate can be fitted in the loop."""
        return self._can_fit(candidate, build_section(candidate))

    def section(self, candidate: Candidate) -> NetworkPlan:
        """The section of a candidate, unrefined; see `build_section`."""
        section = build_section(candidate)
        if candidate.settings.in_loop and self._can_fit(candidate, section):
            return self.fitted(section) or section
        return section

    def _can_fit(self, candidate: Candidate, section: NetworkPlan) -> bool:
        settings, enough = candidate.settings, len(self._jobs) >= LEAST
        by_channel = settings.taps == "channel" and not settings.inherit
        return enough and by_channel and can_close(self._problem, section)

    def fitted(self, section: NetworkPlan) -> NetworkPlan | None:
        """`section` with rows that are fitted in a run of it; None where that does not work.

        Cost: a run of the plan for each sample, and once a full run.
        """
        jobs = self._jobs
        with torch.no_grad():
            self._full = self._full or self._full_runs()
            while self._full and len(jobs) >= LEAST:
                taps = self._taps(section, jobs)
                if taps is not None:
                    return with_taps(section, taps)
                jobs = jobs[: len(jobs) // 2]  # all at once may not fit memory
        return None

    def _full_runs(self) -> list[Seen]:
        """What full runs of the samples stepped with; nothing where one of them cannot be told."""
        found = list[Seen]()
        self._folder.mkdir(parents=True, exist_ok=True)
        for number, job in enumerate(self._jobs):
            kept = self._folder / f"{self._problem.identity}-{number}.safetensors"
            seen = _read(kept) if kept.exists() else full_run(self._pipe, self._problem, job, self._tokens)
            if not seen:
                return []
            if not kept.exists():
                _write(seen, kept)
            found.append(seen)
        return found

    def _taps(self, section: NetworkPlan, jobs: Sequence[Job]) -> np.ndarray | None:
        full = self._full[: len(jobs)]
        together = {key: np.concatenate([of[key] for of in full]) for key in full[0]}
        with ClosingRollout(self._pipe, self._problem, section, self._tokens, together, len(jobs)) as rollout:
            try:
                sample_latents(self._pipe, jobs, self._problem.workload.num_steps, len(jobs))
            except torch.OutOfMemoryError:
                return None
        taps = rollout.taps.cpu().double().numpy()
        return taps if rollout.whole and np.isfinite(taps).all() else None


def _write(seen: Seen, kept: Path) -> None:
    with replacing(kept) as partial:
        save_file({f"{step} {branch}": torch.from_numpy(of) for (branch, step), of in seen.items()}, partial)


def _read(kept: Path) -> Seen:
    places = ((key.split(" ", 1), of.numpy()) for key, of in load_file(kept).items())
    return {(branch, int(step)): of for (step, branch), of in places}
