"""The runtime's own costs: networks of published sizes with random weights, in full and under a plan."""

from dataclasses import asdict
from pathlib import Path

from hyca_calib.bench.runtime import timing
from hyca_calib.bench.runtime.costs import RuntimeCosts
from hyca_calib.bench.runtime.networks import network_names
from hyca_calib.bench.runtime.sampled import TimedOn
from hyca_calib.commands.bench_options import BenchOptions
from hyca_calib.commands.options import STUDIES
from hyca_calib.records.atomic import write_json
from hyca_calib.records.console import say
from hyca_calib.records.provenance import provenance


def bench_runtime(options: BenchOptions) -> Path:
    """``hyca_calib bench runtime``; returns the path of the figures.

    Raises:
        WorkloadError: there is no network of a name in `options.only`.
    """
    device, kind, dtype = TimedOn.default()
    on_gpu = kind == "cuda"
    usual = ("flux-dev", "qwen-image", "hunyuan-video") if on_gpu else ("flux-100m",)
    names = network_names(options.only, usual)
    shapes = [(1, 4096, 3072), (1, 25216, 3072)] if on_gpu else [(1, 1024, 768), (1, 4096, 3072)]
    steps, computed = (50, tuple(range(0, 50, 5))) if on_gpu else (20, (0, 5, 10, 15))
    path = (options.out or STUDIES / "bench") / f"runtime-{kind}.json"
    costs = RuntimeCosts(
        **provenance(device).model_dump(),
        sum=tuple(timing.measure_sum(shape, dtype, taps, device) for shape in shapes for taps in (2, 3, 4)),
        overhead=timing.measure_overhead(device),
    )
    for name in names:
        say(f"{name}: full and planned runs in turn ...")
        found = timing.measure_realised(name, steps, computed, device, dtype)
        say(str(asdict(found)))
        costs = costs.model_copy(update={"realised": (*costs.realised, found)})
        write_json(path, costs)  # networks take minutes: what is measured is kept
    return path
