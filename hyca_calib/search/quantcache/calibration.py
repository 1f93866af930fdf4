"""What full runs tell QuantCache: how outputs change, how alike blocks are, and what quantising parts of them does."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from torch.nn.functional import cosine_similarity

from hyca_calib.costs.bits import own_bits_of
from hyca_calib.pipelines.short_runs import shortest
from hyca_calib.pipelines.workload import Job
from hyca_calib.search.kept_runs import Rows, measured
from hyca_calib.search.problem import Problem
from hyca_calib.search.quantcache.balance import calibrate_balance
from hyca_calib.search.quantcache.bits import Importance
from hyca_calib.search.quantcache.counters import LENGTHS, moving_distance
from hyca_calib.search.smoothcache.calibration import Changes, distance, mean_changes, measure_changes
from hyca_calib.search.watched_run import WatchedCall, watch
from hyca_runtime.attach.points import SIDE_LIST, find_blocks, find_transformer
from hyca_runtime.attach.variants import find_linears
from hyca_runtime.feature import Feature
from hyca_runtime.point import parse_point
from hyca_runtime.variant import Scheme, VariantSpec

OUTPUT = "output"
"""The name of the point at which steps are reused, and where it is."""
MOVING, PLAIN = "moving", "plain"
"""Names of changes of outputs: those that divergences are of, and those that unrest is of."""
BETWEEN = {MOVING: moving_distance, PLAIN: distance}
BALANCED = ", balanced"
SAMPLES, PROBED, PROBE_STEPS = 8, 2, 4
"""Full runs for changes and cosines; runs of few steps on which parts are quantised one by one, and these steps."""

Progress = Callable[[float], None]


def block_paths(network: nn.Module) -> list[str]:
    """The blocks of a network, in the order in which they run."""
    return [place.path for place in find_blocks(network) if not SIDE_LIST.search(place.path.partition(".")[0])]


def calibrate_changes(pipe: Any, problem: Problem, folder: Path, on_progress: Progress) -> Changes:
    """How far outputs are from those of steps before, in full runs of the fit split, by each name of `BETWEEN`.

    Args:
        folder: where those of each run are kept; a second call goes on from them.
    """
    ahead, points = min(LENGTHS[-1][-1], problem.trace.num_steps - 1), dict.fromkeys(BETWEEN, parse_point(OUTPUT))
    told = f"{problem.identity}, changes of outputs over {ahead} steps, {' and '.join(BETWEEN)}"
    jobs = problem.workload.of("fit")[:SAMPLES]

    def measure(job: Job) -> Rows:
        return measure_changes(pipe, problem, points, job, ahead, BETWEEN)

    return mean_changes(measured(folder / "output_distances.json", told, jobs, measure, on_progress))


def calibrate_cosines(
    pipe: Any, problem: Problem, folder: Path, on_progress: Progress
) -> Mapping[str, Sequence[float]]:
    """The cosine between what comes into a block and what it puts out, by its path and step; not of the first block,
    nor where a block before hands on other tokens."""
    jobs, of = problem.workload.of("fit")[:SAMPLES], f"{problem.identity}, cosines of blocks"
    rows = measured(folder / "cosines.json", of, jobs, lambda job: measure_cosines(pipe, problem, job), on_progress)
    return {path: np.mean([run[path][0] for run in rows], axis=0).tolist() for path in rows[0]}


def measure_cosines(pipe: Any, problem: Problem, job: Job) -> Rows:
    """Of one full run, ``[0][step]``, the mean over tokens and calls of a step."""
    paths = block_paths(find_transformer(pipe, problem.trace.attributes.model.component))
    points = {path: parse_point(f"span:{path}..{path}") for path in paths}
    found: dict[str, list[list[float]]] = {}

    def hear(call: WatchedCall) -> None:
        if call.begins:
            found.clear()
        for before, path in itertools.pairwise(paths):
            entered, left = call.features.get(before), call.features.get(path)
            if entered is not None and left is not None and _alike(entered, left):
                steps = found.setdefault(path, [[] for _ in range(problem.trace.num_steps)])
                steps[call.step].append(_cosine(entered, left))

    watch(pipe, problem, points, job, problem.workload.num_steps, hear)
    return {path: [[float(np.mean(of)) if of else -1.0 for of in steps]] for path, steps in found.items()}


def _alike(one: Feature, other: Feature) -> bool:
    return [part.shape for part in one] == [part.shape for part in other]


def _cosine(one: Feature, other: Feature) -> float:
    values = [cosine_similarity(a.float(), b.float(), dim=-1).mean().item() for a, b in zip(one, other, strict=True)]
    return float(np.mean(values))


def parts_of_blocks(network: nn.Module) -> dict[str, list[str]]:
    """Groups of linear layers that have the same bits: those of one child of one block, by its path."""
    found, blocks = dict[str, list[str]](), block_paths(network)
    for place in find_linears(network, "*"):
        block = next((path for path in blocks if place.path.startswith(f"{path}.")), None)
        if block is not None:
            child = place.path.removeprefix(f"{block}.").partition(".")[0]
            found.setdefault(f"{block}.{child}", []).append(place.path)
    return found


def calibrate_importance(
    pipe: Any, problem: Problem, schemes: Sequence[Scheme], simulated: bool, folder: Path, on_progress: Progress
) -> Importance:
    """What quantising each part alone does to the network's output, in short runs of the fit split; with its input
    balanced, where that does less.

    Raises:
        AttachError: the schemes cannot be made here.
    """
    network = find_transformer(pipe, problem.trace.attributes.model.component)
    parts, jobs = parts_of_blocks(network), problem.workload.of("fit")[:PROBED]
    balance = calibrate_balance(pipe, problem, jobs, PROBE_STEPS, folder, lambda share: on_progress(share / 4))
    specs = dict[str, VariantSpec]()
    for scheme, (part, paths) in itertools.product(schemes, parts.items()):
        plain = VariantSpec(scheme=scheme, layers=_pattern(part, paths), simulated=simulated)
        specs[f"{scheme} {part}"] = plain
        if own := {path: balance[path] for path in paths if path in balance}:
            specs[f"{scheme} {part}{BALANCED}"] = plain.model_copy(update={"balance": own})
    of = f"{problem.identity}, importance under {', '.join(schemes)}{' simulated' * simulated}, balanced and not"
    rows = measured(
        folder / "importance.json",
        of,
        jobs,
        lambda job: _importance(pipe, problem, specs, job),
        lambda share: on_progress((1 + 3 * share) / 4),
    )
    errors = {name: float(np.mean([row[name][0][0] for row in rows])) for name in specs}
    balanced = {
        (scheme, part)
        for scheme, part in itertools.product(schemes, parts)
        if errors.get(f"{scheme} {part}{BALANCED}", math.inf) < errors[f"{scheme} {part}"]
    }
    sizes = {
        part: sum(network.get_submodule(path).get_parameter("weight").numel() for path in paths)
        for part, paths in parts.items()
    }
    least = {
        scheme: {part: errors[f"{scheme} {part}{BALANCED * ((scheme, part) in balanced)}"] for part in parts}
        for scheme in schemes
    }
    return Importance(sizes, least, own_bits_of(network), balance, frozenset(balanced))


def _pattern(part: str, paths: Sequence[str]) -> str:
    return part if paths == [part] else next(p for p in (f"{part}.*",) if all(fnmatchcase(path, p) for path in paths))


def _importance(pipe: Any, problem: Problem, specs: Mapping[str, VariantSpec], job: Job) -> Rows:
    lost, whole, points = dict.fromkeys(specs, 0.0), 0.0, {OUTPUT: parse_point(OUTPUT)}

    def hear(call: WatchedCall) -> None:
        nonlocal whole
        own = call.features[OUTPUT]
        whole += sum(part.float().square().sum().item() for part in own)
        for name, features in call.others.items():
            made = features[OUTPUT] or Feature(())
            lost[name] += sum((a - b).float().square().sum().item() for a, b in zip(own, made, strict=True))

    def called(steps: int) -> float | None:
        watch(pipe, problem, points, job, steps, hear, variants=specs)
        return whole or None

    shortest(problem.workload.num_steps, called, PROBE_STEPS)
    return {name: [[error / whole]] for name, error in lost.items()}
