r"""Noise levels of a sampler: those of the model's own, or evenly spaced in log-SNR.

With signal and noise scales :math:`\alpha, \sigma` the spacing is even in :math:`\log(\sigma / \alpha)`.
The first level stays that of the full run (pure noise, infinitely far away in log-SNR); the others run
from a later level of the full run to its last one, or beyond.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]
Levels = Callable[[int], Array]
"""Noise levels, or timesteps, for a number of steps."""
ALMOST_NOISE = 1 - 1e-6
"""UniPC divides by the log-SNR of the first level, which pure noise has none of; diffusers steps back as far."""


@dataclass(frozen=True)
class Spacing:
    """Even in log-SNR after the first level.

    Attributes:
        start: number of the full run's level where the even part begins.
        end: where it ends, as sigma over alpha in units of that of the full run's last level.
    """

    start: int
    end: float = 1.0

    def flow(self, own: Sequence[float]) -> Levels:
        """Levels sigma of a rectified flow, where alpha is 1 - sigma; `own` are those of the full run, falling."""
        top, bottom = (sigma / (1 - sigma) for sigma in (own[min(self.start, len(own) - 2)], own[-1]))

        def levels(count: int) -> Array:
            ratio = np.geomspace(top, bottom * self.end, count - 1)
            return np.concatenate([own[:1], ratio / (1 + ratio)])

        return levels

    def timesteps(self, own: Any) -> Levels:
        """Whole timesteps of a discrete diffusion; the scheduler `own` was set to those of the full run."""
        alphas, grid = own.alphas_cumprod.double().numpy(), own.timesteps.tolist()
        log_ratio = np.log((1 - alphas) / alphas) / 2
        top, bottom = log_ratio[grid[min(self.start, len(grid) - 2)]], log_ratio[grid[-1]] + np.log(self.end)

        def levels(count: int) -> Array:
            inner = np.interp(np.linspace(top, bottom, count - 1), log_ratio, np.arange(len(log_ratio)))
            rising = np.concatenate([grid[:1], inner.round()])[::-1] - np.arange(count)
            # whole timesteps with at least 1 between them, for many steps round to the same; the last one stays
            return np.asarray((np.maximum.accumulate(rising) + np.arange(count))[::-1])

        return levels


def flow_on(own: Any, make: Callable[[], Any], levels: Levels | None = None) -> Any:
    """A scheduler of `make` that samples a rectified flow on `levels`, or where the scheduler `own` would.

    diffusers' Heun and DPM-Solver++ place their levels themselves: those of Heun end at 0.001, whatever
    the number of steps, and DPM-Solver++ cuts the network's time to whole thousandths.
    """
    scheduler, reference = make(), copy.deepcopy(own)
    prepare = scheduler.set_timesteps

    def set_timesteps(
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        asked = {"num_inference_steps": num_inference_steps} if sigmas is None else {"sigmas": sigmas}
        reference.set_timesteps(**asked, mu=mu)
        chosen = reference.sigmas[:-1]
        if levels is not None:
            chosen = torch.from_numpy(levels(len(chosen))).float()
        prepare(len(chosen), device=device)
        if scheduler.order == 2:  # a step calls the network at its end, too
            chosen = torch.cat([chosen[:1], chosen[1:].repeat_interleave(2)])
        scheduler.timesteps = (chosen * scheduler.config.num_train_timesteps).to(device)
        scheduler.sigmas = torch.cat([chosen.clamp(max=ALMOST_NOISE), chosen.new_zeros(1)])

    scheduler.set_timesteps = set_timesteps
    return scheduler


def diffusion_on(make: Callable[[], Any], levels: Levels) -> Any:
    """A scheduler of `make` that samples a diffusion at chosen timesteps.

    One of order 2 (Heun) takes its first step by the slope at its beginning alone: from almost pure noise
    to the next level, over hundreds of times that level, a mean of two slopes is useless.
    """
    scheduler = make()
    prepare, step = scheduler.set_timesteps, scheduler.step

    def set_timesteps(num_inference_steps: int, device: Any = None) -> None:
        prepare(num_inference_steps, device=device)
        times = torch.from_numpy(levels(num_inference_steps).astype(int))
        if scheduler.order == 2:
            times = torch.cat([times[:2], times[2:].repeat_interleave(2)])
        kept = scheduler.alphas_cumprod.cpu()[times]
        sigmas = ((1 - kept) / kept).sqrt()
        scheduler.timesteps = times.to(device)
        scheduler.sigmas = torch.cat([sigmas, sigmas.new_zeros(1)])

    def euler_first(*args: Any, **kwargs: Any) -> Any:
        first = not scheduler.step_index  # the scaling of the latents sets it, not the first step
        found = step(*args, **kwargs)
        if first:
            scheduler.dt = scheduler.prev_derivative = scheduler.sample = None
        return found

    scheduler.set_timesteps = set_timesteps
    if scheduler.order == 2:
        scheduler.step = euler_first
    return scheduler
