"""Verdicts on refinement, by what its ways reach on the same test samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hyca_calib.metrics import interval
from studies.paper.chapter import Claim, Verdict
from studies.paper.effects import Ratio, difference
from studies.paper.ruling import above, all_above, any_of, below, decide, listed, ruled, shared_level, told_db

MATTERS_DB = 0.2
FEW_DB = 0.46
"""A tenth of the squared error."""
FORM = "{}: {}"
DOZENS, MORE = "24", "48"
TEXTS = {
    "offline": f"Refinement through the rollout gains over {MATTERS_DB:g} dB on fitted taps and on every refit on the "
    "accelerated run's own history.",
    "rows": f"Rows for channels beat rows for groups (by over {MATTERS_DB:g} dB).",
    "loss": "The log error of the final latent is a better loss than each other that was tried.",
    "prompts": f"A few dozen prompts are enough (twice as many gain under {MATTERS_DB:g} dB more).",
    "joint": f"Schedule and taps are better sought in turns, or in a race, than one after the other (by over "
    f"{MATTERS_DB:g} dB, corrected for two).",
    "reach": "History per channel is nearly all that a linear forecast can use (a full linear map of all channels "
    "lowers the squared error by under 10 %).",
}


def claims(numbers: dict[str, Any]) -> tuple[Claim, ...]:
    """Verdicts of the chapter's numbers."""
    prompts = numbers.get("test_prompts")

    def latents(part: str, name: str) -> list[float]:
        found: list[float] = numbers[part][name]["latent_db"]
        return found

    def ahead(one: Sequence[float], other: Sequence[float], level: float = 0.95) -> Ratio:
        return difference(one, other, prompts, level)

    def offline() -> tuple[Verdict, str]:
        channel, before = latents("parameters", "channel"), numbers["before"]["latent_db"]
        rivals = {"fitted taps": before} | {name: latents("on policy", name) for name in numbers["on policy"]}
        found = {name: ahead(channel, other) for name, other in rivals.items()}
        return all_above(found.values(), MATTERS_DB), f"per channel, dB above {listed(found, FORM, told=told_db)}."

    def rows() -> tuple[Verdict, str]:
        found = ahead(latents("parameters", "channel"), latents("parameters", "16 groups"))
        return decide([above(found, MATTERS_DB)]), f"channels are {told_db(found)} dB above 16 groups."

    def loss() -> tuple[Verdict, str]:
        usual = "final latent, log"
        found = {n: ahead(latents("losses", usual), latents("losses", n)) for n in numbers["losses"] if n != usual}
        return all_above(found.values()), f"dB above {listed(found, FORM, told=told_db)}."

    def enough() -> tuple[Verdict, str]:
        found = ahead(latents("prompts", MORE), latents("prompts", DOZENS))
        fewer = {n: ahead(latents("prompts", n), numbers["before"]["latent_db"]) for n in numbers["prompts"]}
        return decide([below(found, MATTERS_DB)]), (
            f"{MORE} fit prompts gain {told_db(found)} dB on {DOZENS}; gain on fitted taps by number of fit prompts: "
            f"{listed(fewer, FORM, told=told_db)}."
        )

    def joint() -> tuple[Verdict, str]:
        ways, after = ("in turns", "race"), latents("joint", "climb, then refine")
        found = {way: ahead(latents("joint", way), after, shared_level(len(ways))) for way in ways}
        return (
            decide([any_of(above(cell, MATTERS_DB) for cell in found.values())]),
            f"dB above climbing first: {listed(found, FORM, told=told_db)}.",
        )

    def reach() -> tuple[Verdict, str]:
        steps = numbers["reach_db"]
        found = interval([row["mixing of all channels"] for row in steps.values()])
        return decide([below(found, FEW_DB)]), (
            f"the map would lower it by {told_db(found)} dB (interval over {len(steps)} forecast steps; its ridge is "
            "chosen in its favour), for as many weights a channel as there are channels."
        )

    rules = {"offline": offline, "rows": rows, "loss": loss, "prompts": enough, "joint": joint, "reach": reach}
    return tuple(ruled(TEXTS[name], rule) for name, rule in rules.items())
