r"""Taps refined end to end, by gradient through the accelerated rollout.

The network is frozen; the parameters are the few thousand taps of the plan. The loss is the mean
log squared error of the *final latent* to the full run, so its decrease by ln 10 is 10 dB of PSNR:

.. math:: L(w) = \frac{1}{B} \sum_b \log \| x_b(w) - x_b^{full} \|^2.

Offline, errors are judged one gap at a time with a clean history; here every later network call sees
what the taps did before, which is where most of the gain comes from.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyca_calib.pipelines.recompute import Recomputed, recomputing
from hyca_calib.pipelines.rollout import runs_on, sample_latents
from hyca_calib.search.options import Refinement
from hyca_calib.search.refinement_state import RefinementState
from hyca_calib.search.refinement_task import Deepening, RefinementTask, levels_for
from hyca_calib.search.rollout_error import mean_psnr
from hyca_calib.search.tap_rollout import NotDifferentiableError, TapRollout, activation_bytes
from hyca_calib.trace.preflight import available_bytes
from hyca_runtime.attach.points import find_transformer

LEAST_ITERATIONS, LEAST_BATCH, LEAST_EVALUATIONS = 20, 4, 3
"""What limited minutes should be enough for: slow models get smaller batches, but the gradient of fewer than four
samples is noise."""
JUDGING = 0.2
"""The share of the minutes that evaluations may take beyond the least ones."""
NO_ROOM = "not even one sample's gradient fits memory"
WITH_BACKWARD = 3
"""Cost of a rollout and its gradient, over that of the rollout."""


def refine_taps(
    task: RefinementTask,
    settings: Refinement,
    state_path: Path,
    seed: int,
    on_progress: Callable[[float, float], None] = lambda share, psnr: None,
    objective: Callable[[list[int]], Tensor] | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """Minimise the loss above; stops when the time is spent.

    Args:
        state_path: best parameters, optimizer and clock are kept here; a second call with the same
            path goes on from them.
        on_progress: told the share of the time spent and the best select PSNR so far.
        objective: another loss; samples the fit jobs of those numbers and judges them.

    Returns:
        The parameters that were best on `task.select`, and an account of the run.

    Raises:
        NotDifferentiableError: gradients do not get through the pipeline.
    """
    start = task.start.detach().to(runs_on(task.pipe), torch.float32, copy=True)
    state = RefinementState(start, settings, state_path, task.of)
    settings, level = _probed(task, settings)
    if not state.iteration and state.spent >= 1:
        return state.best.cpu(), {"skipped": "its minutes were over before the first step"}
    with state.stopped():  # samples for all budgets are not drawn in the minutes of one
        task = task.with_more()
    count, batch, short = len(task.fit.jobs), min(settings.batch, len(task.fit.jobs)), ""

    def judge() -> None:
        course.follow(task.expand(state.average))
        state.note(course.error())
        on_progress(state.share, mean_psnr(state.best_error, task.select))

    with Deepening(task, level) as course:
        if state.iteration == 0:
            judge()
        judged = math.floor(state.share * settings.evaluations)
        while state.share < 1 and state.spent < 1:
            lr = step_size(settings, state.share)
            picker = random.Random(f"{seed} {state.iteration}")  # the same after an interruption
            chosen = picker.sample(range(count), batch)
            try:
                batch = _descend(task, state, course, objective or course.loss, chosen, lr)
            except NotDifferentiableError as error:
                if not state.iteration:
                    raise
                short = str(error)  # what was found stands
                break
            if (due := math.floor(state.share * settings.evaluations)) > judged:
                judge()
                judged = due
        if state.iteration:
            judge()
    told = {"recomputed": course.level, **({"stopped": short} if short else {})}
    return state.best.cpu(), {**_account(task, state, batch), **told}


def _account(task: RefinementTask, state: RefinementState, batch: int) -> dict[str, Any]:
    return {
        "iterations": state.iteration,
        **({"not_finite": state.lost} if state.lost else {}),
        "minutes": round(state.seconds / 60, 2),
        "samples": len(task.fit.jobs),
        "batch": batch,
        "select_psnr_before_db": round(mean_psnr(state.first_error, task.select), 3),
        "select_psnr_after_db": round(mean_psnr(state.best_error, task.select), 3),
    }


def _descend(
    task: RefinementTask,
    state: RefinementState,
    course: Deepening,
    loss: Callable[[list[int]], Tensor],
    chosen: list[int],
    lr: float,
) -> int:
    """One step by the loss of these samples; where memory is short more is computed again, then half of the samples
    must do. Returns of how many.

    Raises:
        NotDifferentiableError: not even one fits.
    """
    while True:
        course.follow(task.expand(state.theta))
        try:
            with torch.enable_grad():
                state.step(loss(chosen), lr)
        except torch.OutOfMemoryError as error:
            short = str(error).splitlines()[0][:160]
        else:
            return len(chosen)
        if not course.deepen():
            if len(chosen) == 1:
                raise NotDifferentiableError(f"{NO_ROOM}: {short}")
            chosen = chosen[: len(chosen) // 2]


def step_size(settings: Refinement, share: float) -> float:
    """Learning rate once `share` of the limits is spent: half a cosine, down to a tenth."""
    return settings.lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * share)))


def affordable(settings: Refinement, seconds: float, judged: int) -> Refinement:
    """What the minutes are enough for, if a rollout of one sample takes `seconds`; without a clock, the settings.

    Args:
        judged: samples of the select split.
    """
    if settings.iterations is not None:
        return settings
    limit = 60 * settings.minutes
    batch = max(LEAST_BATCH, int(limit / (LEAST_ITERATIONS * WITH_BACKWARD * seconds)))
    evaluations = max(LEAST_EVALUATIONS, int(JUDGING * limit / (judged * seconds)))
    return replace(settings, batch=min(settings.batch, batch), evaluations=min(settings.evaluations, evaluations))


def _probed(task: RefinementTask, settings: Refinement) -> tuple[Refinement, Recomputed]:
    """The settings that can be afforded, and what must be computed again lest activations exceed the memory allowed.

    Raises:
        NotDifferentiableError: no gradient gets through, or not even that of one sample fits.
    """
    begun = time.monotonic()
    with TapRollout(task.pipe, task.section, False, other_chunks=task.fit.other_chunks), torch.no_grad():
        sample_latents(task.pipe, task.fit.jobs[:1], task.fit.num_steps, 1)
    settings = affordable(settings, time.monotonic() - begun, len(task.select.jobs))
    allowed = settings.memory_share * available_bytes(runs_on(task.pipe)) / settings.batch
    fits, short = None, ""
    for level in levels_for(task):
        try:
            kept = _kept_bytes(task, level)
        except torch.OutOfMemoryError as error:
            short = str(error).splitlines()[0][:160]
            continue
        except NotDifferentiableError:
            if fits is None:
                raise
            break
        fits = level
        if kept <= allowed:
            break
    if fits is None:
        raise NotDifferentiableError(f"{NO_ROOM}: {short}")
    return settings, fits


def _kept_bytes(task: RefinementTask, level: Recomputed) -> int:
    """What autograd holds of one sample when the gradient of its last computed step is due."""
    section = task.section
    with recomputing(find_transformer(task.pipe, section.component), level):
        last = None if level == "nothing" else section.schedule.computed_steps[-1]
        asked = task.fit.num_steps, task.fit.jobs[0], level != "nothing", last, task.fit.other_chunks
        return activation_bytes(task.pipe, section, *asked)
