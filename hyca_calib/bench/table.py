"""What the bench found, as tables: for people, and for spreadsheets."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hyca_calib.bench.quality import Quality
from hyca_calib.bench.run import Row
from hyca_calib.evaluate import Evaluation
from hyca_calib.metrics import interval

__all__ = ["MORE", "SAME_COST", "SPARING", "Margin", "margin", "to_csv", "to_markdown"]

SAME_COST = 1.02
"""A method whose FLOPs ratio is up to this much higher counts as spending as much."""
SPARING = 1.5
"""A method with a lower FLOPs ratio is no rival, unless it costs about the same: a cache that never acts agrees
perfectly with the full run."""
MORE = 1.15
"""A peer that spends up to so much times our FLOPs costs about the same."""
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
    "peak_bytes",
    "num_samples",
    "batch",
)
JUDGED = ("frechet", "accuracy")


@dataclass(frozen=True)
class Margin:
    """PSNR in dB above the best rival, sample by sample: mean and 95 % bootstrap interval."""

    mean: float
    low: float
    high: float
    rival: str
    rival_ratio: float
    rival_db: float


def margin(ours: Evaluation, rows: Sequence[Row], most: float = math.inf, seed: int = 0) -> Margin | None:
    """How far a plan is above the best peer that spends at least as many FLOPs; None without one.

    A peer that spends up to 2% less counts too, so that equal numbers of computed steps are compared;
    one that spares next to nothing does not.

    Args:
        most: FLOPs of a rival, over the plan's.
    """
    about = ours.flops_ratio / MORE
    least = max(min(SPARING, about), ours.flops_ratio / most)
    rivals = [
        (row.result, row.method)
        for row in rows
        if row.result and not row.ours and least <= row.result.flops_ratio <= ours.flops_ratio * SAME_COST
    ]
    if not rivals:
        return None
    best, name = max(rivals, key=lambda pair: pair[0].psnr_db)
    paired = np.subtract(ours.psnr_db_each, best.psnr_db_each).tolist()
    return Margin(*interval(paired, seed), rival=name, rival_ratio=best.flops_ratio, rival_db=best.psnr_db)


def to_markdown(rows: Sequence[Row]) -> str:
    """What our plans gain, then every method, cheapest last."""
    seen = any(row.quality for row in rows)
    return f"{_gains(rows, seen)}\n{_everything(rows, seen)}"


def _gains(rows: Sequence[Row], seen: bool) -> str:
    head = ["plan", "FLOPs ratio", "wall ratio", "PSNR dB"]
    head += [f"best other way at up to {100 * MORE - 100:.0f} % more", "ahead by, dB (95 %)"]
    head += ["best of all that cost more", "ahead by, dB (95 %)"]
    head += ["on their own, the pictures are"] * seen
    lines = [_line(head), _line(["---"] + ["---:"] * 3 + ["---", "---:"] * 2 + ["---"] * seen)]
    ours = [(row, row.result) for row in rows if row.ours and row.result]
    for row, r in sorted(ours, key=lambda pair: pair[1].flops_ratio):
        cells = [row.method, f"{r.flops_ratio:.2f}", f"{r.wall_ratio:.2f}", f"**{r.psnr_db:.2f}**"]
        for most in (MORE, math.inf):
            cells += _against(margin(r, rows, most))
        worse = "worse than the full run's" if row.quality and row.quality.behind else "no worse than the full run's"
        lines.append(_line(cells + [worse if row.quality else ""] * seen))
    return "\n".join(lines) + "\n"


def _against(found: Margin | None) -> list[str]:
    if found is None:
        return ["none", ""]
    rival = f"{found.rival_db:.2f}, {found.rival} ({found.rival_ratio:.2f}x)"
    return [rival, f"{found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f})"]


def _everything(rows: Sequence[Row], seen: bool) -> str:
    measured = [(row, row.result) for row in rows if row.result is not None]
    head = ["method", "FLOPs ratio", "wall ratio", "peak MiB", "PSNR dB (worst)", "SSIM"]
    head += ["Fréchet, over the full run's", "recognised"] if seen else []
    lines = [_line(head), _line(["---"] + ["---:"] * (5 + 2 * seen))]
    for row, r in sorted(measured, key=lambda pair: pair[1].flops_ratio):
        cells = [
            f"**{row.method}**" if row.ours else row.method,
            f"{r.flops_ratio:.2f}",
            f"{r.wall_ratio:.2f}",
            "" if r.peak_bytes is None else f"{r.peak_bytes / 2**20:.0f}",
            f"{r.psnr_db:.2f} ({r.psnr_db_worst:.1f})",
            f"{r.ssim:.4f}",
        ]
        lines.append(_line(cells + (_judged(row.quality) if seen else [])))
    failed = [_line([row.method, "failed", row.error, *[""] * (len(head) - 3)]) for row in rows if row.result is None]
    return "\n".join(lines + failed) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _judged(found: Quality | None) -> list[str]:
    if found is None:
        return ["", ""]
    excess, low, high = found.frechet_excess
    worse = " worse" if found.behind else ""
    return [f"{found.frechet:.2f}, {excess:+.2f} ({low:+.2f} to {high:+.2f}){worse}", f"{100 * found.accuracy:.1f} %"]


def to_csv(rows: Sequence[Row]) -> str:
    """Every row, unrounded; failures have an error and no figures."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "family", *COLUMNS, *JUDGED, "error"])
    for row in rows:
        figures = [getattr(row.result, name) if row.result else "" for name in COLUMNS]
        figures += [getattr(row.quality, name) if row.quality else "" for name in JUDGED]
        writer.writerow([row.method, row.family, *figures, row.error])
    return text.getvalue()
