"""What the demo takes and what the runtime costs, in words and tables for documents."""

from pathlib import Path

from hyca_calib.bench.documents.markdown import listed, made_with, signed, table, wrapped
from hyca_calib.bench.results import DEMO_RUN, DemoRun
from hyca_calib.bench.runtime.costs import Realised, RuntimeCosts, TimedCache


def demo_sentence(root: Path) -> str:
    """What the first command takes, and what its plan reaches."""
    path = root / DEMO_RUN
    if not path.exists():
        return wrapped(f"*What `hyca demo` takes and reaches is being measured again ({DEMO_RUN.name} is missing).*")
    run = DemoRun.model_validate_json(path.read_text())
    found = run.result
    return wrapped(
        f"`hyca demo` took {run.minutes:.1f} minutes, trace and report included, for a plan of {run.budget}: "
        f"{found.flops_ratio:.2f}x fewer FLOPs, {found.wall_ratio:.2f}x less wall time (batch {found.batch}), "
        f"{found.agreement_db:.1f} dB to the full run, mean over {found.num_samples} test samples, "
        f"{found.agreement_db_worst:.1f} dB the worst ({made_with(run)})."
    )


def runtime_sentence(root: Path) -> str:
    """The speed-up that is realised of the ideal one, on every device with results."""
    found = _measured(root)
    if not found:
        return wrapped("*No figure of the runtime's speed is shown: none has a result that says commit and day.*")
    return wrapped(" ".join(_realised(costs) for costs in found))


def runtime_tables(root: Path) -> str:
    """For every device: whole runs, the wrapper, the weighted sum."""
    found = _measured(root)
    return "\n\n".join(_tables(costs) for costs in found) if found else runtime_sentence(root)


def _measured(root: Path) -> list[RuntimeCosts]:
    paths = sorted((root / "studies" / "bench").glob("runtime-*.json"))
    found = [RuntimeCosts.model_validate_json(path.read_text()) for path in paths]
    return [costs for costs in found if costs.known and costs.realised]


def _realised(costs: RuntimeCosts) -> str:
    where = costs.processor if costs.device == "cpu" else costs.device
    runs = [f"{run.network} {run.speed_up:.2f}x (ideal {run.ideal:.2f}x{_fastest(run)})" for run in costs.realised]
    return f"On {where}, networks of published sizes with random weights run faster under a plan: {listed(runs)}."


def _fastest(run: Realised) -> str:
    """The fastest of the caches beside it, whoever wins."""
    caches = [cache for cache in run.rivals if not cache.error]
    if not caches:
        return ""
    best = max(caches, key=lambda cache: cache.speed_up)
    return f"; {best.name}, {best.computed} steps computed, {best.speed_up:.2f}x"


def _tables(costs: RuntimeCosts) -> str:
    whole = [
        [
            run.network,
            f"{run.parameters / 1e9:.2f} G, {run.dtype}",
            f"{run.computed} of {run.steps}",
            f"{run.speed_up:.2f}x of {run.ideal:.2f}x ({100 * run.share:.1f} %)",
            f"{run.full_step_ms:.1f}",
            f"{run.predicted_step_ms:.2f}",
            f"{run.added_bytes / 2**20:.0f}",
        ]
        for run in costs.realised
    ]
    others = [[run.network, cache.name, *_timed(cache)] for run in costs.realised for cache in run.rivals]
    sums = [
        [" x ".join(map(str, one.shape)), one.dtype, str(one.taps), f"{100 * one.share:.0f} %"] for one in costs.sum
    ]
    added = costs.overhead
    head = ["network", "parameters", "steps computed", "faster by, of ideal", "full step, ms"]
    parts = [
        wrapped(f"On {made_with(costs)}:"),
        table([*head, "predicted step, ms", "added MiB"], "llrrrrr", whole),
        table(["network", "other cache", "steps computed", "faster by"], "llrr", others) if others else "",
        wrapped(
            f"A step that is computed anyway takes {added.network_ms:.1f} ms, and a plan adds "
            f"{signed(added.added_ms, 2)} ms ({added.network}: {added.blocks} blocks, so narrow that Python is "
            "what takes time). The weighted sum reads and writes at this share of the speed of a copy:"
        ),
        table(["feature", "dtype", "taps", "of a copy's speed"], "llrr", sums),
    ]
    return "\n\n".join(part for part in parts if part)


def _timed(cache: TimedCache) -> list[str]:
    return ["failed", cache.error] if cache.error else [str(cache.computed), f"{cache.speed_up:.2f}x"]
