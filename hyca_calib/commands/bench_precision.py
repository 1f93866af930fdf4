"""What steps with quantised weights take: networks of published sizes with random weights."""

from pathlib import Path

from hyca_calib.bench.runtime.costs import PrecisionCosts
from hyca_calib.bench.runtime.networks import network_names
from hyca_calib.bench.runtime.precision import VARIANTS, measure_variant
from hyca_calib.bench.runtime.sampled import Sampled, TimedOn
from hyca_calib.commands.bench_options import BenchOptions
from hyca_calib.commands.options import STUDIES
from hyca_calib.records.atomic import write_json
from hyca_calib.records.console import say
from hyca_calib.records.provenance import provenance

STEPS = 12
"""Of which every other one is computed with quantised weights."""


def bench_precision(options: BenchOptions) -> Path:
    """``hyca_calib bench precision``; returns the path of the figures.

    Raises:
        WorkloadError: there is no network of a name in `options.only`.
    """
    device, kind, dtype = TimedOn.default()
    names = network_names(options.only, ("flux-dev",) if kind == "cuda" else ("flux-100m",))
    path = (options.out or STUDIES / "bench") / f"precision-{kind}.json"
    costs = PrecisionCosts(**provenance(device).model_dump())
    for name in names:
        subject = Sampled.of(name, device, dtype)
        for spec in VARIANTS:
            say(f"{name}: steps with {spec} weights beside its own ...")
            found = measure_variant(subject, spec, STEPS)
            say(found.error or f"{found.step_ms:.1f} ms, own weights {found.own_step_ms:.1f} ms")
            costs = costs.model_copy(update={"variants": (*costs.variants, found)})
            write_json(path, costs)  # networks take minutes: what is measured is kept
    return path
