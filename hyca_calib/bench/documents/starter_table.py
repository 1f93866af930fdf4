"""How plans without calibration do, as a table for documents."""

from pathlib import Path
from statistics import fmean

from hyca_calib.bench.documents.markdown import made_with, table, wrapped
from hyca_calib.bench.starter import StarterRow, StarterRun

HEAD = ("model, budget", "starter plan", "TaylorSeer", "DBCache", "fewer steps")
WAYS = ("starter", *HEAD[2:])


def starter_table(root: Path) -> str:
    """For every model and budget the mean agreement of each way, dB, with what it cost."""
    path = root / "studies" / "starter" / "results.json"
    if not path.exists():
        return wrapped("*Not measured yet.*")
    run = StarterRun.model_validate_json(path.read_text())
    found: dict[str, dict[str, StarterRow]] = {}
    for row in run.rows:
        found.setdefault(f"{row.model}, {row.budget}", {})[row.way] = row
    rows = [(name, *(_cell(of.get(way)) for way in WAYS)) for name, of in found.items()]
    counts = {row.model: len(row.agreement_db) for row in run.rows}
    samples = ", ".join(f"{count} of `{model}`" for model, count in counts.items())
    note = (
        f"Mean PSNR to the full run in dB, and FLOPs of the full run over those spent; {run.steps} steps, few samples: "
        f"{samples}. {made_with(run)}."
    )
    return f"{table(HEAD, 'lrrrr', rows)}\n\n{wrapped(note)}"


def _cell(row: StarterRow | None) -> str:
    return "none" if row is None else f"{fmean(row.agreement_db):.1f} ({row.flops_ratio:.2f}x)"
