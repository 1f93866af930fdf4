r"""Taps refined end to end, by gradient through the accelerated rollout.

The network is frozen; the parameters are the few thousand taps of the plan. The loss is the mean
log squared error of the *final latent* to the full run, so its decrease by ln 10 is 10 dB of PSNR:

.. math:: L(w) = \frac{1}{B} \sum_b \log \| x_b(w) - x_b^{full} \|^2.

Offline, errors are judged one gap at a time with a clean history; here every later network call sees
what the taps did before, which is where most of the gain comes from.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hyca_calib.pipelines.rollout import device_of, sample_latents
from hyca_calib.pipelines.workload import Job
from hyca_calib.quality.metrics import log_error
from hyca_calib.records.atomic import replacing
from hyca_calib.search.assemble import plan_taps
from hyca_calib.search.tap_rollout import TapRollout, activation_bytes
from hyca_runtime.plan import NetworkPlan

__all__ = ["Refinement", "affordable", "refine_taps", "step_size", "to_db"]

LEAST = 20
"""Iterations that limited minutes should be enough for; slow models get smaller batches."""
SMALLEST = 4
"""Samples of an iteration; the gradient of fewer is noise."""
FEWEST, JUDGING = 3, 0.2
"""Evaluations, and the share of the minutes they may take beyond those."""
WITH_BACKWARD = 3
"""Cost of a rollout and its gradient, over that of the rollout."""


@dataclass(frozen=True)
class Refinement:
    """How taps are refined.

    Attributes:
        minutes: wall time, evaluation on the select split included.
        iterations: stop after so many, if the time is not spent before; same result on every machine.
        batch: fit samples of one iteration; fewer of a slow model, see `affordable`.
        lr: learning rate of Adam in the beginning, in `whitened` coordinates; see `step_size`.
        evaluations: how often the select split is rolled out on the way; of a slow model less often.
        memory_share: share of the free memory that activations may take; beyond, every network call
            is checkpointed and computed twice.
    """

    minutes: float = 5.0
    iterations: int | None = None
    batch: int = 12
    lr: float = 0.03
    evaluations: int = 12
    memory_share: float = 0.4


def refine_taps(
    pipe: Any,
    section: NetworkPlan,
    num_steps: int,
    start: Tensor,
    expand: Callable[[Tensor], Tensor],
    fit: tuple[Sequence[Job], Tensor],
    select: tuple[Sequence[Job], Tensor],
    settings: Refinement,
    state_path: Path,
    seed: int,
    on_progress: Callable[[float, float], None] = lambda share, psnr: None,
    objective: Callable[[list[int]], Tensor] | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """Minimise the loss above from `start`; stops when the time is spent.

    Args:
        num_steps: what the pipeline is called with.
        start: parameters; of `whitened` coordinates, zeros.
        expand: parameters to taps ``(predicted step, depth, channel)``.
        fit, select: jobs and the final latents of their full runs.
        state_path: best parameters, optimizer and clock are kept here; a second call with the same
            path goes on from them.
        on_progress: told the share of the time spent and the best select PSNR so far.
        objective: another loss; samples the fit jobs of those numbers and judges them.

    Returns:
        The parameters that were best on `select`, and an account of the run.

    Raises:
        NotDifferentiableError: gradients do not get through the pipeline.
    """
    device = device_of(pipe)
    theta = start.detach().to(device, torch.float32, copy=True).requires_grad_()
    optimizer = torch.optim.Adam([theta], lr=settings.lr, betas=(0.9, 0.98))
    references, goal = fit[1].to(device), select[1].to(device)
    state = _State.load(state_path, theta, optimizer)
    begun = time.monotonic() - state.seconds
    limit = 60 * settings.minutes
    settings, checkpointed = _probed(pipe, section, num_steps, fit[0], len(select[0]), settings)

    def spent() -> float:
        return min(1.0, (time.monotonic() - begun) / limit) if limit else 1.0

    def share() -> float:
        """Of the work that is done; counted, where iterations are, lest steps depend on the machine's speed."""
        return min(1.0, state.iteration / settings.iterations) if settings.iterations else spent()

    def final_error(chosen: list[int]) -> Tensor:
        latents = sample_latents(pipe, [fit[0][i] for i in chosen], num_steps, len(chosen), with_grad=True)
        return log_error(latents, references[chosen]).mean()

    with TapRollout(pipe, section, checkpointed) as rollout:

        def judge() -> None:
            rollout.follow(expand(theta.detach()))
            with torch.no_grad():
                error = log_error(sample_latents(pipe, select[0], num_steps, len(select[0])), goal).mean().item()
            state.note(error, theta)
            state.seconds = time.monotonic() - begun
            state.save(state_path, theta, optimizer)
            on_progress(share(), to_db(state.best_error))

        if state.iteration == 0:
            judge()
        judged = math.floor(share() * settings.evaluations)
        while share() < 1 and spent() < 1:
            for group in optimizer.param_groups:
                group["lr"] = step_size(settings, share())
            picker = random.Random(f"{seed} {state.iteration}")  # the same after an interruption
            chosen = picker.sample(range(len(fit[0])), min(settings.batch, len(fit[0])))
            rollout.follow(expand(theta))
            with torch.enable_grad():
                loss = (objective or final_error)(chosen)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            state.iteration += 1
            if (due := math.floor(share() * settings.evaluations)) > judged:
                judge()
                judged = due
        if state.iteration:
            judge()
    account = {
        "iterations": state.iteration,
        "minutes": round(state.seconds / 60, 2),
        "batch": min(settings.batch, len(fit[0])),
        "checkpointed": checkpointed,
        "select_psnr_before_db": round(to_db(state.first_error), 3),
        "select_psnr_after_db": round(to_db(state.best_error), 3),
    }
    return state.best.cpu(), account


def step_size(settings: Refinement, share: float) -> float:
    """Learning rate once `share` of the limits is spent: half a cosine, down to a tenth."""
    return settings.lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * share)))


def to_db(log_mse: float) -> float:
    """Mean log squared error of pictures in [-1, 1] (peak-to-peak 2) as PSNR in dB."""
    return 10 * math.log10(4) - 10 * log_mse / math.log(10)


@dataclass
class _State:
    """What survives an interruption."""

    best: Tensor
    best_error: float = math.inf
    first_error: float = math.inf
    iteration: int = 0
    seconds: float = 0.0

    def note(self, error: float, theta: Tensor) -> None:
        self.first_error = error if self.first_error == math.inf else self.first_error
        if error < self.best_error:
            self.best_error, self.best = error, theta.detach().clone()

    @classmethod
    def load(cls, path: Path, theta: Tensor, optimizer: torch.optim.Optimizer) -> _State:
        fresh = cls(best=theta.detach().clone())
        if not path.exists():
            return fresh
        kept = load_file(path, device=str(theta.device))
        if "parameters" not in kept or kept["parameters"].shape != theta.shape:  # of an older version
            return fresh
        with torch.no_grad():
            theta.copy_(kept["parameters"])
        if "mean" in kept:
            moments = {"step": kept["step"], "exp_avg": kept["mean"], "exp_avg_sq": kept["square"]}
            optimizer.state[theta] = moments
        numbers = kept["numbers"].double().tolist()
        return cls(kept["best"], numbers[0], numbers[1], int(numbers[2]), numbers[3])

    def save(self, path: Path, theta: Tensor, optimizer: torch.optim.Optimizer) -> None:
        numbers = [self.best_error, self.first_error, float(self.iteration), self.seconds]
        tensors = {
            "parameters": theta.detach(),
            "best": self.best,
            "numbers": torch.tensor(numbers, dtype=torch.float64),
        }
        if moments := optimizer.state.get(theta):
            tensors |= {"step": moments["step"], "mean": moments["exp_avg"], "square": moments["exp_avg_sq"]}
        with replacing(path) as partial:
            save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, partial)


def affordable(settings: Refinement, seconds: float, judged: int) -> Refinement:
    """What the minutes are enough for, if a rollout of one sample takes `seconds`; without a clock, the settings.

    Args:
        judged: samples of the select split.
    """
    if settings.iterations is not None:
        return settings
    limit = 60 * settings.minutes
    batch = max(SMALLEST, int(limit / (LEAST * WITH_BACKWARD * seconds)))
    evaluations = max(FEWEST, int(JUDGING * limit / (judged * seconds)))
    return replace(settings, batch=min(settings.batch, batch), evaluations=min(settings.evaluations, evaluations))


def _probed(
    pipe: Any, section: NetworkPlan, num_steps: int, jobs: Sequence[Job], judged: int, settings: Refinement
) -> tuple[Refinement, bool]:
    """The settings that can be afforded, and whether their activations exceed the memory allowed."""
    begun = time.monotonic()
    with TapRollout(pipe, section, checkpointed=False) as rollout, torch.no_grad():
        rollout.follow(torch.from_numpy(plan_taps(section)).float().to(device_of(pipe)))
        sample_latents(pipe, jobs[:1], num_steps, 1)
    settings = affordable(settings, time.monotonic() - begun, judged)
    kept = activation_bytes(pipe, section, num_steps, jobs[0])
    return settings, kept * settings.batch > settings.memory_share * _free_bytes(device_of(pipe))


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
