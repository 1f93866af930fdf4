"""Several budgets of one search on one page: what each costs, and what it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

from hyca_runtime import Plan

matplotlib.use("Agg")

from matplotlib import pyplot

__all__ = ["write_front"]

INK = "#1b2a41"


def write_front(plans: Sequence[tuple[Path, Plan]], folder: Path) -> Path:
    """Write ``front.md`` and ``front.png`` into `folder`; returns the path of the page.

    Args:
        plans: each with its path inside `folder`.
    """
    rows = sorted((_ratio(plan), path, plan) for path, plan in plans)
    lines = ["| FLOPs ratio | computed steps | point | PSNR on select, dB | plan |", "|---:|---:|---|---:|---|"]
    for ratio, path, plan in rows:
        schedule, quality = plan.section.schedule, plan.section.quality
        computed = f"{len(schedule.computed_steps)} of {schedule.num_steps}"
        psnr = f"{quality.psnr_db:.2f}" if quality else ""
        where = path.relative_to(folder).as_posix()
        lines.append(f"| {ratio:.2f}x | {computed} | {plan.section.point} | {psnr} | [{where}]({where}) |")
    measured = [(ratio, plan.section.quality.psnr_db) for ratio, _, plan in rows if plan.section.quality]
    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot([ratio for ratio, _ in measured], [psnr for _, psnr in measured], "o-", color=INK)
    axes.set(xlabel="FLOPs of the full run over FLOPs of the plan", ylabel="PSNR to the full run, dB")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / "front.png", dpi=150)
    pyplot.close(figure)
    page = folder / "front.md"
    page.write_text("# Pareto front\n\n![PSNR by FLOPs ratio](front.png)\n\n" + "\n".join(lines) + "\n")
    return page


def _ratio(plan: Plan) -> float:
    section = plan.section
    if section.cost:
        return section.cost.flops_ratio
    return section.schedule.num_steps / len(section.schedule.computed_steps)
