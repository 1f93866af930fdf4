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
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from hyca_calib.pipelines.recompute import Recomputed, levels_of, recomputing
from hyca_calib.pipelines.rollout import runs_on, sample_latents
from hyca_calib.quality.metrics import log_error
from hyca_calib.search.options import Refinement
from hyca_calib.search.problem import Samples
from hyca_calib.search.refinement_state import RefinementState
from hyca_calib.search.rollout_error import finite_or_lost, mean_psnr
from hyca_calib.search.tap_rollout import NotDifferentiableError, TapRollout, activation_bytes
from hyca_calib.trace.preflight import available_bytes
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.network_plan import NetworkPlan

LEAST_ITERATIONS, LEAST_BATCH, LEAST_EVALUATIONS = 20, 4, 3
"""What limited minutes should be enough for: slow models get smaller batches, but the gradient of fewer than four
samples is noise."""
JUDGING = 0.2
"""The share of the minutes that evaluations may take beyond the least ones."""
NO_ROOM = "not even one sample's gradient fits memory"
WITH_BACKWARD = 3
"""Cost of a rollout and its gradient, over that of the rollout."""


@dataclass(frozen=True)
class RefinementTask:
    """What is refined, and by what it is judged.

    Attributes:
        section: whose taps are refined; where a policy decides, as one of its runs was decided.
        start: parameters; of `preconditioned` coordinates, zeros.
        expand: parameters to taps ``(row, depth, channel)``.
        fit, select: samples that give gradients, and samples that decide which parameters were best.
        course: how samples are run with taps; by default all alike, as `section` says.
        more: draws more samples that give gradients, once it is known that any do; None for none.
        of: what it is, in words of a file: whoever goes on with a state on disk goes on with one of the same.
    """

    pipe: Any
    section: NetworkPlan
    start: Tensor
    expand: Callable[[Tensor], Tensor]
    fit: Samples
    select: Samples
    course: Callable[[RefinementTask, bool], AbstractContextManager[Course]] | None = None
    more: Callable[[], Samples | None] = lambda: None
    of: str = ""

    def with_more(self) -> Self:
        """The same with those drawn."""
        more = self.more()
        return self if more is None else replace(self, fit=self.fit + more)


class Course(Protocol):
    """Runs of samples under taps that are being refined."""

    def follow(self, taps: Tensor) -> None:
        """Forecast with these taps in the runs to come."""

    def loss(self, chosen: list[int]) -> Tensor:
        """Mean log squared error of fit samples by number, with its gradient where these are recorded."""

    def error(self) -> float:
        """The same over the select split."""


class Alike(TapRollout):
    """The course of a plan whose schedule is the same for all samples, which run in one call."""

    def __init__(self, task: RefinementTask, checkpointed: bool) -> None:
        super().__init__(task.pipe, task.section, checkpointed, other_chunks=task.fit.other_chunks)
        self._task = task

    def loss(self, chosen: list[int]) -> Tensor:
        return self._final_errors(self._task.fit[chosen], torch.is_grad_enabled()).mean()

    def error(self) -> float:
        samples = self._task.select
        with torch.no_grad():
            return finite_or_lost(self._final_errors(samples, with_grad=False), samples).mean().item()

    def _final_errors(self, samples: Samples, with_grad: bool) -> Tensor:
        batch = len(samples.jobs)
        latents = sample_latents(self._task.pipe, samples.jobs, samples.num_steps, batch, with_grad=with_grad)
        return log_error(latents, samples.latents.to(latents.device))


class Deepening:
    """A course of the task at a level of what is computed again, from which there is a way to deeper ones."""

    def __init__(self, task: RefinementTask, level: Recomputed) -> None:
        self._task, self._module = task, find_transformer(task.pipe, task.section.component)
        self.level, self._stack = level, ExitStack()

    def __enter__(self) -> Self:
        self._course = self._enter()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _enter(self) -> Course:
        self._stack.enter_context(recomputing(self._module, self.level))
        return self._stack.enter_context((self._task.course or Alike)(self._task, self.level != "nothing"))

    def deepen(self) -> bool:
        """Go on at the next level, without what was followed; whether there is one."""
        levels = _levels(self._task)
        deeper = levels[levels.index(self.level) + 1 :]
        if deeper:
            self._stack.close()
            self.level = deeper[0]
            self._course = self._enter()
        return bool(deeper)

    def follow(self, taps: Tensor) -> None:
        self._course.follow(taps)

    def loss(self, chosen: list[int]) -> Tensor:
        return self._course.loss(chosen)

    def error(self) -> float:
        return self._course.error()


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
    account = {
        **({"stopped": short} if short else {}),
        **({"not_finite": state.lost} if state.lost else {}),
        "iterations": state.iteration,
        "minutes": round(state.seconds / 60, 2),
        "samples": count,
        "batch": batch,
        "recomputed": course.level,
        "select_psnr_before_db": round(mean_psnr(state.first_error, task.select), 3),
        "select_psnr_after_db": round(mean_psnr(state.best_error, task.select), 3),
    }
    return state.best.cpu(), account


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
    for level in _levels(task):
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


def _levels(task: RefinementTask) -> tuple[Recomputed, ...]:
    """What may be computed again; blocks of a chunk's call would attend to what was kept since."""
    found = levels_of(find_transformer(task.pipe, task.section.component))
    return found if task.section.chunks is None else tuple(level for level in found if level != "blocks")


def _kept_bytes(task: RefinementTask, level: Recomputed) -> int:
    """What autograd holds of one sample when the gradient of its last computed step is due."""
    section = task.section
    with recomputing(find_transformer(task.pipe, section.component), level):
        last = None if level == "nothing" else section.schedule.computed_steps[-1]
        asked = task.fit.num_steps, task.fit.jobs[0], level != "nothing", last, task.fit.other_chunks
        return activation_bytes(task.pipe, section, *asked)
