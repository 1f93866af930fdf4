"""What the bench found, as tables beside its results: for people, and for spreadsheets."""

import csv
import io
import math
from collections.abc import Sequence

from hyca_calib.bench.documents.markdown import lead_cells, table
from hyca_calib.bench.lead import lead
from hyca_calib.bench.picture_quality import PictureQuality
from hyca_calib.bench.results import Bench, Row
from hyca_calib.bench.sweep import best_at
from hyca_calib.costs.same_cost import MORE
from hyca_calib.quality.metrics import Measure

FIGURES = (
    *("flops_ratio", "psnr_db", "psnr_db_worst", "exact_db", "ssim", "ssim_worst"),
    *("signal_to_error_db", "signal_to_error_db_worst", "latent_error"),
)
TIMING = ("wall_ratio", "peak_bytes")
JUDGED = ("frechet", "accuracy")
SHOWN_ENDS = 2
"""Open ends of a sweep that its line names; how many more there are is told."""


def to_markdown(bench: Bench) -> str:
    """What our plans gain, what was tried of every family, then every method, cheapest last."""
    seen = any(row.quality for row in bench.rows)
    parts = (_gains(bench, seen), _families(bench), _everything(bench.rows, seen))
    return "\n\n".join(part for part in parts if part) + "\n"


def measure_of(rows: Sequence[Row]) -> Measure:
    """What the agreement of these rows is told as."""
    return next((row.result.measure for row in rows if row.result), "PSNR")


def _gains(bench: Bench, seen: bool) -> str:
    head = ["plan", "FLOPs ratio", "wall ratio", f"{measure_of(bench.rows)} dB"]
    head += [f"best other way at up to {100 * MORE - 100:.0f} % more", "ahead by, dB (95 %)"]
    head += ["best of all that cost more", "ahead by, dB (95 %)"]
    head += ["on their own, the pictures are"] * seen
    lines = []
    ours = [(row, row.result) for row in bench.rows if row.ours and row.result]
    for row, r in sorted(ours, key=lambda pair: pair[1].flops_ratio):
        cells = [row.method, f"{r.flops_ratio:.2f}", _wall(row), f"**{r.agreement_db:.2f}**"]
        for most in (MORE, math.inf):
            cells += lead_cells(lead(r, bench.rows, bench.groups, most), 2)
        lines.append(cells + [row.quality.outcome if row.quality else ""] * seen)
    return table(head, "lrrrlrlr" + "l" * seen, lines)


def _wall(row: Row) -> str:
    return f"{row.timing.wall_ratio:.2f}" if row.timing else ""


def _families(bench: Bench) -> str:
    lines = []
    for one in bench.sweeps:
        counts = len(one.tried), sum(bool(score.error) for score in one.tried), len(best_at(one.tried, bench.costs))
        beyond = one.refused or _beyond(one.open_ends) or "nothing: their neighbours were tried"
        lines.append([one.family, *map(str, counts), beyond, one.source])
    head = ["family", "settings tried", "failed", "best at a cost", "beyond them", "source"]
    return table(head, "lrrrll", lines) if lines else ""


def _beyond(ends: Sequence[str]) -> str:
    """The first open ends, and how many more there are."""
    more = len(ends) - SHOWN_ENDS
    return "; ".join([*ends[:SHOWN_ENDS], *([f"and {more} more"] if more > 0 else [])])


def _everything(rows: Sequence[Row], seen: bool) -> str:
    measured = [(row, row.result) for row in rows if row.result is not None]
    head = ["method", "FLOPs ratio", "wall ratio", "peak MiB", f"{measure_of(rows)} dB (worst)"]
    head += ["to the exact solution", "SSIM"]
    head += ["Fréchet, over the full run's", "recognised"] if seen else []
    lines = []
    for row, r in sorted(measured, key=lambda pair: pair[1].flops_ratio):
        peak = row.timing.peak_bytes if row.timing else None
        cells = [
            (f"**{row.method}**" if row.ours else row.method) + (f" (left another {row.note})" if row.note else ""),
            f"{r.flops_ratio:.2f}",
            _wall(row),
            "" if peak is None else f"{peak / 2**20:.0f}",
            f"{r.agreement_db:.2f} ({r.agreement_db_worst:.1f})",
            "" if r.exact_db is None else f"{r.exact_db:.2f}",
            "" if r.ssim is None else f"{r.ssim:.4f}",
        ]
        lines.append(cells + (_judged(row.quality) if seen else []))
    failed = [[row.method, "failed", row.error, *[""] * (len(head) - 3)] for row in rows if row.result is None]
    return table(head, "l" + "r" * (len(head) - 1), lines + failed)


def _judged(found: PictureQuality | None) -> list[str]:
    if found is None:
        return ["", ""]
    excess, low, high = found.frechet_excess
    recognised = "" if found.accuracy is None else f"{100 * found.accuracy:.1f} %"
    return [f"{found.frechet:.2f}, {excess:+.2f} ({low:+.2f} to {high:+.2f})", recognised]


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
