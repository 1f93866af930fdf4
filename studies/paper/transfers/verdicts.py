"""What the outcomes say: tables and claims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hyca_calib.quality.metrics import interval
from studies.paper.chapter import Claim, Table
from studies.paper.effects import apart, difference
from studies.paper.ruling import above, all_above, all_below, below, decide

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


def gain(row: Row, over: str = "plan", of: str = "redone") -> tuple[float, float, float]:
    """dB gained sample by sample, mean and 95 % interval."""
    return difference(row["psnr_db"][of], row["psnr_db"][over], row.get("prompts"))


def psnr_table(rows: Sequence[Row]) -> Table:
    """PSNR of every way in every situation."""
    cells = {}
    for row in rows:
        psnr, check = row["psnr_db"], row["check"]
        shown = [_spread(interval(psnr[way], 0, row.get("prompts"))) if way in psnr else "-" for way in WAYS]
        cells[row["name"]] = (f"{len(check['computed'])} of {check['num_steps']}", *shown)
    caption = (
        "PSNR of final latents to the full run of the same situation, dB, mean and 95 % interval over "
        f"{len(rows[0]['psnr_db']['plan'])} test prompts."
    )
    return Table.of(caption, ("situation", "computed steps", *WAYS.values()), cells)


def verdict_table(rows: Sequence[Row]) -> Table:
    """What the check expects beside what rollouts measure."""
    cells = {}
    for row in rows:
        told = [
            cell
            for found in (row["check"], row["measured"])
            for cell in (f"{found['taps_db']:.1f} and {found['schedule_db']:+.1f}", found["verdict"])
        ]
        redone = _spread(gain(row)) if "redone" in row["psnr_db"] else "-"
        cells[row["name"]] = (", ".join(row["check"]["changes"]) or "nothing", *told, redone)
    head = ("situation", "what differs", "expected gains, dB", "check", "measured gains, dB", "rollouts", "redone")
    caption = (
        "Gains of fitting the taps again and of a new schedule beyond that: expected by `check` from the statistics of "
        "a small trace, and measured by rollouts with unrefined taps, to which the plan's own gain by refinement is "
        "added. The last column is the measured gain of making the plan again, refined, with its 95 % interval."
    )
    return Table.of(caption, head, cells)


def claims(rows: Sequence[Row]) -> tuple[Claim, ...]:
    """Verdicts by what making the plan again gains on the same test samples."""
    found = [_unseen(rows)] if {OWN_PROMPTS, UNSEEN} <= {row["name"] for row in rows} else []
    for kind, text in LASTS.items():
        if members := [row for row in rows if row["kind"] == kind]:
            found.append(Claim(text, all_below(map(gain, members), WORTH_DB), _evidence(members)))
    steps = [row for row in rows if row["kind"] == "steps"]
    needed = all_above(map(gain, steps), WORTH_DB)
    found.append(Claim("A plan must be made again for other numbers of steps.", needed, _evidence(steps)))
    large = [row for row in rows if "refined here" in row["psnr_db"]]
    found += [_small_to_large(row, home) for row in large for home in rows if home["kind"] == "nothing"]
    return (*found, _agreement(rows))


def _unseen(rows: Sequence[Row]) -> Claim:
    """The same plan on prompts that it was made on, with other noise, and on others."""
    own, unseen = (
        next(row["psnr_db"]["plan"] for row in rows if row["name"] == name) for name in (OWN_PROMPTS, UNSEEN)
    )
    found = apart(unseen, own)
    evidence = f"PSNR on unseen prompts less that on its own, both with other noise: {_spread(found)} dB."
    text = f"A plan is as good on unseen prompts as on its own (at most {WORTH_DB:g} dB lower)."
    return Claim(text, decide([above(found, -WORTH_DB)]), evidence)


def _small_to_large(row: Row, home: Row) -> Claim:
    gained = gain(row, of="refined here")
    evidence = (
        f"with its schedule, taps fitted and refined at {row['name']} gain {_spread(gained)} dB on the plan's, which "
        f"are {_spread(gain(row, 'refit', 'plan'))} dB above taps only fitted there, and at their own size "
        f"{_spread(gain(home, 'refit', 'plan'))} dB; a network call costs {row['relative_flops']:.1f} times as much "
        "there, so does every iteration."
    )
    verdict = decide([below(gained, WORTH_DB)])
    return Claim("Taps refined at a small resolution serve a large one.", verdict, evidence)


def _agreement(rows: Sequence[Row]) -> Claim:
    """By whether making the plan again surely was worth the work, or surely was not."""
    again = [row for row in rows if "redone" in row["psnr_db"]]
    met = [_foretold(row) for row in again]
    told, measured = ([row[by]["verdict"] for row in rows] for by in ("check", "measured"))
    same = [a == b for a, b in zip(told, measured, strict=True)]
    right = [(a == "holds") == (b == "holds") for a, b in zip(told, measured, strict=True)]
    evidence = (
        f"of {len(again)} situations in which the plan was made again it tells {met.count(True)} rightly as worth the "
        f"work or not, {met.count(False)} wrongly, {met.count(None)} are open; of all {len(rows)} it tells "
        f"{sum(right)} as rollouts with fitted taps do, {sum(same)} with their remedy."
    )
    text = "`check` tells from statistics alone where making a plan again is worth the work."
    return Claim(text, decide(met), evidence)


def _foretold(row: Row) -> bool | None:
    needless = below(gain(row), WORTH_DB)
    return None if needless is None else needless == (row["check"]["verdict"] == "holds")


def _evidence(rows: Sequence[Row]) -> str:
    told = "; ".join(f"{row['name']} {_spread(gain(row))}" for row in rows)
    return f"making it again gains, in dB: {told}. Worth the work: {WORTH_DB:g} dB."


def _spread(found: tuple[float, float, float]) -> str:
    return f"{found[0]:.1f} ({found[1]:.1f} to {found[2]:.1f})"
