"""The runtime timed: its sum, its wrapper, and the speed-up it realises of the ideal one."""

import gc
import math
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial, wraps
from typing import Any

import torch
from torch import nn

from hyca_calib.baselines import baselines_at_steps
from hyca_calib.baselines.score import reason
from hyca_calib.bench.runtime.costs import Overhead, Realised, SumSpeed, TimedCache
from hyca_calib.bench.runtime.sampled import Sampled
from hyca_calib.costs.flops import seconds_of
from hyca_calib.pipelines.around import named_context, pipeline_around
from hyca_runtime.attach.points import find_blocks
from hyca_runtime.combine import forecast, split_weights
from hyca_runtime.feature import Feature
from hyca_runtime.history import History


def measure_sum(shape: Sequence[int], dtype: torch.dtype, taps: int, device: str, repeats: int = 20) -> SumSpeed:
    """Time `forecast` at a feature of `shape`, channels last."""
    history = History(taps)
    for step in range(taps):
        history.push(step, Feature([torch.randn(*shape, device=device).to(dtype)]))
    weights = split_weights(torch.rand(taps, shape[-1]), (shape[-1],), [len(shape)], -1)
    placed = tuple(w.to(device) for w in weights)
    source = history.features[0][0].clone()
    target = torch.empty_like(source)
    summed, copied = _alternate([lambda: forecast(history, placed), lambda: target.copy_(source)], repeats, floor=0.02)
    moved = source.nbytes / 1e9
    speeds = (taps + 1) * moved / statistics.median(summed), 2 * moved / statistics.median(copied)
    return SumSpeed(tuple(shape), str(dtype).removeprefix("torch."), taps, *speeds, speeds[0] / speeds[1])


def measure_overhead(device: str, repeats: int = 200) -> Overhead:
    """Time around FLUX's 57 blocks of width 32 on steps that are computed."""
    subject = Sampled.of("flux-57-tiny", device, torch.float32)
    module, scheduler, latents = subject.module, subject.scheduler, subject.latents
    own, spent = module.forward, [0.0]

    @wraps(own)
    def timed(*args: Any, **kwargs: Any) -> Any:
        output: list[Any] = []
        spent[0] = seconds_of(lambda: output.append(own(*args, **kwargs)))
        return output[0]

    module.forward = timed
    pairs: list[tuple[float, float]] = []
    plan = subject.plan(repeats, range(repeats))
    with torch.no_grad(), subject.under(plan):
        for _ in range(2):  # the first run warms up
            pairs.clear()
            scheduler.set_timesteps(repeats, device=latents.device)
            for t in scheduler.timesteps:
                call = {**subject.inputs, "timestep": t.expand(1) / subject.network.unit}
                whole = seconds_of(partial(module, **call))
                pairs.append((spent[0], whole - spent[0]))
                scheduler.step(latents, t, latents)
    inside, around = (1000 * statistics.median(times) for times in zip(*pairs, strict=True))
    return Overhead(subject.network.name, len(find_blocks(module)), inside, around)


def measure_realised(
    name: str, steps: int, computed: Sequence[int], device: str, dtype: torch.dtype, repeats: int = 3
) -> Realised:
    """Time full and planned runs of a network with random weights, and other caches at as many steps, in turn."""
    gc.collect()  # the network measured before, perhaps tens of gigabytes
    subject = Sampled.of(name, device, dtype)
    plan, run = subject.plan(steps, computed), partial(subject.sample, steps)

    def planned() -> None:
        with subject.under(plan) as session:
            run()
            held.append(session.report().cache_bytes)
            seen.append(session.report().computed)

    held: list[int] = []
    seen: list[int] = []
    with torch.no_grad():
        peaks = [_peak(function, device) for function in (run, planned)]  # warms up, too
        caches, others = _other_caches(subject, steps, computed)
        full, light, *theirs = _alternate([run, planned, *others], repeats)
    if set(seen) != {len(computed)}:
        raise RuntimeError(f"{seen} steps were computed, expected {len(computed)}")
    fast, slow = statistics.median(light), statistics.median(full)
    ideal, each = steps / len(computed), slow / steps
    parameters = list(subject.module.parameters())
    return Realised(
        network=name,
        dtype=str(dtype).removeprefix("torch."),
        parameters=sum(p.numel() for p in parameters),
        steps=steps,
        computed=len(computed),
        ideal=ideal,
        speed_up=slow / fast,
        share=slow / fast / ideal,
        full_step_ms=1000 * each,
        predicted_step_ms=1000 * (fast - len(computed) * each) / (steps - len(computed)),
        added_bytes=peaks[1] - peaks[0] if device.startswith("cuda") else max(held),
        weight_bytes=sum(p.nbytes for p in parameters),
        rivals=tuple(
            cache if cache.error else replace(cache, speed_up=slow / statistics.median(theirs.pop(0)))
            for cache in caches
        ),
    )


def _other_caches(
    subject: Sampled, steps: int, computed: Sequence[int]
) -> tuple[list[TimedCache], list[Callable[[], None]]]:
    """Other caches, each tried once, and the runs of those that work."""
    module, noise = subject.module, subject.latents
    pipe = pipeline_around(module, lambda _: named_context(module))
    subject.scheduler.set_timesteps(steps)
    times = [
        (t.expand(noise.shape[0]) / subject.network.unit).to(noise.device, noise.dtype)
        for t in subject.scheduler.timesteps
    ]

    def run(applied: Callable[[Any], AbstractContextManager[Any]]) -> None:
        with applied(pipe):
            pipe({**subject.inputs, "timestep": time} for time in times)

    caches: list[TimedCache] = []
    runs: list[Callable[[], None]] = []
    *_, last = (part for part in find_blocks(module)[-1].module.modules() if isinstance(part, nn.Linear))
    for baseline in baselines_at_steps(steps, computed):
        ran: list[None] = []
        counting = last.register_forward_pre_hook(lambda *_, ran=ran: ran.append(None))
        try:
            run(baseline.applied)
        except Exception as error:  # foreign code may raise anything
            caches.append(TimedCache(baseline.name, error=reason(error)))
        else:
            caches.append(TimedCache(baseline.name, len(ran)))
            runs.append(partial(run, baseline.applied))
        finally:
            counting.remove()
    return caches, runs


def _alternate(functions: Sequence[Callable[[], Any]], repeats: int, floor: float = 0.0) -> list[list[float]]:
    """Seconds of each function, called in turn; each is repeated until `floor` seconds are filled."""
    times: list[list[float]] = [[] for _ in functions]
    loops = [max(1, math.ceil(floor / max(seconds_of(f), 1e-6))) for f in functions]
    gc.freeze()  # to collect garbage among all that was ever imported takes a second, of whoever is timed by then
    for _ in range(repeats):
        for found, function, loop in zip(times, functions, loops, strict=True):

            def several(function: Callable[[], Any] = function, loop: int = loop) -> None:
                for _ in range(loop):
                    function()

            found.append(seconds_of(several) / loop)
    gc.unfreeze()
    return times


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
