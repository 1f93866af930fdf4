"""Several budgets of one search on one page: what each costs, and what it keeps."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import pyplot

from hyca_calib.records.atomic import write_text
from hyca_calib.report.drawing import INK, bare, save
from hyca_calib.report.figures import ReportFigures, figures_in
from hyca_calib.report.steps import told_by_chunk, told_points, told_steps
from hyca_runtime import Plan
from hyca_runtime.network_plan import NetworkPlan

SPACES = (
    "All to the full run, samples of the select split. The first is of what the pipeline draws, on the samples of the "
    "report; the second of the final latents, before the decoder, on all samples: what the search goes by."
)


def write_front(plans: Sequence[tuple[Path, Plan]], folder: Path) -> Path:
    """Write ``front.md`` and ``front.png`` into `folder`; returns the path of the page.

    Args:
        plans: each with its path inside `folder`.
    """
    found = [(path, plan, figures_in(path.parent)) for path, plan in plans]
    rows = sorted((_ratio(plan, figures), path, plan, figures) for path, plan, figures in found)
    drawn = [(ratio, figures) for ratio, _, _, figures in rows if figures]
    measure = next((figures.measure for _, figures in drawn), "PSNR")
    lines = [
        f"| FLOPs ratio | computed steps | point | {measure}, dB | latent PSNR, dB | plan |",
        "|---:|---:|---|---:|---:|---|",
    ]
    for ratio, path, plan, figures in rows:
        computed, points = told_by_chunk(plan, _computed), told_by_chunk(plan, told_points)
        section = plan.sections[0]  # what is said of quality is the same for all chunks
        seen = f"{figures.agreement_db:.1f}" if figures else ""
        latent = f"{section.quality.psnr_db:.1f}" if section.quality else ""
        where = path.relative_to(folder).as_posix()
        lines.append(f"| {ratio:.2f}x | {computed} | {points} | {seen} | {latent} | [{where}]({where}) |")
    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot([ratio for ratio, _ in drawn], [figures.agreement_db for _, figures in drawn], "o-", color=INK)
    axes.set(xlabel="FLOPs of the full run over FLOPs of the plan", ylabel=f"{measure} to the full run, dB")
    bare(axes)
    save(figure, folder / "front.png", dpi=150)
    page = folder / "front.md"
    write_text(
        page, f"# Pareto front\n\n![{measure} by FLOPs ratio](front.png)\n\n{SPACES}\n\n" + "\n".join(lines) + "\n"
    )
    return page


def _computed(section: NetworkPlan) -> str:
    return told_steps(section).removesuffix(" steps")


def _ratio(plan: Plan, figures: ReportFigures | None) -> float:
    """What a plan says that it saves; where chunks have sections of their own, what it saved on the report's clips."""
    section = plan.sections[0]
    if len(plan.sections) > 1 and figures:
        return figures.flops_ratio
    return section.flops_ratio or section.schedule.num_steps / len(section.schedule.computed_steps)
