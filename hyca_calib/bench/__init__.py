"""Plans and peers side by side, in one run, on one set of prompts."""

from hyca_calib.bench.figure import Dot, draw_front
from hyca_calib.bench.published import PUBLISHED, published_plans
from hyca_calib.bench.run import OURS, Reference, Row, bench_peers, bench_plans
from hyca_calib.bench.table import MORE, SAME_COST, SPARING, Margin, margin, to_csv, to_markdown

__all__ = [
    "MORE",
    "OURS",
    "PUBLISHED",
    "SAME_COST",
    "SPARING",
    "Dot",
    "Margin",
    "Reference",
    "Row",
    "bench_peers",
    "bench_plans",
    "draw_front",
    "margin",
    "published_plans",
    "to_csv",
    "to_markdown",
]
