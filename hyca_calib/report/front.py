"""Several budgets of one search on one page: what each costs, and what it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib import pyplot

from hyca_calib.records.atomic import write_text
from hyca_calib.report.drawing import INK, bare, save
from hyca_runtime import Plan


def write_front(plans: Sequence[tuple[Path, Plan]], folder: Path) -> Path:
    """Write ``front.md`` and ``front.png`` into `folder`; returns the path of the page.

    Args:
        plans: each with its path inside `folder`.
    """
    rows = sorted((_ratio(plan), path, plan.section) for path, plan in plans)
    lines = ["| FLOPs ratio | computed steps | point | PSNR on select, dB | plan |", "|---:|---:|---|---:|---|"]
    for ratio, path, section in rows:
        computed = f"{len(section.schedule.computed_steps)} of {section.schedule.num_steps}"
        psnr = f"{section.quality.psnr_db:.2f}" if section.quality else ""
        where = path.relative_to(folder).as_posix()
        lines.append(f"| {ratio:.2f}x | {computed} | {section.point} | {psnr} | [{where}]({where}) |")
    measured = [(ratio, section.quality.psnr_db) for ratio, _, section in rows if section.quality]
    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot([ratio for ratio, _ in measured], [psnr for _, psnr in measured], "o-", color=INK)
    axes.set(xlabel="FLOPs of the full run over FLOPs of the plan", ylabel="PSNR to the full run, dB")
    bare(axes)
    save(figure, folder / "front.png", dpi=150)
    page = folder / "front.md"
    write_text(page, "# Pareto front\n\n![PSNR by FLOPs ratio](front.png)\n\n" + "\n".join(lines) + "\n")
    return page


def _ratio(plan: Plan) -> float:
    section = plan.section
    if section.cost:
        return section.cost.flops_ratio
    return section.schedule.num_steps / len(section.schedule.computed_steps)
