"""Stand-ins for what hosts have of their own, by their documented interfaces; each says where those are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tiny
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers import FluxTransformer2DModel as OfDiffusers
from plans import STEPS, changed, make_plan
from torch import Tensor, nn

from hyca_runtime import Plan, save_plan
from hyca_runtime.integrations.vllm_omni import HycaBackend

TRAINED = 1000.0
"""Timesteps of the scheduler's training."""


class FluxTransformer2DModel(nn.Module):
    """A network as hosts write it anew: class, children and arguments of diffusers, no configuration of its kind.

    Args:
        of: whose children it takes.
        unit: of its timesteps; diffusers' are 1 at most.
    """

    def __init__(self, of: OfDiffusers, unit: float = 1.0) -> None:
        super().__init__()
        for name, child in of.named_children():
            self.add_module(name, child)
        self.unit, self.hf_config = unit, None

    def forward(self, hidden_states: Any, encoder_hidden_states: Any, timestep: Any, **others: Any) -> Any:
        """Without a dictionary."""
        call = {"encoder_hidden_states": encoder_hidden_states, "timestep": timestep / self.unit, **others}
        return OfDiffusers.forward(self, hidden_states, **call, return_dict=False)[0]


class Undressed(nn.Module):
    """diffusers' network, which answers without a dictionary."""

    def __init__(self, of: OfDiffusers) -> None:
        super().__init__()
        self.of = of

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The tensor alone."""
        return self.of(*args, **kwargs, return_dict=False)[0]


def plan_for(network: OfDiffusers) -> Plan:
    """A plan for the loop of `diffused`."""
    scheduler, plan = FlowMatchEulerDiscreteScheduler(), make_plan(network)
    scheduler.set_timesteps(STEPS)
    times = tuple(scheduler.timesteps.tolist())
    grid = {"timesteps": tuple(t / TRAINED for t in times), "scheduler_timesteps": times}
    return changed(plan, grid=plan.section.grid.model_copy(update=grid))


@torch.no_grad()
def diffused(transformer: nn.Module, scheduler: Any, steps: int, seed: int, unit: float) -> Tensor:
    """Latents ``(1, 16, 48)`` of a FLUX, as hosts draw them.

    Args:
        unit: of the timesteps that the network is called with.
    """
    made = torch.Generator().manual_seed(seed)
    latents, text, pooled = (torch.randn(size, generator=made) for size in ((1, 16, 48), (1, 5, 24), (1, 24)))
    ids = torch.zeros(16, 3)
    ids[:, 1:] = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0))
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(0)
    for t in scheduler.timesteps:
        call = {"pooled_projections": pooled, "txt_ids": torch.zeros(5, 3), "img_ids": ids}
        velocity = transformer(latents, text, timestep=t.expand(1) / TRAINED * unit, **call)
        latents = scheduler.step(velocity, t, latents, return_dict=False)[0]
    return latents


@dataclass
class DiffusionCacheConfig:
    """Settings that it does not know are kept apart, as in vllm_omni/diffusion/data.py."""

    rel_l1_thresh: float | None = None
    _extra_params: dict[str, Any] = field(default_factory=dict, repr=False)


class Pipeline(nn.Module):
    """As in vllm_omni/diffusion/models/flux/pipeline_flux.py: networks, a scheduler, the server's configuration."""

    def __init__(self, transformer: nn.Module, config: dict[str, Any] | None) -> None:
        super().__init__()
        self.transformer = transformer
        self.scheduler = FlowMatchEulerDiscreteScheduler()
        self.od_config = SimpleNamespace(tf_model_config=SimpleNamespace(params=config or {}))

    def forward(self, steps: int = STEPS, seed: int = 0) -> Tensor:
        """Latents."""
        return diffused(self.transformer, self.scheduler, steps, seed, unit=1.0)


class Served:
    """A tiny FLUX, a plan for it, and vLLM-Omni's pipeline around the same weights."""

    def __init__(self, folder: Path) -> None:
        self.of, self.path = tiny.pipeline().transformer, folder / "plan.json"
        self.plan = plan_for(self.of)
        save_plan(self.plan, self.path)
        self.pipeline = Pipeline(FluxTransformer2DModel(self.of), {"_class_name": "x", **self.of.config})

    def backend(self, **settings: Any) -> HycaBackend:
        return HycaBackend(DiffusionCacheConfig(_extra_params={"plan": str(self.path), **settings}))


class DenoisingStage:
    """As in sglang/multimodal_gen/runtime/pipelines_core/stages/denoising.py: one request after the other.

    Attributes:
        hook: what is called after cache-dit was switched on or not.
    """

    def __init__(self, transformer: nn.Module, config: dict[str, Any] | None) -> None:
        self.transformer, self.transformer_2 = transformer, None
        transformer.hf_config = config  # type: ignore[assignment]
        self.server_args = SimpleNamespace(enable_breakable_cuda_graph=False)
        self._cache_dit_enabled = False
        self.hook: Callable[..., Any] | None = None

    def _maybe_enable_cache_dit(self, num_inference_steps: int, batch: Any) -> None:
        if self.hook is not None:
            assert self.hook(None, self, num_inference_steps, batch) is None

    def run(self, steps: int = STEPS, **batch: Any) -> Tensor:
        """Latents."""
        self._maybe_enable_cache_dit(
            steps, SimpleNamespace(**{"enable_teacache": False, "enable_spectrum": False} | batch)
        )
        return diffused(self.transformer, FlowMatchEulerDiscreteScheduler(), steps, 0, unit=TRAINED)


class Staged:
    """A tiny FLUX, a plan for it, and SGLang's stage around the same weights."""

    def __init__(self, path: Path) -> None:
        self.of, self.path = tiny.pipeline().transformer, path
        self.plan = plan_for(self.of)
        save_plan(self.plan, path)
        self.stage = DenoisingStage(FluxTransformer2DModel(self.of, TRAINED), dict(self.of.config))
