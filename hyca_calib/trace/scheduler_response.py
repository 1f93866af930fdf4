"""What a sampler does between calls of the network: its noise levels, and its response to an output."""

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
PIXELS = (4, 2, 2)  # a latent of a shape that every sampler takes
IMPULSE = 1e-3  # stays clear of samplers that clip


def noise_levels(scheduler: Any, timesteps: list[float]) -> Array:
    """Share of noise, ``sigma`` of a rectified flow, before each step and after the last, ``(step + 1,)``.

    Samplers that count noise otherwise are converted at equal signal-to-noise ratio: from a standard
    deviation s beside an unscaled signal (EDM, Karras) as ``s / (1 + s)``. Without any noise levels:
    the timesteps themselves.

    Args:
        timesteps: the scheduler's own at the steps that ran.
    """
    grid, first = _grid(scheduler, timesteps)
    sigmas = getattr(scheduler, "sigmas", None)
    products = getattr(scheduler, "alphas_cumprod", None)
    if sigmas is not None and len(sigmas) == len(grid) + 1 and timesteps:
        levels = torch.as_tensor(sigmas).double().cpu().numpy()
        if first + len(timesteps) < len(levels):
            found = levels[first : first + len(timesteps) + 1]
            return np.asarray(found / (1 + found) if levels.max() > 1 + 1e-6 else found)
    if products is not None and timesteps and max(timesteps) <= len(products) - 1:
        kept = torch.as_tensor(products).double().cpu().numpy()[np.rint(timesteps).astype(int)]
        noise = np.sqrt(1 - kept)
        return np.asarray([*(noise / (noise + np.sqrt(kept))), 0.0])
    return np.asarray([*timesteps, 0.0], dtype=np.float64)


def impulse_response(scheduler: Any, timesteps: list[float]) -> Array | None:
    """Change of the final latent per unit change of the network's output at each step, ``(step,)``.

    A sampler is affine in the outputs, so two runs over made-up ones give it: nothing, and an impulse at
    one step. Noise that the sampler adds is the same in both. Multistep samplers carry an output on
    into later steps; that is in the response. What later outputs do about the change is not, with one
    exception: where the network predicts the noise, its later outputs undo most of an early error
    (all but ``1 / sqrt(1 + s^2)`` for data of unit variance and noise s beside it), and a response
    without that would be a hundred times too large at the first step.

    Args:
        scheduler: as it was before its first step; it is copied.
        timesteps: the scheduler's own at the steps that ran.

    Returns:
        None for a sampler that cannot be driven like this.
    """
    grid, first = _grid(scheduler, timesteps)
    if not len(grid):
        return None
    steps, device = len(timesteps), scheduler.timesteps.device

    def final(outputs: Tensor) -> Tensor:
        sampler = copy.deepcopy(scheduler)
        latents = torch.zeros(steps, *PIXELS, dtype=torch.float32, device=device)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for t, output in zip(sampler.timesteps[first : first + steps], outputs, strict=True):
                if hasattr(sampler, "scale_model_input"):
                    sampler.scale_model_input(latents, t)  # some insist
                latents = sampler.step(output, t, latents, return_dict=False)[0]
        return latents.double().mean(dim=(1, 2, 3)).cpu()

    impulses = IMPULSE * torch.eye(steps, device=device).view(steps, steps, 1, 1, 1).expand(-1, -1, *PIXELS)
    try:
        response = (final(impulses) - final(torch.zeros_like(impulses))).numpy() / IMPULSE
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError):
        return None  # learned variances, a step of another signature
    response = response * undone(scheduler, noise_levels(scheduler, timesteps))
    return response if np.isfinite(response).all() and response.any() else None


def undone(scheduler: Any, levels: Array) -> Array:
    """What later outputs leave of an early error, ``(step,)``, as far as `impulse_response` knows of it.

    Args:
        levels: see `noise_levels`, ``(step + 1,)``.
    """
    if getattr(getattr(scheduler, "config", None), "prediction_type", "") != "epsilon":
        return np.ones(len(levels) - 1)
    return np.asarray(1 / np.sqrt(1 + (levels[1:] / (1 - levels[1:])) ** 2))


def _grid(scheduler: Any, timesteps: list[float]) -> tuple[Array, int]:
    """All timesteps of the scheduler, if it says them, and which of them is the first that ran."""
    known = getattr(scheduler, "timesteps", None)
    if not isinstance(known, Tensor) or known.ndim != 1 or not len(known) or not timesteps:
        return np.zeros(0), 0
    grid = known.double().cpu().numpy()
    return grid, int(np.abs(grid - timesteps[0]).argmin())
