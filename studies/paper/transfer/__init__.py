"""Taking a plan elsewhere: where it holds, where it must be made again, and whether `check` can tell."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hyca_calib.quality.metrics import interval, log_error
from hyca_calib.search.lineage import refinement_gain
from hyca_calib.search.rollout_error import to_db
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan
from studies.paper.chapter import Context, Numbers, Outline, Part, Rulings, Table, Verdict
from studies.paper.drawing import ACCENT, INK, save, subplots
from studies.paper.intervals import Ratio, all_above, all_below, apart, below, decide, difference
from studies.paper.rollouts import BUDGET
from studies.paper.transfer.outcomes import home_plan, outcome, traces_of
from studies.paper.transfer.situations import HOME, OWN_PROMPTS, UNSEEN, Situation, situations
from studies.paper.words import claims, paragraphs, spread, table

Row = dict[str, Any]

WAYS = {
    "plan": "plan",
    "closed": "its closed forms",
    "refit": "taps fitted there",
    "redo": "schedule and taps made there",
    "redone": "the better of both, refined",
}
WORTH_DB = 1.0
"""What making a plan again must gain to be worth the work."""
LASTS = "guidance", "resolution", "weights"
"""Kinds of situations in which a plan is said to hold."""

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


def gain(row: Row, over: str = "plan", of: str = "redone") -> Ratio:
    """dB gained sample by sample, mean and 95 % interval."""
    return difference(row["psnr_db"][of], row["psnr_db"][over], row.get("prompts"))


def tables(situations: dict[str, Row]) -> tuple[Table, Table]:
    """PSNR of every way in every situation; what the check expects beside what rollouts measure."""
    psnr, verdicts = {}, {}
    for name, row in situations.items():
        reached, check, measured = row["psnr_db"], row["check"], row["measured"]
        known = {way: spread(interval(reached[way], 0, row.get("prompts"))) for way in WAYS if way in reached}
        psnr[name] = (f"{len(check['computed'])} of {check['num_steps']}", *(known.get(way, "-") for way in WAYS))
        gains = [f"{found['taps_db']:.1f} and {found['schedule_db']:+.1f}" for found in (check, measured)]
        redone = spread(gain(row)) if "redone" in reached else "-"
        differs = ", ".join(check["changes"]) or "nothing"
        verdicts[name] = (differs, gains[0], check["verdict"], gains[1], measured["verdict"], redone)
    samples = len(next(iter(situations.values()))["psnr_db"]["plan"])
    found = table("transfer", "psnr", psnr, samples=samples, columns=WAYS.values())
    return found, table("transfer", "gains", verdicts)


def rulings(numbers: Numbers) -> Rulings:
    """By what making the plan again gains on the same test samples."""
    rows = list(numbers["situations"].values())
    gains = {k: [(row["name"], gain(row)) for row in rows if row["kind"] == k] for k in (*LASTS, "steps")}
    plans = {row["name"]: row["psnr_db"]["plan"] for row in rows}
    verdicts, facts = dict[str, Verdict](), dict[str, Any](gains=gains, worth=WORTH_DB, rows=rows)
    if {OWN_PROMPTS, UNSEEN} <= set(plans):
        facts["unseen"] = apart(plans[UNSEEN], plans[OWN_PROMPTS])
        verdicts["unseen"] = all_above([facts["unseen"]], -WORTH_DB)
    verdicts |= {kind: all_below((found for _, found in gains[kind]), WORTH_DB) for kind in LASTS if gains[kind]}
    verdicts["steps"] = all_above((found for _, found in gains["steps"]), WORTH_DB)
    for row in (row for row in rows if "refined here" in row["psnr_db"]):
        home = next(row for row in rows if row["kind"] == "nothing")
        facts |= {"row": row, "refined": gain(row, of="refined here")}
        facts |= {"fitted": gain(row, "refit", "plan"), "at_home": gain(home, "refit", "plan")}
        verdicts["small"] = all_below([facts["refined"]], WORTH_DB)
    needless = [(row["check"]["verdict"], below(gain(row), WORTH_DB)) for row in rows if "redone" in row["psnr_db"]]
    met = [None if sure is None else sure == (check == "holds") for check, sure in needless]
    verdicts["check"] = decide(met)
    pairs = [(row["check"]["verdict"], row["measured"]["verdict"]) for row in rows]
    right = sum((check == "holds") == (measured == "holds") for check, measured in pairs)
    remedies = sum(check == measured for check, measured in pairs)
    return claims("transfer", verdicts, **facts, met=met, right=right, remedies=remedies)


TRANSFER = Outline("Transfer of plans", ("demo",), measure, rulings, {FIGURE: CAPTION})
