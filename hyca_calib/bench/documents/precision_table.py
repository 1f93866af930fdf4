"""What steps with quantised weights take, as a table for documents."""

from pathlib import Path

from hyca_calib.bench.documents.markdown import made_with, table, wrapped
from hyca_calib.bench.runtime.costs import PrecisionCosts, TimedVariant


def precision_times(root: Path) -> str:
    """Time of a step and bytes of the weights, on every device with results."""
    paths = sorted((root / "studies" / "bench").glob("precision-*.json"))
    found = [costs for costs in (PrecisionCosts.model_validate_json(path.read_text()) for path in paths) if costs.known]
    if not found:
        return wrapped("*What quantised steps take is being measured again.*")
    head = ["network", "weights", "a step, ms", "with its own, ms", "MiB beside", "MiB of its own"]
    return "\n\n".join(
        f"{wrapped(f'On {made_with(costs)}:')}\n\n{table(head, 'llrrrr', [_row(one) for one in costs.variants])}"
        for costs in found
    )


def _row(one: TimedVariant) -> list[str]:
    named = [f"{one.network}, {one.dtype}", one.variant]
    if one.error:
        return [*named, "not here", "", "", ""]
    own, beside = (f"{size / 2**20:.0f}" for size in (one.own_bytes, one.bytes))
    return [*named, f"{one.step_ms:.0f}", f"{one.own_step_ms:.0f}", beside, own]
