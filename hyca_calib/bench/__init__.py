"""Plans and rivals side by side, in one run, on one set of prompts."""

from hyca_calib.bench.choice import MORE, SAME_COST, SPARING, costs_of, windows
from hyca_calib.bench.figure import Dot, draw_front
from hyca_calib.bench.figures import Figures
from hyca_calib.bench.isolation import CleanPipeline
from hyca_calib.bench.rows import OURS, Bench, Row, read_bench
from hyca_calib.bench.run import Comparison
from hyca_calib.bench.table import Margin, margin, to_csv, to_markdown

__all__ = [
    "MORE",
    "OURS",
    "SAME_COST",
    "SPARING",
    "Bench",
    "CleanPipeline",
    "Comparison",
    "Dot",
    "Figures",
    "Margin",
    "Row",
    "costs_of",
    "draw_front",
    "margin",
    "read_bench",
    "to_csv",
    "to_markdown",
    "windows",
]
