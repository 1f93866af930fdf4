"""Fewer steps of the model's own sampler, and better samplers at the same number of network calls.

A sampler's noise levels matter as much as its order, so every sampler also runs on levels evenly spaced
in log-SNR (DPM-Solver, arXiv 2206.00927), between levels of the full run.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from hyca_calib.baselines.base import Applied, Axis, Family, HalfOpenAxis, Settings, Setup
from hyca_calib.baselines.full_run import observe
from hyca_calib.baselines.noise_levels import Spacing, diffusion_on, flow_on

SAMPLERS = OWN, DPM, UNIPC, HEUN = "fewer steps", "DPM-Solver++", "UniPC", "Heun"
LEAST, MOST, APART = 0.04, 0.9, 1.12
"""Network calls of a method: the shares of the full run's, and how far apart they are."""
STARTS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 14, 20, 27, 35, 43)
"""Where the spacing begins; at 0 the levels are the sampler's own. The fewer the calls, the later the best start:
of 50 levels at 4 calls about the twentieth."""
ENDS = (0.1, 0.2, 0.35, 0.6, 1.0, 1.6, 2.5, 4.0, 6.3, 10.0, 16.0)
"""Where it ends: below 1, closer to the exact solution than the full run's last level allows."""

Made = Callable[[], Any]
"""Makes fresh schedulers."""


@dataclass(frozen=True)
class Sampler:
    """A way to sample.

    Attributes:
        own: a fresh scheduler on the model's levels.
        spaced: makes fresh schedulers on others; None where it cannot.
        calls: network calls of a step.
        spared: calls that a run makes less.
    """

    family: str
    source: str
    own: Made
    spaced: Callable[[Spacing], Made] | None
    calls: int = 1
    spared: int = 0

    def steps(self, calls: int) -> int:
        """Fewest steps that make at least so many network calls."""
        return -(-(calls + self.spared) // self.calls)

    def network_calls(self, steps: int) -> int:
        return steps * self.calls - self.spared

    def made(self, start: int, end: float) -> Made | None:
        """Fresh schedulers on these levels; None is the pipeline's own."""
        if start and self.spaced:
            return self.spaced(Spacing(start, end))
        return None if self.family == OWN else self.own


def sampler_families(pipe: Any, setup: Setup) -> list[Family]:
    """Every sampler for the pipeline's process; of an unknown process, fewer steps alone."""
    return [_family(sampler, setup.num_steps) for sampler in samplers(pipe, setup)]


def _family(sampler: Sampler, num_steps: int) -> Family:
    def apply(pipe: Any, settings: Settings) -> Applied:
        return sampled_by(pipe, sampler.made(int(settings["start"]), float(settings["end"])))

    calls = tuple(sorted({sampler.network_calls(sampler.steps(n)) for n in _call_counts(num_steps)}))
    starts = tuple(start for start in STARTS if start < num_steps - 1)
    only_all_is_more = calls[-1] + sampler.calls >= sampler.network_calls(num_steps)
    axes = (
        HalfOpenAxis("calls", calls, tuple(calls[i] for i in range(1, len(calls), 5)), closed=only_all_is_more),
        HalfOpenAxis("start", starts, (0, 4)) if sampler.spaced else Axis("start", (0,), closed=True),
        Axis("end", ENDS, (1.0,)) if sampler.spaced else Axis("end", (1.0,), closed=True),
    )
    return Family(
        sampler.family,
        sampler.source,
        axes,
        apply,
        num_steps,
        steps=lambda settings: sampler.steps(int(settings["calls"])),
        allows=lambda settings: bool(settings["start"]) or settings["end"] == 1,
    )


def _call_counts(num_steps: int) -> list[int]:
    counts, exact = list[int](), max(2.0, LEAST * num_steps)
    while exact < MOST * num_steps * APART:
        counts.append(round(exact))
        exact = max(exact * APART, counts[-1] + 1.0)
    return [n for n in counts if n <= MOST * num_steps]


def samplers(pipe: Any, setup: Setup) -> list[Sampler]:
    """Samplers of a rectified flow, or of a diffusion with discrete noise levels."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    facts, own = observe(pipe, setup), copy.deepcopy(pipe.scheduler)
    if hasattr(own, "alphas_cumprod"):
        own.timesteps = torch.tensor(facts.timesteps).long()
        return _diffusion_samplers(own)
    if isinstance(own, FlowMatchEulerDiscreteScheduler):
        return _flow_samplers(own, facts.sigmas[:-1])
    return [Sampler(OWN, "the model's own sampler", lambda: None, None)]


@contextmanager
def sampled_by(pipe: Any, make: Made | None) -> Iterator[None]:
    """The pipeline with another scheduler; with its own if there is none to make."""
    own = pipe.scheduler
    if make is not None:
        pipe.scheduler = make()
    try:
        yield
    finally:
        pipe.scheduler = own


def _flow_samplers(own: Any, sigmas: tuple[float, ...]) -> list[Sampler]:
    from diffusers import (
        DPMSolverMultistepScheduler,
        FlowMatchEulerDiscreteScheduler,
        FlowMatchHeunDiscreteScheduler,
        UniPCMultistepScheduler,
    )

    def sampler(family: str, source: str, make: Made, calls: int = 1) -> Sampler:
        def spaced(spacing: Spacing) -> Made:
            return partial(flow_on, own, make, spacing.flow(sigmas))

        return Sampler(family, source, partial(flow_on, own, make), spaced, calls, calls - 1)

    scale = own.config.num_train_timesteps
    flow = {"num_train_timesteps": scale, "prediction_type": "flow_prediction", "use_flow_sigmas": True}
    return [
        sampler(OWN, "the model's own sampler, Euler", partial(FlowMatchEulerDiscreteScheduler, scale)),
        sampler(DPM, "2M, arXiv 2211.01095; diffusers", partial(DPMSolverMultistepScheduler, **flow)),
        sampler(UNIPC, "arXiv 2302.04867; diffusers", partial(UniPCMultistepScheduler, **flow)),
        sampler(HEUN, "arXiv 2206.00364; diffusers", partial(FlowMatchHeunDiscreteScheduler, scale), calls=2),
    ]


def _diffusion_samplers(own: Any) -> list[Sampler]:
    from diffusers import DPMSolverMultistepScheduler, HeunDiscreteScheduler, UniPCMultistepScheduler

    def sampler(family: str, source: str, kind: Any, **options: int) -> Sampler:
        make = partial(kind.from_config, own.config, **options)

        def spaced(spacing: Spacing) -> Made:
            return partial(diffusion_on, make, spacing.timesteps(own))

        return Sampler(family, source, make, spaced)

    def own_levels(count: int) -> Any:
        reference = copy.deepcopy(own)
        reference.set_timesteps(count)
        return reference.timesteps.double().numpy()

    ddim = "the model's own sampler, DDIM"  # which DPM-Solver++ of order 1 is, that takes any timesteps
    heun = sampler(HEUN, "arXiv 2206.00364; diffusers, the first step Euler's", HeunDiscreteScheduler)
    return [
        sampler(OWN, ddim, DPMSolverMultistepScheduler, solver_order=1),
        sampler(DPM, "2M, arXiv 2211.01095; diffusers", DPMSolverMultistepScheduler, solver_order=2),
        sampler(UNIPC, "arXiv 2302.04867; diffusers", UniPCMultistepScheduler, solver_order=2),
        replace(heun, own=partial(diffusion_on, heun.own, own_levels), calls=2, spared=2),
    ]
