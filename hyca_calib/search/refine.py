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
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hyca_calib.pipelines.rollout import device_of, sample_latents
from hyca_calib.quality.metrics import log_error
from hyca_calib.records.atomic import replacing
from hyca_calib.search.options import Refinement
from hyca_calib.search.problem import Samples
from hyca_calib.search.rollout_error import mean_psnr
from hyca_calib.search.tap_rollout import TapRollout, activation_bytes
from hyca_calib.trace.preflight import available_bytes
from hyca_runtime.network_plan import NetworkPlan

LEAST_ITERATIONS, LEAST_BATCH, LEAST_EVALUATIONS = 20, 4, 3
"""What limited minutes should be enough for: slow models get smaller batches, but the gradient of fewer than four
samples is noise."""
JUDGING = 0.2
"""The share of the minutes that evaluations may take beyond the least ones."""
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
    """

    pipe: Any
    section: NetworkPlan
    start: Tensor
    expand: Callable[[Tensor], Tensor]
    fit: Samples
    select: Samples
    course: Callable[[RefinementTask, bool], AbstractContextManager[Course]] | None = None


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
        super().__init__(task.pipe, task.section, checkpointed)
        self._task = task

    def loss(self, chosen: list[int]) -> Tensor:
        return self._final_error(self._task.fit[chosen], torch.is_grad_enabled())

    def error(self) -> float:
        with torch.no_grad():
            return self._final_error(self._task.select, with_grad=False).item()

    def _final_error(self, samples: Samples, with_grad: bool) -> Tensor:
        batch = len(samples.jobs)
        latents = sample_latents(self._task.pipe, samples.jobs, samples.num_steps, batch, with_grad=with_grad)
        return log_error(latents, samples.latents.to(latents.device)).mean()


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
    state = _State(task.start.detach().to(device_of(task.pipe), torch.float32, copy=True), settings, state_path)
    settings, checkpointed = _probed(task, settings)
    if not state.iteration and state.spent >= 1:
        return state.best.cpu(), {"skipped": "its minutes were over before the first step"}
    count, batch = len(task.fit.jobs), min(settings.batch, len(task.fit.jobs))

    def judge() -> None:
        course.follow(task.expand(state.theta.detach()))
        state.note(course.error())
        on_progress(state.share, mean_psnr(state.best_error, task.select))

    with (task.course or Alike)(task, checkpointed) as course:
        if state.iteration == 0:
            judge()
        judged = math.floor(state.share * settings.evaluations)
        while state.share < 1 and state.spent < 1:
            lr = step_size(settings, state.share)
            picker = random.Random(f"{seed} {state.iteration}")  # the same after an interruption
            chosen = picker.sample(range(count), batch)
            course.follow(task.expand(state.theta))
            batch = _descend(state, objective or course.loss, chosen, lr)
            if (due := math.floor(state.share * settings.evaluations)) > judged:
                judge()
                judged = due
        if state.iteration:
            judge()
    account = {
        "iterations": state.iteration,
        "minutes": round(state.seconds / 60, 2),
        "batch": batch,
        "checkpointed": checkpointed,
        "select_psnr_before_db": round(mean_psnr(state.first_error, task.select), 3),
        "select_psnr_after_db": round(mean_psnr(state.best_error, task.select), 3),
    }
    return state.best.cpu(), account


def _descend(state: _State, loss: Callable[[list[int]], Tensor], chosen: list[int], lr: float) -> int:
    """One step by the loss of these samples; by that of half of them where memory is short. Returns of how many.

    Raises:
        OutOfMemoryError: not even one fits.
    """
    while True:
        try:
            with torch.enable_grad():
                state.step(loss(chosen), lr)
        except torch.OutOfMemoryError:
            if len(chosen) == 1:
                raise
        else:
            return len(chosen)
        chosen = chosen[: len(chosen) // 2]


def step_size(settings: Refinement, share: float) -> float:
    """Learning rate once `share` of the limits is spent: half a cosine, down to a tenth."""
    return settings.lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * share)))


class _State:
    """What survives an interruption: parameters and their optimizer, the best so far, the clock."""

    def __init__(self, theta: Tensor, settings: Refinement, path: Path) -> None:
        self.theta, self._settings, self._path = theta.requires_grad_(), settings, path
        self._optimizer = torch.optim.Adam([self.theta], lr=settings.lr, betas=(0.9, 0.98))
        self.best = theta.detach().clone()
        self.best_error = self.first_error = math.inf
        self.iteration, self.seconds = 0, 0.0
        kept = load_file(path, device=str(theta.device)) if path.exists() else {}
        if "parameters" in kept and kept["parameters"].shape == theta.shape:  # else of an older version
            self._restore(kept)
        self._begun = time.monotonic() - self.seconds

    @property
    def spent(self) -> float:
        """The share of the time that is spent."""
        seconds = 60 * self._settings.minutes
        return min(1.0, (time.monotonic() - self._begun) / seconds) if seconds else 1.0

    @property
    def share(self) -> float:
        """The share of the work that is done; of iterations, if they are limited, lest steps depend on the machine."""
        iterations = self._settings.iterations
        return min(1.0, self.iteration / iterations) if iterations else self.spent

    def step(self, loss: Tensor, lr: float) -> None:
        """Move the parameters down the gradient of `loss`."""
        self._optimizer.param_groups[0]["lr"] = lr
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self.iteration += 1

    def note(self, error: float) -> None:
        """Keep on disk that the parameters have this error on the select split."""
        self.seconds = time.monotonic() - self._begun
        self.first_error = error if self.first_error == math.inf else self.first_error
        if error < self.best_error:
            self.best_error, self.best = error, self.theta.detach().clone()
        numbers = [self.best_error, self.first_error, float(self.iteration), self.seconds]
        tensors = {
            "parameters": self.theta.detach(),
            "best": self.best,
            "numbers": torch.tensor(numbers, dtype=torch.float64),
        }
        if moments := self._optimizer.state.get(self.theta):
            tensors |= {"step": moments["step"], "mean": moments["exp_avg"], "square": moments["exp_avg_sq"]}
        with replacing(self._path) as partial:
            save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, partial)

    def _restore(self, kept: dict[str, Tensor]) -> None:
        with torch.no_grad():
            self.theta.copy_(kept["parameters"])
        if "mean" in kept:
            moments = {"step": kept["step"], "exp_avg": kept["mean"], "exp_avg_sq": kept["square"]}
            self._optimizer.state[self.theta] = moments
        self.best = kept["best"]
        self.best_error, self.first_error, iteration, self.seconds = kept["numbers"].double().tolist()
        self.iteration = int(iteration)


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


def _probed(task: RefinementTask, settings: Refinement) -> tuple[Refinement, bool]:
    """The settings that can be afforded, and whether their activations exceed the memory allowed."""
    begun = time.monotonic()
    with TapRollout(task.pipe, task.section, checkpointed=False), torch.no_grad():
        sample_latents(task.pipe, task.fit.jobs[:1], task.fit.num_steps, 1)
    settings = affordable(settings, time.monotonic() - begun, len(task.select.jobs))
    kept = activation_bytes(task.pipe, task.section, task.fit.num_steps, task.fit.jobs[0])
    return settings, kept * settings.batch > settings.memory_share * available_bytes(device_of(task.pipe))
