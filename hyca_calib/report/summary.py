"""What a report says, in a few lines for a terminal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from hyca_calib.report.wall import Wall

__all__ = ["Summary"]


@dataclass(frozen=True)
class Summary:
    """One plan beside what costs as much.

    Attributes:
        plan: its name.
        page: where the report is.
    """

    plan: str
    page: Path
    wall: Wall

    @property
    def gain_db(self) -> float | None:
        """How far the plan is above the best rival; None without one."""
        return self.wall.plan.mean_db - self.wall.rivals[0].mean_db if self.wall.rivals else None

    def table(self) -> Table:
        """The plan and its rivals, for people at a terminal."""
        wall = self.wall
        faster, held = wall.full.seconds / wall.plan.seconds, wall.cache_bytes / 2**20
        caption = f"{faster:.1f}x faster here, {held:.3g} MiB of features held"
        found = Table("", "computes", "FLOPs", "PSNR to the full run", title=self.plan, caption=caption)
        for tile in (wall.plan, *wall.rivals):
            style = "bold" if tile is wall.plan else ""
            found.add_row(tile.name, tile.told, f"1/{tile.flops_ratio:.2f}", f"{tile.mean_db:.1f} dB", style=style)
        return found
