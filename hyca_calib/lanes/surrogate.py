"""What lanes would draw, from statistics of a few runs: a search among starts without calling the network.

Along the exact run the sampler is affine in the initial noise and the network's outputs, so each state is a vector of
coefficients over these, and the size of a difference follows from their Gram matrix. A lane is not on the exact run.
What the network says there is taken to be first order: its output on the exact run, plus the distance from that times a
slope of the step. Slopes differ by direction; of one alone errors would cancel that do not in truth. So each error is
the mean of two, with slopes a standard deviation over and below their mean. Both are measured, on lanes of real runs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyca_calib.pipelines.pipeline import Pipeline
from hyca_calib.pipelines.workload import Job, batches, merge_calls
from hyca_runtime.errors import SamplerError
from hyca_runtime.samplers import AfterHits, Called, Lanes, sample_chords
from hyca_runtime.samplers.chords import Chords
from hyca_runtime.samplers.single_step import SingleStep
from hyca_runtime.samplers.starts import ruled_starts

Array = NDArray[np.float64]
WATCHED = 6
"""Lanes whose distance from the exact one tells how the network reacts."""


@dataclass(frozen=True)
class Reaction:
    """Statistics of the runs of one sampler.

    Attributes:
        gram: of the initial noise and the output of each step, ``(1 + step, 1 + step)``, over all samples.
        sampler: on the CPU.
        slopes: change of the output over a change of the latents, ``(2, step)``: a standard deviation over directions
            below the mean, and above.
    """

    gram: Array
    slopes: Array
    sampler: SingleStep


@dataclass
class _Watch:
    """Calls of the exact lane, and what others at the same steps tell."""

    exact: dict[int, Called]
    others: list[Called]

    def hear(self, lane: int, called: Called) -> None:
        if lane == 0:
            self.exact[called.step] = called
        else:
            self.others.append(called)


def watch(pipe: Pipeline, jobs: Sequence[Job], num_steps: int, batch: int) -> Reaction:
    """The reaction of a pipeline's network, guidance included, on some samples."""
    gram, moments = np.zeros((num_steps + 1, num_steps + 1)), np.zeros((3, num_steps))
    starts = tuple(lane * num_steps // (WATCHED + 1) for lane in range(WATCHED))
    for group in batches(jobs, batch):
        heard = _Watch({}, [])
        told: dict[str, Any] = {"num_inference_steps": num_steps, "output_type": "latent", "return_dict": False}
        run = sample_chords(pipe, starts=starts, stop=AfterHits(None), on_call=heard.hear, **merge_calls(group), **told)
        rows = [heard.exact[0].latents, *(heard.exact[step].output for step in range(num_steps))]
        matrix = torch.stack([row.double().flatten() for row in rows])
        gram += (matrix @ matrix.T).cpu().numpy()
        for other in heard.others:
            exact = heard.exact[other.step]
            away, change = (other.latents - exact.latents).double(), (other.output - exact.output).double()
            moments[:, other.step] += [
                float((a * b).sum()) for a, b in ((away, away), (away, change), (change, change))
            ]
    return Reaction(gram, _slopes(moments), run.sampler.on_host())


def _slopes(moments: Array) -> Array:
    """Slopes of all steps from sums over directions; steps before any lane that was watched have the first one's."""
    known = np.flatnonzero(moments[0] > 1e-12 * moments[0].max())
    mean, square = (
        np.interp(np.arange(moments.shape[1]), known, row[known] / moments[0, known]) for row in moments[1:]
    )
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    return np.stack([mean - spread, mean + spread])


def surrogate_error(reaction: Reaction, lanes: Lanes, hits: int = 1) -> float:
    """Squared error of the sample of the last of so many lanes, as the surrogate has it."""
    return float(np.mean([_error(reaction, slope, lanes, hits) for slope in reaction.slopes]))


def _error(reaction: Reaction, slope: Array, lanes: Lanes, hits: int) -> float:
    exact = exact_states(reaction.sampler)
    chords = Chords(lanes, reaction.sampler, exact[0], AfterHits(hits))
    while not chords.done:
        chords.advance({lane: said(slope, exact, core.step, core.latents) for lane, core in chords.live.items()})
    wrong = (chords.result - exact[-1])[0].double().numpy()
    return float(wrong @ reaction.gram @ wrong)


def exact_states(sampler: SingleStep) -> list[Tensor]:
    """Coefficients of the states of the exact run ``(1, 1 + step)``."""
    basis = torch.eye(sampler.num_steps + 1, dtype=torch.float64)
    states = [basis[:1]]
    for step in range(sampler.num_steps):
        states.append(sampler.step(states[-1], basis[step + 1 : step + 2], step, step + 1).double())
    return states


def said(slope: Array, exact: Sequence[Tensor], step: int, state: Tensor) -> Tensor:
    """What the network says of a state at a step, to first order."""
    said = float(slope[step]) * (state - exact[step])
    said[0, step + 1] += 1
    return said


def search_starts(reaction: Reaction, count: int, passes: int) -> Lanes:
    """The starts of so many lanes whose fast one ends after so many passes, best by the surrogate.

    Starts are moved one by one, each to its best place between its neighbours, until none moves.

    Raises:
        SamplerError: no lanes are that fast.
    """
    num_steps = reaction.sampler.num_steps
    last = num_steps + count - 1 - passes
    if count < 2 or not count - 1 <= last < num_steps:
        raise SamplerError(f"{count} lanes of {num_steps} steps take {count} to {num_steps} passes, got {passes}")
    starts = list(first_guess(count, num_steps, last))
    best, moved = surrogate_error(reaction, Lanes(num_steps, tuple(starts))), True
    while moved:
        moved = False
        for number in range(count - 2, 0, -1):
            for lanes in _moved(starts, number, num_steps):
                found = surrogate_error(reaction, lanes)
                if found < best * (1 - 1e-9):
                    best, moved, starts = found, True, list(lanes.starts)
    return Lanes(num_steps, tuple(starts))


def first_guess(count: int, num_steps: int, last: int) -> tuple[int, ...]:
    """Starts by the published rule, or evenly spaced where that has no room."""
    try:
        return ruled_starts(count, num_steps, last)
    except SamplerError:  # no room for halves
        return tuple(np.linspace(0, last, count).round().astype(int).tolist())


def _moved(starts: Sequence[int], number: int, num_steps: int) -> Iterator[Lanes]:
    for start in range(starts[number - 1] + 1, starts[number + 1]):
        if start != starts[number]:
            yield Lanes(num_steps, (*starts[:number], start, *starts[number + 1 :]))
