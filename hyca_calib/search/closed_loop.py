"""Candidates whose rows are fitted in runs of themselves, before they are judged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Job, batches
from hyca_calib.records.console import say
from hyca_calib.records.kept_tensors import keep, kept
from hyca_calib.search.assemble import build_section
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.closing_rollout import ClosingRollout, Seen, Tokens, full_run, guidance_of
from hyca_calib.search.problem import Problem
from hyca_calib.search.rows import plan_taps, with_taps
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.schedule import EVERY

SAMPLES, LEAST = 8, 4
"""Of the fit split that run together, fewer where memory or time is short; rows of fewer than the least are noise."""
SHARE = 1 / 2
"""Of the minutes that rollouts have at a point, that full runs may take."""
FULL_RUNS, KEPT, TAPS = "full_runs", "in_loop.safetensors", "taps"


class InTheLoop:
    """Makes sections of a problem's candidates, with rows fitted in a run of each where its settings say so.

    Args:
        folder: full runs of fit samples are kept here, a file each, for all candidates and budgets; None for nowhere.
        count: of samples that run together, the first of the fit split, as far as one call of the pipeline takes them.
    """

    def __init__(self, pipe: Any, problem: Problem, folder: Path | None, count: int = SAMPLES) -> None:
        self._pipe, self._problem, self._folder = pipe, problem, folder
        self._jobs: Sequence[Job] = max(
            batches(problem.samples("fit").jobs[:count], max(1, count)), key=len, default=()
        )
        self._tokens = Tokens(problem)
        self._full: list[Seen] | None = None

    @classmethod
    def within(cls, minutes: float | None, pipe: Any, problem: Problem, folder: Path) -> InTheLoop:
        """Of as many samples as so many minutes of rollouts leave time for; None for any."""
        count, run_seconds = SAMPLES, problem.trace.cost.full_seconds * problem.trace.num_steps
        if minutes is not None:
            count = min(SAMPLES, int(SHARE * 60 * minutes / run_seconds))
        return cls(pipe, problem, folder, count)

    def __str__(self) -> str:
        return f"loop of {len(self._jobs)}"

    @property
    def cost(self) -> float:
        """Of fitting one candidate's rows, over that of a rollout."""
        return len(self._jobs) / len(self._problem.trace.samples("select"))

    def can_fit(self, candidate: Candidate) -> bool:
        """Whether rows of such a candidate can be fitted so: each channel's own, at one point, under one schedule of
        all branches, whose guidance is known; of enough samples."""
        problem, settings, schedule = self._problem, candidate.settings, candidate.schedule
        forecast = {name for action in schedule.palette for name in action.forecast}
        alike = len(forecast) == 1 and schedule.apart == (EVERY,) and problem.chunking is None
        own = settings.taps == "channel" and not settings.inherit
        return alike and own and len(self._jobs) >= LEAST and bool(schedule.predicted_steps and guidance_of(problem))

    def section(self, candidate: Candidate) -> NetworkPlan:
        """The section of a candidate, unrefined; see `build_section`."""
        section = build_section(candidate)
        if candidate.settings.in_loop and self.can_fit(candidate):
            return self.fitted(section) or section
        return section

    def settled(self, winner: Candidate, file: Path) -> NetworkPlan:
        """The same of a candidate that rollouts chose, whose rows are kept: a second call has those of the first."""
        plain = build_section(winner)
        if not winner.settings.in_loop:
            return plain
        known, _ = kept(file, winner.of)
        if known:
            return with_taps(plain, known[TAPS].numpy())
        section = self.section(winner)
        if (plan_taps(section) == plan_taps(plain)).all():
            say("rows of rollouts could not be fitted again, perhaps for want of memory: the statistics' are refined")
        keep(file, winner.of, {TAPS: torch.from_numpy(plan_taps(section))})
        return section

    def fitted(self, section: NetworkPlan) -> NetworkPlan | None:
        """`section` with rows that are fitted in a run of it; None where that does not work.

        Cost: a run of the plan for each sample, and once a full run.
        """
        jobs = self._jobs
        with torch.no_grad():
            if self._full is None:
                self._full = self._full_runs()
            while self._full and len(jobs) >= LEAST:
                taps = self._taps(section, jobs, self._full[: len(jobs)])
                if taps is not None:
                    return with_taps(section, taps)
                jobs = jobs[: len(jobs) // 2]  # all at once may not fit memory
        return None

    def _full_runs(self) -> list[Seen]:
        """What full runs of the samples stepped with; nothing where one of them cannot be told."""
        found = list[Seen]()
        for job in self._jobs:
            file = self._folder and self._folder / f"{self._problem.identity}-{job.index}.safetensors"
            if file and (known := _read(file)):
                found.append(known)
                continue
            seen = full_run(self._pipe, self._problem, job, self._tokens)
            if not seen:
                return []
            if file:
                _write(seen, file)
            found.append(seen)
        return found

    def _taps(self, section: NetworkPlan, jobs: Sequence[Job], full: Sequence[Seen]) -> np.ndarray | None:
        together = {key: np.concatenate([of[key] for of in full]) for key in full[0]}
        with ClosingRollout(self._pipe, self._problem, section, self._tokens, together, len(jobs)) as rollout:
            try:
                sample_latents(self._pipe, jobs, self._problem.workload.num_steps, len(jobs))
            except torch.OutOfMemoryError:
                return None
        taps = rollout.taps.cpu().double().numpy()
        return taps if rollout.whole and np.isfinite(taps).all() else None


def _write(seen: Seen, file: Path) -> None:
    keep(file, file.stem, {f"{step} {branch}": torch.from_numpy(of) for (branch, step), of in seen.items()})


def _read(file: Path) -> Seen:
    places = ((key.split(" ", 1), of.numpy()) for key, of in kept(file, file.stem)[0].items())
    return {(branch, int(step)): of for (step, branch), of in places}
