r"""How much the outputs of layers change from step to step of full runs.

With :math:`L_t` the output of a layer at step t, the change over j steps is

.. math:: E(t, j) = \frac{\| L_t - L_{t+j} \|_1}{\| L_t \|_1},

norms in float32 over the whole output, both halves of a batched guidance call together. It is averaged over the layers
of a kind, guidance branches and samples.
"""

import statistics
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hyca_calib.pipelines.workload import Job
from hyca_calib.search.kept_runs import Rows, measured
from hyca_calib.search.problem import Problem
from hyca_calib.search.watched_run import Points, WatchedCall, watch
from hyca_runtime.feature import Feature

SAMPLES = 10
"""As the paper takes; more change little."""
FAR = 1e9
"""The change between outputs that cannot be compared; larger ones are taken for it."""
TINY = 1e-30
KEPT = "layer_changes.json"

Changes = Rows
"""By point, ``[j - 1][t]``, as many steps t as have a step t + j."""


def calibrate(
    pipe: Any,
    problem: Problem,
    points: Points,
    lookahead: int,
    folder: Path,
    on_progress: Callable[[float], None] = lambda share: None,
) -> Changes:
    """Mean changes in full runs of the first samples of the fit split.

    Args:
        folder: where the changes in each run are kept; a second call goes on from them.
    """
    jobs, of = problem.workload.of("fit")[:SAMPLES], f"{problem.identity}, changes over {lookahead} steps"
    return mean_changes(
        measured(
            folder / KEPT, of, jobs, lambda job: measure_changes(pipe, problem, points, job, lookahead), on_progress
        )
    )


def change(older: Feature, newer: Feature) -> float:
    """The change of each layer's output, averaged over the layers; each stream is an output of its own."""
    ratios = []
    for a, b in zip(older, newer, strict=True):
        kept = a.float()
        moved = (kept - b.float()).abs().sum().item()
        ratios.append(moved / max(kept.abs().sum().item(), TINY))
    return statistics.fmean(ratios)


def distance(older: Feature, newer: Feature) -> float:
    """Mean absolute difference; summed it would be so many times more on all steps."""
    total = sum((a.float() - b.float()).abs().sum().item() for a, b in zip(older, newer, strict=True))
    return total / sum(part.numel() for part in older)


def measure_changes(
    pipe: Any,
    problem: Problem,
    points: Points,
    job: Job,
    lookahead: int,
    between: Mapping[str, Callable[[Feature, Feature], float]] | None = None,
) -> Changes:
    """Changes in the full run of one sample; holds the outputs of the last `lookahead` steps.

    Args:
        between: what counts as the change from one output to a later one, by the name of the point; else `change`.
    """
    known = between or {}
    past: dict[tuple[str, str, int], deque[tuple[int, Feature]]] = defaultdict(lambda: deque(maxlen=lookahead))
    found: dict[tuple[str, int, int], list[float]] = defaultdict(list)

    def hear(call: WatchedCall) -> None:
        if call.begins:
            past.clear()
        for name, feature in call.features.items():
            before = past[name, *call.stream]
            for step, older in before:
                if _comparable(older, feature):
                    found[name, call.step - step, step].append(known.get(name, change)(older, feature))
            before.append((call.step, Feature(part.detach().clone() for part in feature)))

    watch(pipe, problem, points, job, problem.workload.num_steps, hear)
    steps = range(problem.trace.num_steps)
    return {
        name: [[_mean(found[name, j, t]) for t in steps[:-j]] for j in range(1, min(lookahead + 1, len(steps)))]
        for name in points
    }


def mean_changes(samples: Sequence[Changes]) -> Changes:
    """Changes averaged over samples."""
    return {
        name: [[_mean(values) for values in zip(*rows, strict=True)] for rows in zip(*of_name, strict=True)]
        for name, of_name in ((name, [sample[name] for sample in samples]) for name in samples[0])
    }


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return min(statistics.fmean(found), FAR) if found else FAR


def _comparable(older: Feature, newer: Feature) -> bool:
    return [part.shape for part in older] == [part.shape for part in newer]
