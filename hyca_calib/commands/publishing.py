"""Published figures: measured again, and written into documents."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from hyca_calib.bench.documents.blocks import publish
from hyca_calib.bench.results import read_bench
from hyca_calib.bench.verify import TOLERANCE_DB, Verification, random_rows
from hyca_calib.commands.benching import BenchOptions
from hyca_calib.pipelines.load import load_pipeline
from hyca_calib.records.console import counting
from hyca_runtime.errors import StudyError

__all__ = ["publish_figures", "verify_bench"]


def verify_bench(options: BenchOptions, share: float = 0.1) -> str:
    """``hyca_calib bench --verify``; returns a table of the rows that were measured again.

    Raises:
        StudyError: a figure is off by more than `TOLERANCE_DB`.
    """
    bench = read_bench(options.folder)
    how = Verification(options.folder, partial(load_pipeline, bench.facts.model), options.workload)
    rows = random_rows(bench, share, options.seed)
    checks = []
    with counting("verify", len(rows)) as advance:
        for check in how.rows(rows):
            checks.append(check)
            advance(1)
    if wrong := [check for check in checks if not check.off_by <= TOLERANCE_DB]:
        told = "; ".join(f"{check.method}: {check.error or f'{check.off_by:.3f} dB'}" for check in wrong)
        raise StudyError(
            f"{len(wrong)} of {len(checks)} rows of {options.folder} are not what is measured now ({told}); they were "
            f"made by commit {bench.facts.commit} on {bench.facts.processor}: measure the table again"
        )
    return "\n".join(f"{check.off_by:.4f} dB off  {check.method}" for check in checks)


def publish_figures(root: Path) -> list[Path]:
    """``hyca_calib bench --publish``; returns the documents that changed."""
    return publish(root)
