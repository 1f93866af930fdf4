"""What the outcomes say: tables and claims."""

from typing import Any

from hyca_calib.quality.metrics import interval
from studies.paper.chapter import Numbers, Rulings, Table, Verdict
from studies.paper.intervals import Ratio, all_above, all_below, apart, below, decide, difference
from studies.paper.words import claims, spread, table

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
OWN_PROMPTS, UNSEEN = "other seeds", "unseen prompts"
"""Situations: prompts that the plan was made on, and others."""
LASTS = "guidance", "resolution", "weights"
"""Kinds of situations in which a plan is said to hold."""


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
