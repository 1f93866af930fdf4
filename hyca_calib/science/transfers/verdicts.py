"""What the outcomes say: tables and claims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hyca_calib.science.chapter import Claim, Table, Verdict, interval

__all__ = ["WAYS", "claims", "gain", "psnr_table", "verdict_table"]

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
MOSTLY = 0.75
LASTS = {
    "samples": "A plan holds on other seeds and on unseen prompts.",
    "guidance": "A plan holds under other guidance.",
    "resolution": "A plan holds at another resolution.",
    "weights": "A plan holds on a fine-tuned copy of its model.",
}


def gain(row: Row, over: str = "plan", of: str = "redone") -> tuple[float, float, float]:
    """dB gained sample by sample, mean and 95 % interval."""
    return interval([a - b for a, b in zip(row["psnr_db"][of], row["psnr_db"][over], strict=True)])


def psnr_table(rows: Sequence[Row]) -> Table:
    """PSNR of every way in every situation."""
    lines = []
    for row in rows:
        shown = [_spread(interval(row["psnr_db"][way])) if way in row["psnr_db"] else "-" for way in WAYS]
        check = row["check"]
        lines.append((row["name"], f"{len(check['computed'])} of {check['num_steps']}", *shown))
    caption = (
        "PSNR of final latents to the full run of the same situation, dB, mean and 95 % interval over "
        f"{len(rows[0]['psnr_db']['plan'])} test prompts."
    )
    return Table(caption, ("situation", "computed steps", *WAYS.values()), tuple(lines))


def verdict_table(rows: Sequence[Row]) -> Table:
    """What the check expects beside what rollouts measure."""
    lines = []
    for row in rows:
        check, measured = row["check"], row["measured"]
        shown = _spread(gain(row)) if "redone" in row["psnr_db"] else "-"
        lines.append(
            (
                row["name"],
                ", ".join(check["changes"]) or "nothing",
                f"{check['taps_db']:.1f} and {check['schedule_db']:+.1f}",
                check["verdict"],
                f"{measured['taps_db']:.1f} and {measured['schedule_db']:+.1f}",
                measured["verdict"],
                shown,
            )
        )
    head = ("situation", "what differs", "expected gains, dB", "check", "measured gains, dB", "rollouts", "redone")
    caption = (
        "Gains of fitting the taps again and of a new schedule beyond that: expected by `check` from the statistics of "
        "a small trace, and measured by rollouts with unrefined taps, to which the plan's own gain by refinement is "
        "added. The last column is the measured gain of making the plan again, refined, with its 95 % interval."
    )
    return Table(caption, head, tuple(lines))


def claims(rows: Sequence[Row]) -> tuple[Claim, ...]:
    """Verdicts by the 95 % interval of what making the plan again gains."""
    found = []
    for kind, text in LASTS.items():
        if members := [row for row in rows if row["kind"] == kind]:
            found.append(Claim(text, _verdict([gain(row) for row in members]), _evidence(members)))
    steps = [row for row in rows if row["kind"] == "steps"]
    needed = _verdict([(-mean, -high, -low) for mean, low, high in map(gain, steps)], worth=-WORTH_DB)
    found.append(Claim("A plan must be made again for other numbers of steps.", needed, _evidence(steps)))
    large = [row for row in rows if "refined here" in row["psnr_db"]]
    found += [_small_to_large(row, home) for row in large for home in rows if home["kind"] == "nothing"]
    return (*found, _agreement(rows))


def _small_to_large(row: Row, home: Row) -> Claim:
    gained = gain(row, of="refined here")
    evidence = (
        f"with its schedule, taps fitted and refined at {row['name']} gain {_spread(gained)} dB on the plan's, which "
        f"are {_spread(gain(row, 'refit', 'plan'))} dB above taps only fitted there, and at their own size "
        f"{_spread(gain(home, 'refit', 'plan'))} dB; a network call costs {row['relative_flops']:.1f} times as much "
        "there, so does every iteration."
    )
    return Claim("Taps refined at a small resolution serve a large one.", _verdict([gained]), evidence)


def _agreement(rows: Sequence[Row]) -> Claim:
    told, measured = ([row[by]["verdict"] for row in rows] for by in ("check", "measured"))
    again = [row for row in rows if "redone" in row["psnr_db"]]
    same = [a == b for a, b in zip(told, measured, strict=True)]
    right = [(a == "holds") == (b == "holds") for a, b in zip(told, measured, strict=True)]
    earned = [(row["check"]["verdict"] == "holds") == (gain(row)[0] <= WORTH_DB) for row in again]
    shares = [sum(found) / len(found) for found in (right, earned)]
    verdict: Verdict = "holds" if all(same + earned) else "partly" if min(shares) >= MOSTLY else "fails"
    evidence = (
        f"of {len(rows)} situations it tells {sum(right)} as rollouts with fitted taps do, {sum(same)} with their "
        f"remedy; of {len(again)} in which the plan was made again it tells {sum(earned)} rightly as worth the work or "
        "not."
    )
    return Claim("`check` tells from statistics alone where a plan holds and what to do where not.", verdict, evidence)


def _verdict(gains: Sequence[tuple[float, float, float]], worth: float = WORTH_DB) -> Verdict:
    """Holds if no gain can be worth the work, fails if all must be."""
    if all(high <= worth for _, _, high in gains):
        return "holds"
    return "fails" if all(low > worth for _, low, _ in gains) else "partly"


def _evidence(rows: Sequence[Row]) -> str:
    told = "; ".join(f"{row['name']} {_spread(gain(row))}" for row in rows)
    return f"making it again gains, in dB: {told}. Worth the work: {WORTH_DB:g} dB."


def _spread(found: tuple[float, float, float]) -> str:
    return f"{found[0]:.1f} ({found[1]:.1f} to {found[2]:.1f})"
