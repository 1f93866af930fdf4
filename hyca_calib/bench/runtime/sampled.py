"""A network of a published size, sampled without a pipeline: what is timed."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple, Self

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from hyca_calib.bench.runtime.networks import NETWORKS, Network
from hyca_calib.pipelines.load import default_device
from hyca_runtime import Plan, Session, apply_plan
from hyca_runtime.plain_section import plain_section
from hyca_runtime.point import CachePoint
from hyca_runtime.schedule import FEATURE, Schedule


class TimedOn(NamedTuple):
    """Where networks are timed, and in which precision.

    Attributes:
        kind: what files of results are called after.
    """

    device: str
    kind: str
    dtype: torch.dtype

    @classmethod
    def default(cls) -> Self:
        """A GPU in bfloat16 where there is one, or the CPU in float32."""
        device = default_device()
        on_gpu = device.startswith("cuda")
        return cls(device, "cuda" if on_gpu else "cpu", torch.bfloat16 if on_gpu else torch.float32)


@dataclass(frozen=True)
class Sampled:
    """A network with random weights, the inputs of a call, and the scheduler that drives it."""

    network: Network
    module: nn.Module
    inputs: dict[str, Any]
    scheduler: Any

    @classmethod
    def of(cls, name: str, device: str, dtype: torch.dtype) -> Self:
        network = NETWORKS[name]
        module = network.build(device, dtype)
        return cls(network, module, network.inputs(module, device, dtype), FlowMatchEulerDiscreteScheduler())

    @property
    def latents(self) -> Tensor:
        latents: Tensor = self.inputs["hidden_states"]
        return latents

    def plan(self, steps: int, computed: Sequence[int]) -> Plan:
        self.scheduler.set_timesteps(steps)
        own = [float(t) for t in self.scheduler.timesteps]
        times = [t / self.network.unit for t in own]
        points = {FEATURE: (CachePoint(), self.network.channels(self.module))}
        section = plain_section(self.module, points, times, own, Schedule.from_steps(len(times), computed))
        return Plan(name="bench", sections=(section,))

    def under(self, plan: Plan) -> Session:
        pipe = SimpleNamespace(transformer=self.module, scheduler=self.scheduler)
        return apply_plan(pipe, plan, on_mismatch="error")

    def sample(self, steps: int) -> None:
        latents = self.latents
        self.scheduler.set_timesteps(steps, device=latents.device)
        for t in self.scheduler.timesteps:
            timestep = t.expand(latents.shape[0]).to(latents.dtype) / self.network.unit
            velocity = self.module(**{**self.inputs, "hidden_states": latents, "timestep": timestep})[0]
            moved = self.scheduler.step(velocity.float(), t, latents.float(), return_dict=False)[0]
            latents = moved.to(latents.dtype)
