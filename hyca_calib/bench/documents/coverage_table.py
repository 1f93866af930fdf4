"""Whether bounds for new samples hold, as a table for documents."""

from pathlib import Path

from hyca_calib.bench.coverage import CoverageRun
from hyca_calib.bench.documents.markdown import made_with, table, wrapped

HEAD = ("model", "budget", "bound of", "holds for", "95 % of bounds hold for")


def coverage_table(root: Path) -> str:
    """For every model with a result: its bound, and for how many held-out samples it holds."""
    paths = sorted((root / "studies" / "bench").glob("*/coverage.json"))
    found = [CoverageRun.model_validate_json(path.read_text()) for path in paths]
    if not found:
        return wrapped("*Not measured yet.*")
    made = dict.fromkeys(made_with(run) for run in found)
    text = "; ".join(made)
    few = [
        f"`{run.model}` at {run.budget} lies below: a bound holds for no more in "
        f"{100 * run.chance:.1f} % of such draws."
        for run in found
        if run.covered < round(run.coverage.low * len(run.held_out_db))
    ]
    told = wrapped(" ".join([*few, text[:1].upper() + text[1:] + "."]))
    return f"{table(HEAD, 'lrrrr', map(_cells, found))}\n\n{told}"


def _cells(run: CoverageRun) -> tuple[str, ...]:
    held, told = len(run.held_out_db), run.coverage
    return (
        run.model,
        run.budget,
        f"{len(run.calibrating_db)} samples: {run.bound_db:.1f} dB",
        f"{run.covered} of {held} ({100 * run.covered / held:.1f} %)",
        f"{round(told.low * held)} to {round(told.high * held)}",
    )
