"""The study: chapters done one after the other, with a bar for each; or its page decided again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hyca_calib.console import growing
from hyca_calib.science.page import render
from hyca_calib.science.study import Study

__all__ = ["reproduce_study"]


def reproduce_study(
    only: Sequence[str], work: Path, out: Path, seed: int, quick: bool, render_only: bool = False
) -> Path:
    """``hyca_calib reproduce``; returns the path of the page.

    Args:
        render_only: sample nothing; decide the numbers that are kept in `out` by today's rules.
    """
    if render_only:
        return render(out)
    study = Study(work, out, seed, **({"samples": 14, "steps": 12} if quick else {}), quick=quick)
    with growing() as tell:
        return study.make(only, tell)
