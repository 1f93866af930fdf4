"""Taps refined without gradients, for networks through which none get: compiled, quantised to integers, or closed.

Evolution (separable CMA-ES, Ros and Hansen 2008) in the coordinates of `hyca_calib.search.preconditioner`, all channels
of a tap moving together: one number for every tap of every row. What gradients would have cost is spent on rollouts, so
an effort means as much work with them as without.
"""

import itertools
import math
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cmaes import SepCMA
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from hyca_calib.pipelines.rollout import runs_on
from hyca_calib.records.atomic import write_text
from hyca_calib.search.options import Refinement
from hyca_calib.search.refine import WITH_BACKWARD, refine_taps
from hyca_calib.search.refinement_task import Alike, Course, RefinementTask
from hyca_calib.search.replay import Array
from hyca_calib.search.rollout_error import mean_psnr
from hyca_calib.search.study import StudyFolder
from hyca_calib.search.tap_rollout import NotDifferentiableError

SAMPLES = 2
"""Fit samples that a generation is judged by, the same for all its members: their errors rise and fall together."""
SPREAD = 0.1
"""Of the first generation: a step of so much changes any forecast by that share of its error."""
KEPT = "evolution.json"


class Lived(BaseModel):
    """What generations were worth; after an interruption the same members are drawn again, and not run again.

    Attributes:
        of: what was refined, see `RefinementTask`.
        values: mean log squared error, by generation and member.
        judged: on the select split, of the mean of so many generations.
    """

    model_config = ConfigDict(ser_json_inf_nan="constants")
    seed: int
    of: str = ""
    values: list[list[float]] = Field(default_factory=list)
    judged: dict[int, float] = Field(default_factory=dict)
    seconds: float = 0.0


def refine_somehow(
    task: RefinementTask,
    settings: Refinement,
    study: StudyFolder,
    seed: int,
    on_progress: Callable[[float, float], None] = lambda share, psnr: None,
) -> tuple[Tensor, dict[str, Any]]:
    """By gradient, or by evolution where none gets through; the account says why."""
    try:
        return refine_taps(task, settings, study.refinement, seed, on_progress)
    except NotDifferentiableError as error:
        found, account = evolve_taps(task, settings, study.folder, seed, on_progress)
        return found, {"because": str(error), **account}


def evolve_taps(
    task: RefinementTask,
    settings: Refinement,
    folder: Path,
    seed: int,
    on_progress: Callable[[float, float], None] = lambda share, psnr: None,
) -> tuple[Tensor, dict[str, Any]]:
    """Minimise the loss of `hyca_calib.search.refine` by rollouts alone.

    Args:
        folder: where the values of every generation are kept; a second call goes on from them.
        on_progress: told the share of the work done and the best select PSNR so far.

    Returns:
        The parameters that were best on `task.select`, and an account of the run.
    """
    task = replace(task, start=task.start.to(runs_on(task.pipe)))
    path, optimizer = folder / KEPT, SepCMA(np.zeros(math.prod(task.start.shape[:2])), SPREAD, seed=seed)
    members_each: int = optimizer.population_size
    lived, judging = _kept(path, task.of, seed, members_each), min(SAMPLES, len(task.fit.jobs))
    begun, best, best_error, judged = time.monotonic() - lived.seconds, task.start, math.inf, -1

    def share(generation: int) -> float:
        spent = min(1.0, (time.monotonic() - begun) / (60 * settings.minutes))
        if settings.iterations is None or spent == 1:
            return spent
        rollouts = settings.iterations * min(settings.batch, len(task.fit.jobs)) * WITH_BACKWARD
        return min(1.0, generation * members_each * judging / rollouts)

    with (task.course or Alike)(task, False) as course, torch.no_grad():
        for generation in itertools.count():
            known, done = generation < len(lived.values), share(generation)
            due, mean = math.floor(done * settings.evaluations), moved_alike(task, optimizer.mean)
            if generation not in lived.judged and not known and due > judged:
                course.follow(task.expand(mean))
                lived.judged[generation] = course.error()
            if generation in lived.judged:
                judged = due
                if lived.judged[generation] < best_error:
                    best, best_error = mean, lived.judged[generation]
                on_progress(done, mean_psnr(best_error, task.select))
            if not known:
                lived.seconds = time.monotonic() - begun
                write_text(path, lived.model_dump_json())
                if done == 1:
                    break
            members = [optimizer.ask() for _ in range(members_each)]
            if not known:
                chosen = random.Random(f"{seed} {generation}").sample(range(len(task.fit.jobs)), judging)
                lived.values.append([_value(course, task, member, chosen) for member in members])
            optimizer.tell(list(zip(members, lived.values[generation], strict=True)))
    account = {
        "by": "evolution",
        "generations": generation,
        "rollouts": generation * members_each * judging,
        "minutes": round(lived.seconds / 60, 2),
        "select_psnr_before_db": round(mean_psnr(lived.judged[0], task.select), 3),
        "select_psnr_after_db": round(mean_psnr(best_error, task.select), 3),
    }
    return best.cpu(), account


def moved_alike(task: RefinementTask, vector: Array) -> Tensor:
    """One number for every tap of every row, as parameters: the same for all groups and channels."""
    rows = torch.from_numpy(vector).to(task.start).reshape(task.start.shape[:2])
    return task.start + rows[..., None]


def _value(course: Course, task: RefinementTask, member: Array, chosen: list[int]) -> float:
    course.follow(task.expand(moved_alike(task, member)))
    found = float(course.loss(chosen))
    return math.inf if math.isnan(found) else found


def _kept(path: Path, of: str, seed: int, members: int) -> Lived:
    """What an interrupted call for the same, with as many members to a generation, has lived through."""
    try:
        found = Lived.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return Lived(seed=seed, of=of)
    fits = (found.seed, found.of) == (seed, of) and all(len(values) == members for values in found.values)
    return found if fits else Lived(seed=seed, of=of)
