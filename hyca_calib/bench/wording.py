"""Small forms of Markdown that every rendered figure uses."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["listed", "made_with", "signed", "table", "wrapped"]

WIDTH = 120
SHOWN = ("torch", "diffusers", "cache-dit")
"""Libraries that are named beside a figure; result files name more."""


def listed(names: Sequence[str]) -> str:
    """A, B and C."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def signed(value: float, digits: int = 1) -> str:
    """With its sign, and no minus before a zero."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def table(head: Sequence[str], align: str, rows: Iterable[Sequence[str]]) -> str:
    """A table; `align` has an l or an r for every column."""
    marks = ["---:" if side == "r" else "---" for side in align]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, marks, *rows))


def wrapped(text: str, bullet: str = "") -> str:
    """A paragraph, or an item that begins with `bullet`."""
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=bullet,
        subsequent_indent=" " * len(bullet),
        break_long_words=False,
        break_on_hyphens=False,
    )


def made_with(facts: dict[str, Any]) -> str:
    """Machine, software, day and code of a result file, see `hyca_calib.records.provenance`."""
    threads = facts["threads"]
    where = facts["processor"] if facts["device"] == "cpu" else facts["device"]
    software = [f"{name} {facts['versions'][name]}" for name in SHOWN if name in facts["versions"]]
    made = [where, f"{threads} CPU thread{'s' * (threads != 1)}", *software, facts["date"], f"commit {facts['commit']}"]
    return ", ".join(made)
