"""What the runtime itself costs: its sum, its wrapper, and the speed-up it realises of the ideal one."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial, wraps
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from hyca_calib.baselines import baselines_at_steps
from hyca_calib.baselines.score import reason
from hyca_calib.bench.networks import NETWORKS, Network
from hyca_calib.pipelines.around import named_context, pipeline_around
from hyca_calib.pipelines.by_hand import hand_section
from hyca_runtime import Plan, apply_plan
from hyca_runtime.attach.points import find_blocks
from hyca_runtime.combine import forecast, split_weights
from hyca_runtime.feature import Feature
from hyca_runtime.history import History
from hyca_runtime.point import CachePoint

__all__ = ["Overhead", "Realised", "Rival", "SumSpeed", "measure_overhead", "measure_realised", "measure_sum"]


@dataclass(frozen=True)
class SumSpeed:
    """The weighted sum against a copy of the same tensor on the same device.

    Attributes:
        share: bytes a second of the sum over those of the copy.
    """

    shape: tuple[int, ...]
    dtype: str
    taps: int
    sum_gb_per_s: float
    copy_gb_per_s: float
    share: float


@dataclass(frozen=True)
class Overhead:
    """Milliseconds that a plan adds to a step that is computed anyway.

    Attributes:
        blocks: of the network; their width is tiny, so that Python is what is measured.
        network_ms: median time inside the network's own forward.
        added_ms: median of what the same calls took beyond that.
    """

    network: str
    blocks: int
    network_ms: float
    added_ms: float


@dataclass(frozen=True)
class Rival:
    """Another cache on the same network, timed in turn with it.

    Attributes:
        computed: steps on which the last layer of the last block ran.
        speed_up: wall time of the full run over that with the cache, medians.
        error: why there are no figures.
    """

    name: str
    computed: int = 0
    speed_up: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Realised:
    """Wall-clock of a run under a plan.

    Attributes:
        ideal: steps over computed steps.
        speed_up: wall time of the full run over that of the planned one, medians.
        share: speed_up over ideal.
        full_step_ms, predicted_step_ms: per call of the network.
        added_bytes: peak memory of the planned run over the full one's on a GPU, features held on a CPU.
        weight_bytes: of the network.
        rivals: other caches that compute as many steps.
    """

    network: str
    dtype: str
    parameters: int
    steps: int
    computed: int
    ideal: float
    speed_up: float
    share: float
    full_step_ms: float
    predicted_step_ms: float
    added_bytes: int
    weight_bytes: int
    rivals: tuple[Rival, ...] = ()


def measure_sum(shape: Sequence[int], dtype: torch.dtype, taps: int, device: str, repeats: int = 20) -> SumSpeed:
    """Time `forecast` at a feature of `shape`, channels last."""
    history = History(taps)
    for step in range(taps):
        history.push(step, Feature([torch.randn(*shape, device=device).to(dtype)]))
    weights = split_weights(torch.rand(taps, shape[-1]), (shape[-1],), [len(shape)], -1)
    placed = tuple(w.to(device) for w in weights)
    source = history.features[0][0].clone()
    target = torch.empty_like(source)
    summed, copied = _alternate(
        [lambda: forecast(history, placed), lambda: target.copy_(source)], device, repeats, floor=0.02
    )
    moved = source.nbytes / 1e9
    speeds = (taps + 1) * moved / statistics.median(summed), 2 * moved / statistics.median(copied)
    return SumSpeed(tuple(shape), str(dtype).removeprefix("torch."), taps, *speeds, speeds[0] / speeds[1])


def measure_overhead(device: str, repeats: int = 200) -> Overhead:
    """Time around FLUX's 57 blocks of width 32 on steps that are computed."""
    network = NETWORKS["flux-57-tiny"]
    module = network.build(device, torch.float32)
    arguments = network.inputs(module, device, torch.float32)
    scheduler = FlowMatchEulerDiscreteScheduler()
    latents, own, spent = arguments["hidden_states"], module.forward, [0.0]

    @wraps(own)
    def timed(*args: Any, **kwargs: Any) -> Any:
        output: list[Any] = []
        spent[0] = _seconds(lambda: output.append(own(*args, **kwargs)), device)
        return output[0]

    module.forward = timed
    pairs: list[tuple[float, float]] = []
    plan = _plan(network, module, repeats, range(repeats))
    with torch.no_grad(), apply_plan(SimpleNamespace(transformer=module, scheduler=scheduler), plan, "error"):
        for _ in range(2):  # the first run warms up
            pairs.clear()
            scheduler.set_timesteps(repeats, device=latents.device)
            for t in scheduler.timesteps:
                whole = _seconds(partial(module, **{**arguments, "timestep": t.expand(1) / network.unit}), device)
                pairs.append((spent[0], whole - spent[0]))
                scheduler.step(latents, t, latents)
    inside, around = (1000 * statistics.median(times) for times in zip(*pairs, strict=True))
    return Overhead(network.name, network.blocks(module), inside, around)


def measure_realised(
    name: str, steps: int, computed: Sequence[int], device: str, dtype: torch.dtype, repeats: int = 3
) -> Realised:
    """Time full and planned runs of a network with random weights, and other caches at as many steps, in turn."""
    gc.collect()  # the network measured before, perhaps tens of gigabytes
    network = NETWORKS[name]
    module = network.build(device, dtype)
    arguments = network.inputs(module, device, dtype)
    plan = _plan(network, module, steps, computed)
    scheduler = FlowMatchEulerDiscreteScheduler()
    pipe = SimpleNamespace(transformer=module, scheduler=scheduler)

    def run() -> None:
        _sample(network, module, arguments, scheduler, steps)

    def planned() -> None:
        with apply_plan(pipe, plan, on_mismatch="error") as session:
            run()
            held.append(session.report().cache_bytes)
            seen.append(session.report().computed)

    held: list[int] = []
    seen: list[int] = []
    with torch.no_grad():
        peaks = [_peak(function, device) for function in (run, planned)]  # warms up, too
        rivals, others = _rivals(network, module, arguments, steps, computed)
        full, light, *theirs = _alternate([run, planned, *others], device, repeats)
    if set(seen) != {len(computed)}:
        raise RuntimeError(f"{seen} steps were computed, expected {len(computed)}")
    fast, slow = statistics.median(light), statistics.median(full)
    ideal = steps / len(computed)
    each = slow / steps
    return Realised(
        network=name,
        dtype=str(dtype).removeprefix("torch."),
        parameters=sum(p.numel() for p in module.parameters()),
        steps=steps,
        computed=len(computed),
        ideal=ideal,
        speed_up=slow / fast,
        share=slow / fast / ideal,
        full_step_ms=1000 * each,
        predicted_step_ms=1000 * (fast - len(computed) * each) / (steps - len(computed)),
        added_bytes=peaks[1] - peaks[0] if device.startswith("cuda") else max(held),
        weight_bytes=sum(p.nbytes for p in module.parameters()),
        rivals=tuple(
            rival if rival.error else replace(rival, speed_up=slow / statistics.median(theirs.pop(0)))
            for rival in rivals
        ),
    )


def _rivals(
    network: Network, module: nn.Module, arguments: dict[str, Any], steps: int, computed: Sequence[int]
) -> tuple[list[Rival], list[Callable[[], None]]]:
    """Other caches, each tried once, and the runs of those that work."""
    pipe = pipeline_around(module, lambda _: named_context(module))
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(steps)
    noise: Tensor = arguments["hidden_states"]
    times = [(t.expand(noise.shape[0]) / network.unit).to(noise.device, noise.dtype) for t in scheduler.timesteps]

    def run(applied: Callable[[Any], AbstractContextManager[Any]]) -> None:
        with applied(pipe):
            pipe({**arguments, "timestep": time} for time in times)

    rivals: list[Rival] = []
    runs: list[Callable[[], None]] = []
    *_, last = (part for part in find_blocks(module)[-1].module.modules() if isinstance(part, nn.Linear))
    for baseline in baselines_at_steps(steps, computed):
        ran: list[None] = []
        counting = last.register_forward_pre_hook(lambda *_, ran=ran: ran.append(None))
        try:
            run(baseline.applied)
        except Exception as error:  # foreign code may raise anything
            rivals.append(Rival(baseline.name, error=reason(error)))
        else:
            rivals.append(Rival(baseline.name, len(ran)))
            runs.append(partial(run, baseline.applied))
        finally:
            counting.remove()
    return rivals, runs


def _plan(network: Network, module: nn.Module, steps: int, computed: Sequence[int]) -> Plan:
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(steps)
    own = [float(t) for t in scheduler.timesteps]
    section = hand_section(
        module, CachePoint(), network.channels(module), [t / network.unit for t in own], own, computed
    )
    return Plan(name="bench", sections=(section,))


def _sample(network: Network, module: nn.Module, arguments: dict[str, Any], scheduler: Any, steps: int) -> Tensor:
    latents: Tensor = arguments["hidden_states"]
    scheduler.set_timesteps(steps, device=latents.device)
    for t in scheduler.timesteps:
        timestep = t.expand(latents.shape[0]).to(latents.dtype) / network.unit
        velocity = module(**{**arguments, "hidden_states": latents, "timestep": timestep})[0]
        latents = scheduler.step(velocity.float(), t, latents.float(), return_dict=False)[0].to(latents.dtype)
    return latents


def _alternate(
    functions: Sequence[Callable[[], Any]], device: str, repeats: int, floor: float = 0.0
) -> list[list[float]]:
    """Seconds of each function, called in turn; each is repeated until `floor` seconds are filled."""
    times: list[list[float]] = [[] for _ in functions]
    loops = [max(1, math.ceil(floor / max(_seconds(f, device), 1e-6))) for f in functions]
    gc.freeze()  # to collect garbage among all that was ever imported takes a second, of whoever is timed by then
    for _ in range(repeats):
        for found, function, loop in zip(times, functions, loops, strict=True):

            def several(function: Callable[[], Any] = function, loop: int = loop) -> None:
                for _ in range(loop):
                    function()

            found.append(_seconds(several, device) / loop)
    gc.unfreeze()
    return times


def _seconds(function: Callable[[], Any], device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    begun = time.perf_counter()
    function()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def _peak(function: Callable[[], Any], device: str) -> int:
    """Most bytes allocated on a GPU while `function` runs; 0 on a CPU."""
    if not device.startswith("cuda"):
        function()
        return 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()
