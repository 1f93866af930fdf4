"""What the outcomes say: tables and claims."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hyca_calib.quality.metrics import interval
from studies.paper.chapter import Numbers, Ruling, Rulings, Table, Verdict
from studies.paper.intervals import Ratio, all_above, all_below, apart, below, decide, difference, told

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
LASTS = {
    "guidance": "A plan holds under other guidance.",
    "resolution": "A plan holds at another resolution.",
    "weights": "A plan holds on a fine-tuned copy of its model.",
}


def gain(row: Row, over: str = "plan", of: str = "redone") -> Ratio:
    """dB gained sample by sample, mean and 95 % interval."""
    return difference(row["psnr_db"][of], row["psnr_db"][over], row.get("prompts"))


def tables(situations: dict[str, Row]) -> tuple[Table, Table]:
    """PSNR of every way in every situation; what the check expects beside what rollouts measure."""
    psnr, verdicts = {}, {}
    for name, row in situations.items():
        reached, check, measured = row["psnr_db"], row["check"], row["measured"]
        known = {way: _spread(interval(reached[way], 0, row.get("prompts"))) for way in WAYS if way in reached}
        psnr[name] = (f"{len(check['computed'])} of {check['num_steps']}", *(known.get(way, "-") for way in WAYS))
        gains = [f"{found['taps_db']:.1f} and {found['schedule_db']:+.1f}" for found in (check, measured)]
        redone = _spread(gain(row)) if "redone" in reached else "-"
        differs = ", ".join(check["changes"]) or "nothing"
        verdicts[name] = (differs, gains[0], check["verdict"], gains[1], measured["verdict"], redone)
    samples = len(next(iter(situations.values()))["psnr_db"]["plan"])
    head = ("situation", "what differs", "expected gains, dB", "check", "measured gains, dB", "rollouts", "redone")
    return (
        Table.of(
            "PSNR of final latents to the full run of the same situation, dB, mean and 95 % interval over "
            f"{samples} test prompts.",
            ("situation", "computed steps", *WAYS.values()),
            psnr,
        ),
        Table.of(
            "Gains of fitting the taps again and of a new schedule beyond that: expected by `check` from the "
            "statistics of a small trace, and measured by rollouts with unrefined taps, to which the plan's own gain "
            "by refinement is added. The last column is the measured gain of making the plan again, refined, with its "
            "95 % interval.",
            head,
            verdicts,
        ),
    )


def rulings(numbers: Numbers) -> Rulings:
    """By what making the plan again gains on the same test samples."""
    rows = list(numbers["situations"].values())
    kinds = {kind: [row for row in rows if row["kind"] == kind] for kind in {row["kind"] for row in rows}}
    plans = {row["name"]: row["psnr_db"]["plan"] for row in rows}
    found: Rulings = {}
    if {OWN_PROMPTS, UNSEEN} <= set(plans):
        text = f"A plan is as good on unseen prompts as on its own (at most {WORTH_DB:g} dB lower)."
        found[text] = _unseen(plans[UNSEEN], plans[OWN_PROMPTS])
    for kind, text in LASTS.items():
        if kind in kinds:
            found[text] = _again(kinds[kind], all_below)
    found["A plan must be made again for other numbers of steps."] = _again(kinds["steps"], all_above)
    for row in (row for row in rows if "refined here" in row["psnr_db"]):
        found["Taps refined at a small resolution serve a large one."] = _small_to_large(row, kinds["nothing"][0])
    text = "`check` tells from statistics alone where making a plan again is worth the work."
    return found | {text: _agreement(rows)}


def _unseen(unseen: list[float], own: list[float]) -> Ruling:
    """The same plan on prompts that it was made on, with other noise, and on others."""
    found = apart(unseen, own)
    evidence = f"PSNR on unseen prompts less that on its own, both with other noise: {_spread(found)} dB."
    return all_above([found], -WORTH_DB), evidence


def _again(rows: Sequence[Row], rule: Callable[..., Verdict]) -> Ruling:
    gains = "; ".join(f"{row['name']} {_spread(gain(row))}" for row in rows)
    evidence = f"making it again gains, in dB: {gains}. Worth the work: {WORTH_DB:g} dB."
    return rule(map(gain, rows), WORTH_DB), evidence


def _small_to_large(row: Row, home: Row) -> Ruling:
    gained = gain(row, of="refined here")
    return all_below([gained], WORTH_DB), (
        f"with its schedule, taps fitted and refined at {row['name']} gain {_spread(gained)} dB on the plan's, which "
        f"are {_spread(gain(row, 'refit', 'plan'))} dB above taps only fitted there, and at their own size "
        f"{_spread(gain(home, 'refit', 'plan'))} dB; a network call costs {row['relative_flops']:.1f} times as much "
        "there, so does every iteration."
    )


def _agreement(rows: Sequence[Row]) -> Ruling:
    """By whether making the plan again surely was worth the work, or surely was not."""
    needless = [(row, below(gain(row), WORTH_DB)) for row in rows if "redone" in row["psnr_db"]]
    met = [None if sure is None else sure == (row["check"]["verdict"] == "holds") for row, sure in needless]
    pairs = [(row["check"]["verdict"], row["measured"]["verdict"]) for row in rows]
    right = sum((check == "holds") == (measured == "holds") for check, measured in pairs)
    return decide(met), (
        f"of {len(met)} situations in which the plan was made again it tells {met.count(True)} rightly as worth the "
        f"work or not, {met.count(False)} wrongly, {met.count(None)} are open; of all {len(rows)} it tells "
        f"{right} as rollouts with fitted taps do, {sum(check == measured for check, measured in pairs)} with their "
        "remedy."
    )


_spread = partial(told, form="{:.1f}")
