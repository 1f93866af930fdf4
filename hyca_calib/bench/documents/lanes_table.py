"""Lanes of one sample beside plans alone, both, and fewer steps: a table, and what binds in words."""

from hyca_calib.lanes.results import LanesTable


def lanes_page(found: LanesTable) -> str:
    """One model."""
    return (
        "\n".join(
            f"{r.mean_db:.2f} {r.computed_passes} {r.passes} {r.kind} {r.way} {r.starts} {r.lane}" for r in found.rows
        )
        + "\n"
    )
