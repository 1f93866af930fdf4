"""Taking a plan elsewhere: where it holds, where it must be made again, and whether `check` can tell."""

from collections.abc import Sequence
from pathlib import Path

import torch

from hyca_calib.quality.metrics import interval, log_error
from hyca_calib.search.lineage import refinement_gain
from hyca_calib.search.rollout_error import to_db
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan
from studies.paper.chapter import Context, Numbers, Outline, Part
from studies.paper.drawing import ACCENT, INK, save, subplots
from studies.paper.rollouts import BUDGET
from studies.paper.transfer.outcomes import home_plan, outcome, traces_of
from studies.paper.transfer.situations import HOME, Situation, situations
from studies.paper.transfer.verdicts import WAYS, Row, rulings, tables

COLOURS = {"plan": ACCENT, "closed": "#f3a712", "refit": "#76b041", "redo": "#17bebb", "redone": INK}
FIGURE = "transfer.png"
CAPTION = "One plan in many situations, against what could be made there; 95 % intervals over test prompts."


def measure(context: Context) -> Part:
    """Traces, plans and outcomes are kept in the folder: an interrupted run goes on where it stopped."""
    todo = situations(context)
    context.tell(0.0, "searching the plan")
    plan = home_plan(context)
    rows = {name: outcome(context, plan, situation) for name, situation in context.in_turn(todo)}
    _draw(list(rows.values()), context.folder / FIGURE)
    facts = _facts(plan)
    opening = (
        f"One plan at {BUDGET}, searched offline and refined for {facts['iterations']} iterations (by "
        f"{facts['refined_db']:.1f} dB, to {facts['select_db']:.1f} dB on the select split), computes steps "
        f"{', '.join(map(str, facts['computed']))} of {facts['steps']}. Elsewhere it is applied as the runtime does "
        'with `on_mismatch="adapt"`: on another time grid its schedule is followed in time, and its closed forms '
        "forecast. What could be made there instead is fitted on a small trace of the situation; all refined plans had "
        "as many iterations."
    )
    copies = [_about_the_copy(context, todo[HOME], s) for s in todo.values() if s.kind == "weights"]
    return Part({"plan": facts, "situations": rows}, tables(rows), (opening, *copies))


def _about_the_copy(context: Context, home: Situation, copy: Situation) -> str:
    """How far a fine-tuned copy has moved from the model."""
    own, moved = (torch.from_numpy(Trace(traces_of(context, s)).latents_of("test")) for s in (home, copy))
    mean, low, high = interval([to_db(error) for error in log_error(moved, own).tolist()])
    return (
        "The fine-tuned copy learnt, without data, to draw the model's own pictures with red, green and blue moved on "
        f"by one. With the same prompts and noise its pictures are at {mean:.1f} dB ({low:.1f} to {high:.1f}) from the "
        "model's."
    )


def _facts(plan: Plan) -> Numbers:
    schedule, quality = plan.section.schedule, plan.section.quality
    return {
        "computed": list(schedule.computed_steps),
        "steps": schedule.num_steps,
        "iterations": plan.provenance.get("refinement", {}).get("iterations", 0),
        "refined_db": refinement_gain(plan),
        "select_db": quality.psnr_db if quality else 0.0,
    }


def _draw(rows: Sequence[Row], path: Path) -> None:
    """PSNR of every way in every situation, with 95 % intervals."""
    figure, ((axes,),) = subplots(1, 1, (9, 1.2 + 0.5 * len(rows)))
    for i, (way, label) in enumerate(WAYS.items()):
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


TRANSFER = Outline("Transfer of plans", ("demo",), measure, rulings, {FIGURE: CAPTION})
