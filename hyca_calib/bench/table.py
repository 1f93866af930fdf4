"""What the bench found, as tables: for people, and for spreadsheets."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hyca_calib.bench.choice import MORE, SAME_COST, SPARING
from hyca_calib.bench.figures import Figures
from hyca_calib.bench.quality import Quality
from hyca_calib.bench.rows import Bench, Row
from hyca_calib.bench.sweep import best_at
from hyca_calib.quality.metrics import interval

__all__ = ["Margin", "margin", "to_csv", "to_markdown"]

FIGURES = (
    "flops_ratio",
    "psnr_db",
    "psnr_db_worst",
    "exact_db",
    "ssim",
    "ssim_worst",
    "latent_error",
)
TIMING = ("wall_ratio", "peak_bytes")
JUDGED = ("frechet", "accuracy")


@dataclass(frozen=True)
class Margin:
    """PSNR in dB above the best rival, sample by sample: mean and 95 % interval, prompts resampled."""

    mean: float
    low: float
    high: float
    rival: str
    rival_ratio: float
    rival_db: float


def margin(
    ours: Figures, rows: Sequence[Row], groups: Sequence[int] | None, most: float = math.inf, seed: int = 0
) -> Margin | None:
    """How far a plan is above the best rival that spends at least as many FLOPs; None without one.

    A rival that spends up to 2 % less counts too, so that equal numbers of computed steps are compared; one that
    spares next to nothing does not. The best is that of the test split, which favours the rival.

    Args:
        groups: the prompt of every sample; samples of one prompt are resampled together.
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
    mean, low, high = interval(paired, seed, groups)
    return Margin(mean, low, high, rival=name, rival_ratio=best.flops_ratio, rival_db=best.psnr_db)


def to_markdown(bench: Bench) -> str:
    """What our plans gain, what was tried of every family, then every method, cheapest last."""
    seen = any(row.quality for row in bench.rows)
    return "\n".join((_gains(bench, seen), _families(bench), _everything(bench.rows, seen)))


def _gains(bench: Bench, seen: bool) -> str:
    head = ["plan", "FLOPs ratio", "wall ratio", "PSNR dB"]
    head += [f"best other way at up to {100 * MORE - 100:.0f} % more", "ahead by, dB (95 %)"]
    head += ["best of all that cost more", "ahead by, dB (95 %)"]
    head += ["on their own, the pictures are"] * seen
    lines = [_line(head), _line(["---"] + ["---:"] * 3 + ["---", "---:"] * 2 + ["---"] * seen)]
    ours = [(row, row.result) for row in bench.rows if row.ours and row.result]
    for row, r in sorted(ours, key=lambda pair: pair[1].flops_ratio):
        cells = [row.method, f"{r.flops_ratio:.2f}", _wall(row), f"**{r.psnr_db:.2f}**"]
        for most in (MORE, math.inf):
            cells += _against(margin(r, bench.rows, bench.groups, most))
        lines.append(_line(cells + [_outcome(row.quality)] * seen))
    return "\n".join(lines) + "\n"


def _wall(row: Row) -> str:
    return f"{row.timing.wall_ratio:.2f}" if row.timing else ""


def _against(found: Margin | None) -> list[str]:
    if found is None:
        return ["none", ""]
    rival = f"{found.rival_db:.2f}, {found.rival} ({found.rival_ratio:.2f}x)"
    return [rival, f"{found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f})"]


def _outcome(found: Quality | None) -> str:
    return found.outcome if found else ""


def _families(bench: Bench) -> str:
    if not bench.sweeps:
        return ""
    lines = [_line(["family", "settings tried", "failed", "best at a cost", "beyond them", "source"])]
    lines.append(_line(["---", "---:", "---:", "---:", "---", "---"]))
    for one in bench.sweeps:
        failed = sum(bool(score.error) for score in one.tried)
        beyond = one.refused or "; ".join(one.open_ends) or "nothing: their neighbours were tried"
        lines.append(
            _line(
                [
                    one.family,
                    str(len(one.tried)),
                    str(failed),
                    str(len(best_at(one.tried, bench.costs))),
                    beyond,
                    one.source,
                ]
            )
        )
    return "\n".join(lines) + "\n"


def _everything(rows: Sequence[Row], seen: bool) -> str:
    measured = [(row, row.result) for row in rows if row.result is not None]
    head = ["method", "FLOPs ratio", "wall ratio", "peak MiB", "PSNR dB (worst)", "to the exact solution", "SSIM"]
    head += ["Fréchet, over the full run's", "recognised"] if seen else []
    lines = [_line(head), _line(["---"] + ["---:"] * (len(head) - 1))]
    for row, r in sorted(measured, key=lambda pair: pair[1].flops_ratio):
        peak = row.timing.peak_bytes if row.timing else None
        cells = [
            (f"**{row.method}**" if row.ours else row.method) + (f" (left another {row.note})" if row.note else ""),
            f"{r.flops_ratio:.2f}",
            _wall(row),
            "" if peak is None else f"{peak / 2**20:.0f}",
            f"{r.psnr_db:.2f} ({r.psnr_db_worst:.1f})",
            "" if r.exact_db is None else f"{r.exact_db:.2f}",
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
    return [f"{found.frechet:.2f}, {excess:+.2f} ({low:+.2f} to {high:+.2f})", f"{100 * found.accuracy:.1f} %"]


def to_csv(rows: Sequence[Row]) -> str:
    """Every row, unrounded; failures have an error and no figures."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "family", *FIGURES, *TIMING, *JUDGED, "note", "error"])
    for row in rows:
        parts = ((row.result, FIGURES), (row.timing, TIMING), (row.quality, JUDGED))
        figures = [getattr(part, name) if part else "" for part, names in parts for name in names]
        writer.writerow([row.method, row.family, *figures, row.note, row.error])
    return text.getvalue()
