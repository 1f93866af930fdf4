"""Refinement through smaller samples, of fewer pixels or frames: taps are per channel and fit any size.

Whether it helps full samples is measured before: the errors of some taps around the start, which is where refinement
goes, must rank at the smaller size as at the full one. Judging stays at full size.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from hyca_calib.pipelines.contract import takes
from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.search.evolve import SPREAD, moved_alike
from hyca_calib.search.options import Refinement
from hyca_calib.search.problem import Samples
from hyca_calib.search.refinement_task import Alike, RefinementTask
from hyca_runtime.errors import PlanMismatchError, WorkloadError

SIZES = ("height", "width", "num_frames")
"""Arguments of a pipeline's call that say how large a sample is."""
MEMBERS, SAMPLES = 8, 4
"""Taps that are ranked, and fit samples that their errors are the mean of."""
LEAST_RANK = 0.8
"""Spearman's correlation below which nothing is refined at another size; unrelated errors have it once in a hundred."""


def parse_size(text: str | None) -> dict[str, int]:
    """``"height=512,width=512"``; nothing of None.

    Raises:
        WorkloadError: not of this form.
    """
    found = dict[str, int]()
    for part in text.split(",") if text else []:
        name, _, number = (piece.strip() for piece in part.partition("="))
        if name not in SIZES or not number.isdecimal() or int(number) < 1:
            raise WorkloadError(
                f"--refine-at {text}: expected {', '.join(SIZES)} with numbers: height=512,width=512 or num_frames=17"
            )
        found[name] = int(number)
    return found


def size_for(pipe: Any, text: str | None) -> dict[str, int]:
    """As `parse_size`.

    Raises:
        WorkloadError: the pipeline's call takes no such arguments, too.
    """
    size = parse_size(text)
    if unknown := [name for name in size if not takes(pipe, name)]:
        raise WorkloadError(f"--refine-at: {type(pipe).__name__} takes no {', no '.join(unknown)}; leave it out")
    return size


def smaller(task: RefinementTask, settings: Refinement, seed: int) -> tuple[RefinementTask, dict[str, Any]]:
    """The task with fit samples of the settings' size, if errors rank there as at full size; else the task as it is.
    Beside it an account of that.
    """
    told: dict[str, Any] = {"size": dict(settings.size)}
    few = at_size(task.pipe, task.fit[:SAMPLES], settings)
    try:
        rank = rank_correlation(task, few, seed)
    except PlanMismatchError as error:
        return task, {"full_size_because": f"its noise levels are others: {error}"}
    told["rank_correlation"] = round(rank, 3)
    if not rank >= LEAST_RANK:
        return task, {**told, "full_size_because": f"errors rank otherwise, expected at least {LEAST_RANK}"}

    def more() -> Samples | None:
        found = task.more()
        return None if found is None else at_size(task.pipe, found, settings)

    return replace(task, fit=at_size(task.pipe, task.fit, settings), more=more), told


def at_size(pipe: Any, samples: Samples, settings: Refinement) -> Samples:
    """The same prompts and seeds at another size, with their full runs."""
    jobs = tuple(replace(job, call={**job.call, **dict(settings.size)}) for job in samples.jobs)
    with torch.no_grad():
        latents = sample_latents(pipe, jobs, samples.num_steps, settings.batch)
    return replace(samples, jobs=jobs, latents=latents.cpu())


def rank_correlation(task: RefinementTask, few: Samples, seed: int) -> float:
    """Spearman's, of the errors of some taps over the first fit samples: at full size, and of these smaller ones.

    Raises:
        PlanMismatchError: the smaller runs have other noise levels.
    """
    count, random = int(np.prod(task.start.shape[:2])), np.random.default_rng(seed)
    moves = SPREAD * random.standard_normal((MEMBERS, count))
    errors = list[list[float]]()
    for samples in (few, task.fit[: len(few.jobs)]):
        judged = replace(task, select=samples)
        with (task.course or Alike)(judged, False) as course:
            errors.append([])
            for move in moves:
                course.follow(task.expand(moved_alike(task, move)))
                errors[-1].append(course.error())
    return float(spearmanr(*errors).statistic)
