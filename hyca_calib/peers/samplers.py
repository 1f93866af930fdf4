"""Fewer steps of the model's own sampler, and better samplers at the same number of network calls.

A sampler's noise levels matter as much as its order, so every sampler also runs on levels evenly spaced
in log-SNR (DPM-Solver, arXiv 2206.00927), between levels of the full run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from hyca_calib.peers.base import Peer
from hyca_calib.peers.noise_levels import OTHER_ENDS, SPACINGS, diffusion_on, flow_on
from hyca_calib.rollout import sample_latents
from hyca_calib.workload import Job

__all__ = ["Sampler", "sampled_by", "sampler_peers", "samplers"]

SHARES = (10, 12, 14, 16, 18, 20, 22, 24, 26, 32, 34, 40, 50)
"""Network calls of a peer, in percent of the full run's."""

OWN, DPM, UNIPC, HEUN = "fewer steps", "DPM-Solver++", "UniPC", "Heun"
FAST = (DPM, UNIPC)


@dataclass(frozen=True)
class Sampler:
    """A way to sample.

    Attributes:
        make: a fresh scheduler.
        calls: network calls of a step; the last one makes one.
    """

    name: str
    family: str
    make: Callable[[], Any]
    calls: int = 1

    def steps(self, calls: int) -> int:
        """Fewest steps that make at least so many network calls."""
        return -(-(calls + self.calls - 1) // self.calls)

    def network_calls(self, steps: int) -> int:
        return steps * self.calls - (self.calls - 1)


def sampler_peers(pipe: Any, jobs: Sequence[Job], num_steps: int) -> list[Peer]:
    """Every sampler at every number of network calls; `jobs` show the noise levels of the full run."""
    counts = sorted({max(2, num_steps * share // 100) for share in SHARES})
    found = [Peer(f"fewer steps: {n}", OWN, n, nullcontext) for n in counts]
    for sampler in samplers(pipe, jobs, num_steps):
        for steps in sorted({sampler.steps(n) for n in counts}):
            name = f"{sampler.name}: {sampler.network_calls(steps)} calls"
            found.append(Peer(name, sampler.family, steps, partial(sampled_by, pipe, sampler)))
    return found


def samplers(pipe: Any, jobs: Sequence[Job], num_steps: int) -> list[Sampler]:
    """Samplers for the pipeline's process: a rectified flow, or a diffusion with discrete noise levels; else none."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    sample_latents(pipe, jobs[:1], num_steps, 1)  # leaves the full run's noise levels in the scheduler
    own = pipe.scheduler
    if hasattr(own, "alphas_cumprod"):
        return _diffusion_samplers(own)
    return _flow_samplers(own) if isinstance(own, FlowMatchEulerDiscreteScheduler) else []


@contextmanager
def sampled_by(pipe: Any, sampler: Sampler) -> Iterator[None]:
    """The pipeline with another scheduler."""
    own = pipe.scheduler
    pipe.scheduler = sampler.make()
    try:
        yield
    finally:
        pipe.scheduler = own


def _flow_samplers(own: Any) -> list[Sampler]:
    from diffusers import (
        DPMSolverMultistepScheduler,
        FlowMatchEulerDiscreteScheduler,
        FlowMatchHeunDiscreteScheduler,
        UniPCMultistepScheduler,
    )

    scale = own.config.num_train_timesteps
    flow = {"num_train_timesteps": scale, "prediction_type": "flow_prediction", "use_flow_sigmas": True}
    kinds: list[tuple[str, str, Callable[[], Any], int]] = [
        ("Euler", OWN, lambda: FlowMatchEulerDiscreteScheduler(scale), 1),
        ("DPM-Solver++ 2M", DPM, partial(DPMSolverMultistepScheduler, **flow), 1),
        ("UniPC", UNIPC, partial(UniPCMultistepScheduler, **flow), 1),
        ("Heun", HEUN, lambda: FlowMatchHeunDiscreteScheduler(scale), 2),
    ]
    found = []
    for name, family, make, calls in kinds:
        if family != OWN:
            found.append(Sampler(name, family, flow_on(own, make), calls))
        for spacing in (*SPACINGS, *(OTHER_ENDS if family in FAST else ())):
            levels = spacing.flow(own.sigmas[:-1].tolist())
            found.append(Sampler(f"{name}, {spacing}", family, flow_on(own, make, levels), calls))
    return found


def _diffusion_samplers(own: Any) -> list[Sampler]:
    from diffusers import DPMSolverMultistepScheduler, HeunDiscreteScheduler, UniPCMultistepScheduler

    kinds = [  # DPM-Solver++ of order 1 is DDIM, and takes any timesteps
        ("DDIM", OWN, partial(DPMSolverMultistepScheduler.from_config, own.config, solver_order=1)),
        ("DPM-Solver++ 2M", DPM, partial(DPMSolverMultistepScheduler.from_config, own.config, solver_order=2)),
        ("UniPC", UNIPC, partial(UniPCMultistepScheduler.from_config, own.config, solver_order=2)),
    ]
    found = [Sampler(f"{name}, own levels", family, make) for name, family, make in kinds]
    for name, family, make in kinds:
        spacings = (*SPACINGS, *(OTHER_ENDS if family in FAST else ()))
        found += [Sampler(f"{name}, {s}", family, diffusion_on(make, s.timesteps(own))) for s in spacings]
    # on own levels Heun's first step spans sigmas from 20,000 to 60, where its average of slopes is useless
    karras = partial(HeunDiscreteScheduler.from_config, own.config, use_karras_sigmas=True)
    return [*found, Sampler("Heun, Karras levels", HEUN, karras, 2)]
