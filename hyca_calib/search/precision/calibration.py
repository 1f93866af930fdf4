"""How far off variants of a network are: full runs in its own precision, with every call made in low precision, too."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from torch import Tensor, nn

from hyca_calib.costs.bits import own_bits_of
from hyca_calib.pipelines.workload import Job
from hyca_calib.search.kept_runs import Rows, measured
from hyca_calib.search.precision.variants import KnownVariants
from hyca_calib.search.problem import Problem
from hyca_calib.search.replay import Array
from hyca_calib.search.watched_run import WatchedCall, watch
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.attach.variants import find_linears
from hyca_runtime.feature import Feature
from hyca_runtime.schedule import FEATURE
from hyca_runtime.stacked import stacked_labels
from hyca_runtime.variant import VariantSpec

SAMPLES = 4
"""Each has many tokens, whose errors are alike."""
KEPT = "variant_noise.json"
FLOPS = "flops"


def known_variants(
    pipe: Any,
    problem: Problem,
    specs: Mapping[str, VariantSpec],
    folder: Path,
    on_progress: Callable[[float], None] = lambda share: None,
) -> KnownVariants:
    """What the first samples of the fit split tell of some variants.

    Args:
        folder: where what each run told is kept; a second call goes on from it.

    Raises:
        AttachError: a variant cannot be made here.
    """
    trace, jobs = problem.trace, problem.workload.of("fit")[:SAMPLES]
    told = ", ".join(f"{name}: {spec}" for name, spec in specs.items())
    rows = measured(
        folder / KEPT,
        f"{problem.identity}, noise of {told}",
        jobs,
        lambda job: measure_noise(pipe, problem, specs, job),
        on_progress,
    )
    network = find_transformer(pipe, trace.attributes.model.component)
    noise = {
        name: np.stack([np.mean([row[_key(name, of)] for row in rows], axis=0).T for of in trace.branches], axis=1)
        for name in specs
    }
    flops = {name: rows[0][_key(name, FLOPS)][0][0] for name in specs}
    return KnownVariants(specs, own_bits_of(network), flops, noise)


def measure_noise(pipe: Any, problem: Problem, specs: Mapping[str, VariantSpec], job: Job) -> Rows:
    """Squared errors in the full run of one sample, ``[step][channel]`` by variant and branch, and FLOPs of a step."""
    trace = problem.trace
    shape, axis = (trace.num_steps, trace.num_channels), trace.point.channel_axis
    found: dict[str, Array] = {_key(name, branch): np.zeros(shape) for name in specs for branch in trace.branches}

    def hear(call: WatchedCall) -> None:
        if call.begins:
            for rows in found.values():
                rows[:] = 0
        for name, features in call.others.items():
            own, made = call.features[FEATURE], features[FEATURE] or Feature(())
            labels = stacked_labels(call.stream[0], trace.stacked)
            for i, label in enumerate(labels):
                pieces = [(a - b).chunk(len(labels))[i] for a, b in zip(made, own, strict=True)]
                found[_key(name, label)][call.step] += np.concatenate([_squares(piece, axis) for piece in pieces])

    network = find_transformer(pipe, trace.attributes.model.component)
    with Meter(network, specs) as meter:
        watch(pipe, problem, {FEATURE: trace.point}, job, problem.workload.num_steps, hear, variants=specs)
    rows = {key: of.tolist() for key, of in found.items()}
    return rows | {_key(name, FLOPS): [[flops / trace.num_steps]] for name, flops in meter.flops.items()}


def _key(variant: str, of: str) -> str:
    return f"{variant} {of}"


def _squares(errors: Tensor, axis: int) -> Array:
    """Sum of squares of each channel."""
    return errors.double().movedim(axis, -1).flatten(0, -2).square().sum(0).cpu().numpy()


class Meter:
    """Counts FLOPs of the network's own layers that some variants quantise. A context manager."""

    def __init__(self, network: nn.Module, specs: Mapping[str, VariantSpec]) -> None:
        self.flops = dict.fromkeys(specs, 0.0)
        places = ((name, place) for name, spec in specs.items() for place in find_linears(network, spec.layers))
        self._layers = list(dict.fromkeys((name, place.module) for name, place in places))

    def __enter__(self) -> Self:
        self._hooks = [layer.register_forward_hook(self._counting(name)) for name, layer in self._layers]
        return self

    def __exit__(self, *exc: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _counting(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def count(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            self.flops[name] += 2.0 * output.numel() * args[0].shape[-1]

        return count
