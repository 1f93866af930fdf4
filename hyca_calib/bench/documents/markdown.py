"""Small forms of Markdown that every rendered figure uses."""

import textwrap
from collections.abc import Iterable, Sequence

from hyca_calib.bench.lead import Lead
from hyca_calib.records.provenance import Provenance

WIDTH = 120
SHOWN = ("torch", "diffusers", "cache-dit")
"""Libraries that are named beside a figure; result files name more."""


def listed(names: Sequence[str]) -> str:
    """Names with commas between them, and an "and" before the last."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign, and no minus before a zero."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def table(head: Sequence[str], align: str, rows: Iterable[Sequence[str]]) -> str:
    """A table; `align` has an l or an r for every column."""
    marks = ["---:" if side == "r" else "---" for side in align]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, marks, *rows))


def wrapped(text: str, bullet: str = "") -> str:
    """A paragraph, or an item that begins with `bullet`."""
    indent = " " * len(bullet)
    return textwrap.TextWrapper(WIDTH, bullet, indent, break_long_words=False, break_on_hyphens=False).fill(text)


def lead_cells(found: Lead | None, digits: int) -> list[str]:
    """Two cells of a table: the best baseline, and how far a plan is ahead of it, with its interval."""
    if found is None:
        return ["none", ""]
    mean, low, high = (signed(value, digits) for value in (found.mean, found.low, found.high))
    best = f"{found.baseline_db:.{digits}f}, {found.baseline} ({found.baseline_ratio:.2f}x)"
    return [best, f"{mean} ({low} to {high})"]


def made_with(facts: Provenance) -> str:
    """Machine, software, day and code of a result."""
    where = facts.processor if facts.device == "cpu" else facts.device
    threads = f"{facts.threads} CPU thread{'s' * (facts.threads != 1)}"
    software = [f"{name} {facts.versions[name]}" for name in SHOWN if name in facts.versions]
    return ", ".join([where, threads, *software, facts.date, f"commit {facts.commit}"])
