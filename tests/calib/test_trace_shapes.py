"""Tracing a network of published size: on a GPU what it costs, elsewhere that the same code runs on a small one."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from hyca_calib.bench.runtime.networks import NETWORKS, Network
from hyca_calib.pipelines.workload import Workload
from hyca_calib.trace.run import trace
from hyca_calib.trace.store import Trace
from hyca_runtime.point import CachePoint


class Sampling:
    """A pipeline of nothing but a network and a scheduler."""

    def __init__(self, network: Network, device: str, dtype: torch.dtype) -> None:
        self.transformer = network.build(device, dtype)
        self.scheduler = FlowMatchEulerDiscreteScheduler(1000)
        self._inputs = network.inputs(self.transformer, device, dtype)
        self._network = network
        self.config = SimpleNamespace()

    @torch.no_grad()
    def __call__(self, num_inference_steps: int, generator: list[torch.Generator], **_: Any) -> tuple[torch.Tensor]:
        given = self._inputs
        first = given["hidden_states"]
        latents = torch.randn(first.shape, generator=generator[0]).to(first)
        self.scheduler.set_timesteps(num_inference_steps, device=first.device)
        for t in self.scheduler.timesteps:
            call = {**given, "hidden_states": latents, "timestep": (t / self._network.unit).expand(1).to(first.dtype)}
            latents = self.scheduler.step(self.transformer(**call)[0], t, latents, return_dict=False)[0]
        return (latents,)


def traced(pipe: Sampling, steps: int, samples: int, out: Path) -> float:
    """Seconds of a trace with 256 stored tokens and statistics on all."""
    workload = Workload(tuple({"prompt": str(i)} for i in range(8)), samples, steps, seed=0)
    begun = time.perf_counter()
    trace(pipe, workload, CachePoint(), out, model_name="shape", batch=1, tokens=256)
    return time.perf_counter() - begun


def sampled(pipe: Sampling, steps: int, samples: int) -> float:
    begun = time.perf_counter()
    for seed in range(samples):
        pipe(steps, [torch.Generator().manual_seed(seed)])[0].cpu()
    return time.perf_counter() - begun


def test_a_small_one(tmp_path: Path) -> None:
    traced(Sampling(NETWORKS["flux-57-tiny"], "cpu", torch.bfloat16), 6, 7, tmp_path / "t.zarr")
    found = Trace(tmp_path / "t.zarr")
    assert found.values("fit").shape == (3, 1, 6, 16, 32)
    assert (found.gain > 0).all()


@pytest.mark.gpu
@pytest.mark.slow
def test_overhead_at_flux_dev(tmp_path: Path) -> None:
    """At most 5 % of sampling time."""
    steps, samples = 28, 7
    pipe = Sampling(NETWORKS["flux-dev"], "cuda", torch.bfloat16)
    sampled(pipe, 4, 1)
    plain = sampled(pipe, steps, samples)
    with_trace = traced(pipe, steps, samples, tmp_path / "t.zarr")
    print(f"{torch.cuda.get_device_name()}: sampled {plain:.1f} s, traced {with_trace:.1f} s")
    assert with_trace / plain - 1 < 0.05
