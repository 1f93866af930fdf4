"""What a report says, in a few lines for a terminal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rich.table import Table

from hyca_calib.report.wall import Tile, Wall
from hyca_runtime import Plan

__all__ = ["Summary"]


@dataclass(frozen=True)
class Summary:
    """One plan beside what costs as much.

    Attributes:
        page: where the report is.
        rows: name, what it computes, FLOPs ratio, PSNR in dB; the plan first.
        cache_bytes: features held during the run.
        wall_ratio: seconds of the full run over those of the plan.
    """

    plan: str
    page: Path
    rows: tuple[tuple[str, str, float, float], ...]
    cache_bytes: int
    wall_ratio: float

    @classmethod
    def of(cls, plan: Plan, wall: Wall, page: Path) -> Self:
        rows = tuple(_row(tile) for tile in (wall.plan, *wall.rivals))
        return cls(plan.name, page, rows, wall.cache_bytes, wall.full.seconds / wall.plan.seconds)

    @property
    def gain_db(self) -> float | None:
        """Above the best rival; None without one."""
        others = [row[3] for row in self.rows[1:]]
        return self.rows[0][3] - max(others) if others else None

    def table(self) -> Table:
        """For people at a terminal."""
        told = f"{self.wall_ratio:.1f}x faster here, {self.cache_bytes / 2**20:.3g} MiB of features held"
        found = Table("", "computes", "FLOPs", "PSNR to the full run", title=self.plan, caption=told)
        for i, (name, told, ratio, psnr) in enumerate(self.rows):
            style = "bold" if i == 0 else ""
            found.add_row(name, told, f"1/{ratio:.2f}", f"{psnr:.1f} dB", style=style)
        return found


def _row(tile: Tile) -> tuple[str, str, float, float]:
    return tile.name, tile.told, tile.flops_ratio, tile.mean_db
