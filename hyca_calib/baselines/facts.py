"""What a full run looks like from outside, which several methods must be told."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from hyca_calib.baselines.base import Setup
from hyca_calib.pipelines.rollout import sample_latents
from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.points import find_transformer

__all__ = ["Facts", "observe"]


@dataclass(frozen=True)
class Facts:
    """Of a full run of one sample.

    Attributes:
        times: what the network is told as the time, step by step, falling.
        calls: of the network in a step.
        batch: samples of a call: two where one call has both guidance branches.
        timesteps, sigmas: of the sampler; no sigmas where it has none.
    """

    times: tuple[float, ...]
    calls: int
    batch: int
    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...]

    @property
    def unit(self) -> float:
        """What the network's time is multiplied with to run from about 1000 down."""
        return 1000.0 if max(self.times) <= 1 else 1.0


def observe(pipe: Any, setup: Setup) -> Facts:
    """The facts, from a full run of the first of the setup's samples unless they are known."""
    found: dict[str, Any] = setup.recall("calls of a full run", lambda: asdict(_observed(pipe, setup)))
    told: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in found.items()}
    return Facts(**told)


def _observed(pipe: Any, setup: Setup) -> Facts:
    network = find_transformer(pipe)
    clock, heard, batches = Clock(network), list[float](), list[int]()

    def hear(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del module
        heard.append(clock.timestep(args, kwargs)[0])
        batches.append(clock.batch(args, kwargs))

    hearing = network.register_forward_pre_hook(hear, with_kwargs=True)
    try:
        sample_latents(pipe, setup.jobs[:1], setup.num_steps, 1)
    finally:
        hearing.remove()
    times = sorted(set(heard), reverse=True)
    sampler = pipe.scheduler
    sigmas = getattr(sampler, "sigmas", ())
    return Facts(
        tuple(times),
        round(len(heard) / len(times)),
        max(batches),
        tuple(float(t) for t in sampler.timesteps),
        tuple(float(s) for s in sigmas),
    )
