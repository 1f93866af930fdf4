"""What the bench found, as tables: for people, and for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hyca_calib.bench.run import Row
from hyca_calib.evaluate import Evaluation
from hyca_calib.metrics import interval

__all__ = ["SAME_COST", "SPARING", "Margin", "margin", "to_csv", "to_markdown"]

SAME_COST = 1.02
"""A method whose FLOPs ratio is up to this much higher counts as spending as much."""
SPARING = 1.5
"""A method with a lower FLOPs ratio is no rival: a cache that never acts agrees perfectly with the full run."""
COLUMNS = (
    "flops_ratio",
    "wall_ratio",
    "psnr_db",
    "psnr_db_worst",
    "ssim",
    "ssim_worst",
    "latent_error",
    "steps_total",
    "steps_computed",
    "cache_bytes",
    "num_samples",
    "batch",
)


@dataclass(frozen=True)
class Margin:
    """PSNR in dB above the best rival, sample by sample: mean and 95 % bootstrap interval."""

    mean: float
    low: float
    high: float
    rival: str

    def __str__(self) -> str:
        return f"{self.mean:+.2f} ({self.low:+.2f} to {self.high:+.2f}) over {self.rival}"


def margin(ours: Evaluation, rows: Sequence[Row], seed: int = 0) -> Margin | None:
    """How far a plan is above the best peer that spends at least as many FLOPs; None without one.

    A peer that spends up to 2% less counts too, so that equal numbers of computed steps are compared;
    one that spares next to nothing does not.
    """
    rivals = [
        (row.result, row.method)
        for row in rows
        if row.result and not row.ours and SPARING <= row.result.flops_ratio <= ours.flops_ratio * SAME_COST
    ]
    if not rivals:
        return None
    best, name = max(rivals, key=lambda pair: pair[0].psnr_db)
    paired = np.subtract(ours.psnr_db_each, best.psnr_db_each).tolist()
    return Margin(*interval(paired, seed), rival=name)


def to_markdown(rows: Sequence[Row]) -> str:
    """The table, cheapest last."""
    lines = [
        "| method | FLOPs ratio | wall ratio | PSNR dB (worst) | SSIM | margin dB |",
        "|---|---:|---:|---:|---:|---|",
    ]
    measured = [(row, row.result) for row in rows if row.result is not None]
    for row, r in sorted(measured, key=lambda pair: pair[1].flops_ratio):
        gain = margin(r, rows) if row.ours else None
        name = f"**{row.method}**" if row.ours else row.method
        lines.append(
            f"| {name} | {r.flops_ratio:.2f} | {r.wall_ratio:.2f} | {r.psnr_db:.2f} ({r.psnr_db_worst:.1f}) "
            f"| {r.ssim:.4f} | {gain or ''} |"
        )
    lines += [f"| {row.method} | failed | | {row.error} | | |" for row in rows if row.result is None]
    return "\n".join(lines) + "\n"


def to_csv(rows: Sequence[Row]) -> str:
    """Every row, unrounded; failures have an error and no figures."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "family", *COLUMNS, "error"])
    for row in rows:
        figures = [getattr(row.result, name) if row.result else "" for name in COLUMNS]
        writer.writerow([row.method, row.family, *figures, row.error])
    return text.getvalue()
