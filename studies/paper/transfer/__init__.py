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
from studies.paper.intervals import Ratio
from studies.paper.rollouts import BUDGET
from studies.paper.transfer.outcomes import home_plan, outcome, traces_of
from studies.paper.transfer.situations import HOME, Situation, situations
from studies.paper.transfer.verdicts import WAYS, Row, rulings, tables
from studies.paper.words import paragraphs

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
    text = paragraphs("transfer", "opening", budget=BUDGET, plan=facts)
    for copy in (situation for situation in todo.values() if situation.kind == "weights"):
        text += paragraphs("transfer", "copy", apart=_apart(context, todo[HOME], copy))
    return Part({"plan": facts, "situations": rows}, tables(rows), text)


def _apart(context: Context, home: Situation, copy: Situation) -> Ratio:
    """How far a fine-tuned copy has moved from the model, in dB of PSNR."""
    own, moved = (torch.from_numpy(Trace(traces_of(context, s)).latents_of("test")) for s in (home, copy))
    return interval([to_db(error) for error in log_error(moved, own).tolist()])


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
