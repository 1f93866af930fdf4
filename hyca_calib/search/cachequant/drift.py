"""How what is reused drifts from the step on which it was computed, on full runs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hyca_calib.pipelines.workload import Job, Split
from hyca_calib.search.cachequant.moments import Moments, moments_of
from hyca_calib.search.kept_runs import measured
from hyca_calib.search.kept_sums import Sums, summed
from hyca_calib.search.problem import Problem
from hyca_calib.search.smoothcache.calibration import Changes, distance, mean_changes, measure_changes
from hyca_calib.search.watched_run import Points, WatchedCall, watch
from hyca_runtime.feature import Feature, widths

DISTANCE_SAMPLES = 8
"""Full runs that decide about the groups, as published."""
SAMPLES, HELD_OUT = 32, 4
"""Runs that corrections are fitted to, as published, and runs of the select split that show what they do to others."""
DISTANCES = "distances.json"


def calibrate_distances(
    pipe: Any, problem: Problem, points: Points, ahead: int, folder: Path, on_progress: Callable[[float], None]
) -> Changes:
    """Mean distances between steps in full runs of the first samples of the fit split, `ahead` steps at most apart.

    Args:
        folder: where those of each run are kept; a second call goes on from them.
    """
    jobs = problem.workload.of("fit")[:DISTANCE_SAMPLES]
    told = f"{problem.identity}, distances over {ahead} steps at {', '.join(map(str, points.values()))}"
    return mean_changes(
        measured(
            folder / DISTANCES,
            told,
            jobs,
            lambda job: measure_changes(pipe, problem, points, job, ahead, dict.fromkeys(points, distance)),
            on_progress,
        )
    )


def drift(
    pipe: Any,
    problem: Problem,
    points: Points,
    begins: Sequence[int],
    split: Split,
    folder: Path,
    on_progress: Callable[[float], None] = lambda share: None,
) -> dict[str, Moments]:
    """What points have on steps that reuse, against the first step of their group, by the name of the point.

    Args:
        begins: the first step of each group.
        split: of which runs are taken.
        folder: where sums are kept; a second call goes on from them.
    """
    jobs = jobs_of(problem, split)
    of = f"{problem.identity}, {len(jobs)} of {split}, {list(begins)}, {', '.join(map(str, points.values()))}"
    file = folder / f"drift-{split}.safetensors"
    found = summed(file, of, jobs, lambda job: _measured(pipe, problem, points, begins, job), on_progress)
    return {name: Moments(sums) for name, sums in found.items()}


def jobs_of(problem: Problem, split: Split) -> Sequence[Job]:
    """The runs of a split that corrections are fitted to, or shown on."""
    return problem.workload.of(split)[: SAMPLES if split == "fit" else HELD_OUT]


def _measured(pipe: Any, problem: Problem, points: Points, begins: Sequence[int], job: Job) -> Sums:
    held: dict[tuple[str, str, int], Feature] = {}
    found, steps = Sums(), problem.trace.num_steps

    def hear(call: WatchedCall) -> None:
        if call.begins:
            found.clear()
        for name, feature in call.features.items():
            key, axis = (name, *call.stream), points[name].channel_axis
            sums = found.setdefault(name, np.zeros((6, steps, sum(widths(feature, axis)))))
            if call.step in begins:
                held[key] = Feature(part.detach().clone() for part in feature)
            else:
                sums[:, call.step] += moments_of(held[key], feature, axis)

    watch(pipe, problem, points, job, problem.workload.num_steps, hear)
    return found
