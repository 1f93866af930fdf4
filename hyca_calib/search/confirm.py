"""Real rollouts: the offline objective does not see that later network calls meet a changed latent."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from hyca_calib.metrics import log_error
from hyca_calib.rollout import sample_latents
from hyca_calib.search.assemble import build_section
from hyca_calib.search.candidate import Candidate, Settings
from hyca_calib.search.problem import Problem
from hyca_calib.search.refine import to_db
from hyca_calib.workload import Job
from hyca_runtime import apply_plan
from hyca_runtime.plan import Plan, Section
from hyca_runtime.schedule import Schedule

__all__ = ["Confirmation", "confirm", "rollout_psnr"]

RIDGES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


@dataclass(frozen=True)
class Confirmation:
    """Limits of the rollouts.

    Attributes:
        minutes: wall time, 0 to trust the offline objective.
        finalists: offline candidates that are rolled out before the best one's schedule is refined.
    """

    minutes: float = 1.0
    finalists: int = 6


def rollout_psnr(pipe: Any, section: Section, jobs: Sequence[Job], reference: Tensor, num_steps: int) -> float:
    """PSNR in dB of the final latents under `section`, from the mean log error over `jobs`."""
    with apply_plan(pipe, Plan(name="candidate", sections=(section,)), on_mismatch="error"):
        latents = sample_latents(pipe, jobs, num_steps, len(jobs))
    return to_db(log_error(latents, reference.to(latents.device)).mean().item())


def confirm(
    pipe: Any,
    problem: Problem,
    candidates: Sequence[Candidate],
    jobs: Sequence[Job],
    reference: Tensor,
    limits: Confirmation,
    state_path: Path,
    seed: int,
    on_progress: Callable[[float, float], None] = lambda share, psnr: None,
) -> tuple[Candidate, list[dict[str, Any]]]:
    """Roll out the best candidates on the select split, then other ridges, then moves of single steps.

    The ridge decides how far taps trust their fit, which a replay with a clean history overrates or
    underrates by several dB.

    Every rollout is kept in `state_path`; a second call with the same path repeats none of them.

    Returns:
        The winner, and what was tried: computed steps, settings and PSNR of each rollout.
    """
    tried: list[dict[str, Any]] = json.loads(state_path.read_text()) if state_path.exists() else []
    known: dict[str, float] = {_key(entry["settings"], entry["computed"]): entry["psnr_db"] for entry in tried}
    begun, limit = time.monotonic(), 60 * limits.minutes

    def score(candidate: Candidate) -> float:
        computed = list(candidate.schedule.computed_steps)
        key = _key(asdict(candidate.settings), computed)
        if key not in known:
            section = build_section(problem, candidate, seed)
            known[key] = rollout_psnr(pipe, section, jobs, reference, problem.inference_steps)
            tried.append({"settings": asdict(candidate.settings), "computed": computed, "psnr_db": known[key]})
            partial = state_path.with_suffix(".partial")
            partial.write_text(json.dumps(tried))
            partial.replace(state_path)
        return known[key]

    best, best_psnr = candidates[0], -float("inf")

    def improves(candidate: Candidate) -> bool:
        nonlocal best, best_psnr
        better = (psnr := score(candidate)) > best_psnr
        if better:
            best, best_psnr = candidate, psnr
        on_progress(min(1.0, (time.monotonic() - begun) / limit) if limit else 1.0, best_psnr)
        return better

    def in_time(candidates: Iterable[Candidate]) -> Iterator[Candidate]:
        return itertools.takewhile(lambda _: time.monotonic() - begun < limit, candidates)

    for candidate in candidates[: limits.finalists]:
        improves(candidate)
    for candidate in in_time([replace(best, settings=replace(best.settings, ridge=ridge)) for ridge in RIDGES]):
        improves(candidate)
    shuffle = random.Random(seed)
    improved = True
    while improved:
        moves = [replace(best, schedule=schedule) for schedule in neighbours(best.schedule, best.settings.start)]
        shuffle.shuffle(moves)
        improved = any(improves(moved) for moved in in_time(moves))
    return best, tried


def neighbours(schedule: Schedule, start: int) -> list[Schedule]:
    """Schedules that differ in one computed step, moved by one or two; the first `start` stay."""
    computed = schedule.computed_steps
    found = []
    for i in range(max(1, start), len(computed)):
        for shift in (-2, -1, 1, 2):
            moved = computed[i] + shift
            if 0 < moved < schedule.num_steps and moved not in computed:
                found.append(Schedule.from_steps(schedule.num_steps, {*computed, moved} - {computed[i]}))
    return found


def _key(settings: dict[str, Any], computed: Sequence[int]) -> str:
    return json.dumps([asdict(Settings(**settings)), list(computed)], sort_keys=True)
