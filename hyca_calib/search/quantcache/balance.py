r"""Powers of two that bring the input channels of linear layers to one size before their weights are rounded.

With :math:`a_j` the largest absolute value of channel :math:`j` of a layer's input and :math:`w_j` that of the weight's
column, both are left alike by :math:`x_j / s_j` and :math:`s_j W_{:j}` where :math:`s_j = \sqrt{a_j / w_j}`
(SmoothQuant, arXiv 2211.10438, with a migration strength of one half); the nearest power of two changes no bit of a
product before rounding. A factor that all channels share changes nothing, so the median is none.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.short_runs import shortest
from hyca_calib.pipelines.workload import Job
from hyca_calib.search.kept_runs import Rows, measured
from hyca_calib.search.problem import Problem
from hyca_calib.search.replay import Array
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.attach.variants import find_linears
from hyca_runtime.variant import MOST_SHIFT

TINY = 1e-12
HEADROOM = 8.0
"""What is balanced keeps this far below the largest number of the network's precision: inputs to come may be larger."""

Balance = dict[str, list[int]]
"""Exponents of two by channel, by the path of a layer, see `hyca_runtime.variant.VariantSpec`."""


def calibrate_balance(
    pipe: Any, problem: Problem, jobs: Sequence[Job], steps: int, folder: Path, on_progress: Callable[[float], None]
) -> Balance:
    """The exponents of every layer whose channels are not of one size, from runs of so many steps, or of
    more where those call no layer.

    Args:
        folder: where the ranges of each run are kept.
    """
    network = find_transformer(pipe, problem.trace.attributes.model.component)
    of = f"{problem.identity}, ranges of layers' inputs over {steps} steps"

    def measure(job: Job) -> Rows:
        found = shortest(problem.workload.num_steps, lambda few: measure_ranges(pipe, network, job, few) or None, steps)
        return found or {}

    rows = measured(folder / "input_ranges.json", of, jobs, measure, on_progress)
    largest = {path: np.max([row[path][0] for row in rows], axis=0) for path in rows[0]}
    found = {path: exponents(of, *column_ranges(network, path)) for path, of in largest.items()}
    return {path: shifts for path, shifts in found.items() if any(shifts)}


def exponents(inputs: Array, columns: Array, largest: float) -> list[int]:
    """By channel, from the largest absolute values of inputs and of the weight's columns, each ``(channel,)``.

    Args:
        largest: number of the network's precision; float16 is soon at its end.
    """
    used = (inputs > TINY) & (columns > TINY)
    apart = np.log2(np.where(used, inputs, 1.0) / np.where(used, columns, 1.0)) / 2
    middle = np.median(apart[used]) if used.any() else 0.0
    shifts = np.where(used, np.rint(apart - middle), 0)
    room = [np.floor(np.log2(largest / HEADROOM / np.maximum(of, TINY))) for of in (inputs, columns)]
    low, high = (np.clip(of, 0, MOST_SHIFT) for of in room)
    return [int(shift) for shift in np.clip(shifts, -low, high)]


def column_ranges(network: nn.Module, path: str) -> tuple[Array, float]:
    """The largest absolute value in each column of a layer's weight, and the largest that its precision has."""
    weight = network.get_submodule(path).get_parameter("weight").detach()
    return np.asarray(weight.abs().amax(0).double().cpu().numpy()), torch.finfo(weight.dtype).max


def measure_ranges(pipe: Any, network: nn.Module, job: Job, steps: int) -> Rows:
    """The largest absolute value of every input channel in a run, ``[0][channel]``, of the layers that it calls."""
    found: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for place in find_linears(network, "*"):
            handle = place.module.register_forward_pre_hook(_noting(found, place.path), with_kwargs=True)
            hooks.callback(handle.remove)
        sample_latents(pipe, [job], steps, 1)
    return {path: [largest.tolist()] for path, largest in found.items()}


def _noting(found: dict[str, Tensor], path: str) -> Callable[[nn.Module, tuple[Any, ...], Mapping[str, Any]], None]:
    def note(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        x: Tensor = args[0] if args else kwargs["input"]
        largest = x.detach().float().abs().flatten(0, -2).amax(0)
        found[path] = largest.maximum(found[path]) if path in found else largest

    return note
