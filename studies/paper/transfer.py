"""Taking a plan elsewhere: where it holds, where it must be made again, and whether `check` can tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hyca_calib.quality.metrics import interval, log_error
from hyca_calib.search.lineage import refinement_gain
from hyca_calib.search.rollout_error import to_db
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan
from studies.paper.chapter import Chapter, Claim, Context, Table, finished
from studies.paper.drawing import ACCENT, INK, save, subplots
from studies.paper.transfers import verdicts
from studies.paper.transfers.outcomes import BUDGET, home_plan, outcome
from studies.paper.transfers.situations import HOME, Situation, situations

COLOURS = {"plan": ACCENT, "closed": "#f3a712", "refit": "#76b041", "redo": "#17bebb", "redone": INK}
FIGURE = "transfer.png"
CAPTION = "One plan in many situations, against what could be made there; 95 % intervals over test prompts."


def transfer(context: Context) -> Chapter:
    """The chapter. Traces, plans and outcomes are kept in the folder: an interrupted run goes on where it stopped."""
    todo = situations(context)
    context.tell(0.0, "searching the plan")
    plan = home_plan(context)
    rows = []
    for i, situation in enumerate(todo):
        context.tell((i + 1) / (len(todo) + 1), situation.name)
        rows.append(outcome(context, plan, situation))
    _draw(rows, context.folder / FIGURE)
    chapter = Chapter(
        name="transfer",
        title="Transfer of plans",
        text=(_opening(plan), *_about_the_copy(context, todo)),
        figures=((FIGURE, CAPTION),),
        numbers={"plan": _facts(plan), "situations": {row["name"]: row for row in rows}},
    )
    return finished(chapter, claims, tables)


def claims(numbers: dict[str, Any]) -> tuple[Claim, ...]:
    """Verdicts by the situations."""
    return verdicts.claims(list(numbers["situations"].values()))


def tables(numbers: dict[str, Any]) -> tuple[Table, ...]:
    """PSNR of every way, and what the check foretells."""
    rows = list(numbers["situations"].values())
    return verdicts.psnr_table(rows), verdicts.verdict_table(rows)


def _opening(plan: Plan) -> str:
    facts = _facts(plan)
    return (
        f"One plan at {BUDGET}, searched offline and refined for {facts['iterations']} iterations (by "
        f"{facts['refined_db']:.1f} dB, to {facts['select_db']:.1f} dB on the select split), computes steps "
        f"{', '.join(map(str, facts['computed']))} of {facts['steps']}. Elsewhere it is applied as the runtime does "
        'with `on_mismatch="adapt"`: on another time grid its schedule is followed in time, and its closed forms '
        "forecast. What could be made there instead is fitted on a small trace of the situation; all refined plans had "
        "as many iterations."
    )


def _about_the_copy(context: Context, todo: Sequence[Situation]) -> tuple[str, ...]:
    """How far a fine-tuned copy has moved from the model."""
    copies = [s for s in todo if s.kind == "weights"]
    if not copies:
        return ()
    own, moved = (
        torch.from_numpy(Trace(context.folder / "traces" / f"{s.slug}.zarr").latents_of("test"))
        for s in (next(s for s in todo if s.name == HOME), copies[0])
    )
    mean, low, high = interval([to_db(error) for error in log_error(moved, own).tolist()])
    told = (
        "The fine-tuned copy learnt, without data, to draw the model's own pictures with red, green and blue moved on "
        f"by one. With the same prompts and noise its pictures are at {mean:.1f} dB ({low:.1f} to {high:.1f}) from the "
        "model's."
    )
    return (told,)


def _facts(plan: Plan) -> dict[str, Any]:
    schedule, quality = plan.section.schedule, plan.section.quality
    return {
        "computed": list(schedule.computed_steps),
        "steps": schedule.num_steps,
        "iterations": plan.provenance.get("refinement", {}).get("iterations", 0),
        "refined_db": refinement_gain(plan),
        "select_db": quality.psnr_db if quality else 0.0,
    }


def _draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """PSNR of every way in every situation, with 95 % intervals."""
    figure, ((axes,),) = subplots(1, 1, (9, 1.2 + 0.5 * len(rows)))
    for i, (way, label) in enumerate(verdicts.WAYS.items()):
        known = [(place, interval(row["psnr_db"][way])) for place, row in enumerate(rows) if way in row["psnr_db"]]
        means = [mean for _, (mean, _, _) in known]
        errors = [[m - low for _, (m, low, _) in known], [high - m for _, (m, _, high) in known]]
        places = [place + 0.13 * (i - 2) for place, _ in known]
        axes.errorbar(means, places, xerr=errors, fmt="o", markersize=4, color=COLOURS[way], label=label)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("PSNR of final latents, dB")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8)
    save(figure, path)
