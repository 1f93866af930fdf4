"""Deterministic samplers of one step, as steps between any two places of their time grid."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from hyca_runtime.errors import SamplerError

KINDS = ("FlowMatchEulerDiscreteScheduler", "DDIMScheduler")


class SingleStep(Protocol):
    """A sampler whose next latent follows from the present one and one output of the network.

    Attributes:
        num_steps: its places are 0 to this; the last is that of the finished sample.
    """

    num_steps: int

    def step(self, latents: Tensor, output: Tensor, start: int, end: int) -> Tensor:
        """The latents at place `end`, from those at place `start` and what the network said of them."""

    def stored(self, latents: Tensor, output: Tensor) -> Tensor:
        """Latents in the precision that the scheduler hands on."""

    def on_host(self) -> SingleStep:
        """The same for tensors on the CPU."""


class FlowEuler:
    """Euler's method on a rectified flow: ``x + (sigma_end - sigma_start) * v``.

    Args:
        sigmas: noise levels ``(num_steps + 1,)``.
    """

    def __init__(self, sigmas: Tensor) -> None:
        self._sigmas = sigmas
        self.num_steps = len(sigmas) - 1

    def step(self, latents: Tensor, output: Tensor, start: int, end: int) -> Tensor:
        return latents.to(torch.float32) + (self._sigmas[end] - self._sigmas[start]) * output

    def stored(self, latents: Tensor, output: Tensor) -> Tensor:
        return latents.to(output.dtype)

    def on_host(self) -> SingleStep:
        return FlowEuler(self._sigmas.cpu())


class Ddim:
    """DDIM without noise: the clean sample that the output implies, with the implied noise put back at another level.

    Args:
        products: cumulative products of alpha ``(num_steps + 1,)``, on the host.
        predicts: "epsilon", "v_prediction" or "sample".
        clip: the largest absolute value of the clean sample, None for any.
    """

    def __init__(self, products: Tensor, predicts: str = "epsilon", clip: float | None = None) -> None:
        self._products, self._predicts, self._clip = products, predicts, clip
        self.num_steps = len(products) - 1

    def step(self, latents: Tensor, output: Tensor, start: int, end: int) -> Tensor:
        kept, left = self._products[start] ** 0.5, (1 - self._products[start]) ** 0.5
        if self._predicts == "epsilon":
            clean, noise = (latents - left * output) / kept, output
        elif self._predicts == "v_prediction":
            clean, noise = kept * latents - left * output, kept * output + left * latents
        else:
            clean, noise = output, (latents - kept * output) / left
        if self._clip is not None:
            clean = clean.clamp(-self._clip, self._clip)
        return self._products[end] ** 0.5 * clean + (1 - self._products[end]) ** 0.5 * noise

    def stored(self, latents: Tensor, output: Tensor) -> Tensor:
        del output
        return latents

    def on_host(self) -> SingleStep:
        return self


def single_step(scheduler: Any) -> SingleStep:
    """The sampler of a scheduler of diffusers whose timesteps are set.

    Raises:
        SamplerError: it looks at more than one output, draws noise, or its steps do not meet.
    """
    kind = next((cls.__name__ for cls in type(scheduler).__mro__ if cls.__name__ in KINDS), "")
    config: Mapping[str, Any] = scheduler.config if kind else {}
    if kind == "FlowMatchEulerDiscreteScheduler" and not config.get("stochastic_sampling"):
        return FlowEuler(torch.as_tensor(scheduler.sigmas))
    if kind == "DDIMScheduler" and not config.get("thresholding"):
        return _ddim(scheduler, config)
    reason = {
        "": "is not known to step from one output of the network to the next without noise",
        "DDIMScheduler": "thresholds samples by their own range",
    }.get(kind, "draws noise at every step")
    raise SamplerError(f"lanes need one of the samplers {', '.join(KINDS)}; {type(scheduler).__name__} {reason}")


def _ddim(scheduler: Any, config: Mapping[str, Any]) -> Ddim:
    times = [int(t) for t in scheduler.timesteps.tolist()]
    apart = config["num_train_timesteps"] // len(times)
    if any(now - apart != later for now, later in pairwise(times)) or times[-1] >= apart:
        raise SamplerError(
            f"DDIMScheduler steps by {apart} of its {config['num_train_timesteps']} times, but its {len(times)} "
            'timesteps lie otherwise; choose a number of steps that divides them, with timestep_spacing="trailing" '
            'or "leading"'
        )
    last = torch.as_tensor(scheduler.final_alpha_cumprod).reshape(1)
    products = torch.cat([scheduler.alphas_cumprod[times].cpu(), last.to(scheduler.alphas_cumprod.dtype).cpu()])
    return Ddim(products, config["prediction_type"], config["clip_sample_range"] if config["clip_sample"] else None)
