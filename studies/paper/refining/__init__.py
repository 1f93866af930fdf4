"""End-to-end refinement of the taps: what to refine, on which loss, on how many prompts, at which price."""

from collections.abc import Callable
from typing import Any

import numpy as np

from hyca_calib.quality.metrics import interval, prompt_groups
from studies.paper.chapter import Context, Numbers, Outline, Part, Rulings, Table
from studies.paper.intervals import Ratio, all_above, all_below, difference, shared_level, some_above
from studies.paper.refining.joint import jointly
from studies.paper.refining.least_squares import reach, refitted
from studies.paper.refining.price import TFLOPS_PER_CALL, WEIGHTS_GIB, price
from studies.paper.refining.setup import KEPT, RefinementSetup, refinement_setup
from studies.paper.refining.variants import losses, parameterisations
from studies.paper.rollouts import BUDGET
from studies.paper.words import claims, paragraphs, table

PARTS = ("parameters", "losses", "prompts", "joint", "on policy")
PROMPTS = (3, 6, 12, 24, 48)
ROUNDS = 2
MATTERS_DB = 0.2
FEW_DB = 0.46
"""A tenth of the squared error."""
DOZENS, MORE = "24", "48"
UNKNOWN = (np.nan, -np.inf, np.inf)
"""A gain where there are too few prompts to measure it."""
USUAL_LOSS = "final latent, log"
HEAD = ("PSNR of latents on test, dB", "95 %", "gain over fitted taps, dB", "95 % ")


def measure(context: Context) -> Part:
    """Every refinement is kept in the folder: an interrupted run goes on where it stopped."""
    setup = refinement_setup(context)
    before = setup.judge(setup.start, setup.test)
    parts: dict[str, Callable[[], Any]] = {
        "parameters": lambda: {
            name: setup.refined(f"parameters {name}", start) for name, start in parameterisations(setup).items()
        },
        "losses": lambda: {name: setup.refined(f"loss {name}", objective=make) for name, make in losses(setup).items()},
        "prompts": lambda: {
            str(count): setup.refined(f"prompts {count}", prompts=count)
            for count in PROMPTS
            if count <= len(setup.fit.jobs)
        },
        "joint": lambda: jointly(setup),
        "on policy": lambda: context.kept(f"{KEPT}/on-policy", lambda: _on_policy(setup)),
        "reach_db": lambda: context.kept(f"{KEPT}/reach", lambda: _reach(setup)),
        "price": lambda: context.kept(f"{KEPT}/price", lambda: price(setup)),
    }
    found = {name: work() for name, work in context.in_turn(parts)}
    facts = {"computed": setup.candidate.schedule.computed_steps, "settings": setup.settings, "budget": BUDGET}
    facts |= {"test": len(setup.test.jobs), "before": interval(before["latent_db"])[0], "price": found["price"]}
    text = paragraphs("refinement", "opening", **facts, tflops=TFLOPS_PER_CALL, weights=WEIGHTS_GIB)
    numbers = found | {"before": before, "test_prompts": prompt_groups(setup.test.jobs)}
    return Part(numbers, tables(numbers), text)


def _on_policy(setup: RefinementSetup) -> dict[str, dict[str, Any]]:
    """Fitted taps, then rounds of refitting on the accelerated run's own history."""
    found, taps = {}, setup.start
    for turn in range(1, ROUNDS + 1):
        taps = refitted(setup, taps)
        found[f"refitted {turn}x"] = setup.judge(taps, setup.test)
    return found


def _reach(setup: RefinementSetup) -> dict[str, dict[str, float]]:
    """At the middle and the end of every gap."""
    computed, steps = setup.section.schedule.computed_steps, setup.section.schedule.num_steps
    targets = []
    for a, b in zip(computed, [*computed[1:], steps], strict=True):
        targets += sorted({(a + b) // 2, b - 1} - {a})
    return {str(target): reach(setup, target) for target in (targets[:1] if setup.context.quick else targets)}


def tables(numbers: Numbers) -> tuple[Table, ...]:
    """One for each part, and what a linear map could reach."""
    limits = numbers["reach_db"]
    cells = {name: interval([of[name] for of in limits.values()]) for name in next(iter(limits.values()))}
    reached = table("refinement", "reached", cells, steps=limits)
    return (*(_table(name, numbers) for name in PARTS), reached)


def _table(part: str, numbers: Numbers) -> Table:
    rows = []
    before, prompts = numbers["before"]["latent_db"], numbers.get("test_prompts")
    for name, row in numbers[part].items():
        psnr, low, high = interval(row["latent_db"], 0, prompts)
        gain, least, most = difference(row["latent_db"], before, prompts)
        on_fit = float(np.mean(row["fit_db"])) if "fit_db" in row else "-"
        clipped = float(np.mean(row["picture_db"]))
        spread, sure = f"{low:.2f} to {high:.2f}", f"{least:+.2f} to {most:+.2f}"
        rows.append((name, row.get("numbers", "-"), psnr, spread, gain, sure, on_fit, clipped))
    columns = (part, "numbers", *HEAD, "on fit prompts, dB", "clipped pictures, dB")
    return Table(f"{part.capitalize()}.", columns, tuple(rows))


def rulings(numbers: Numbers) -> Rulings:
    """By what the ways of refining reach on the same test samples."""
    before, ways, losses, prompts, joint = (numbers[x] for x in ("before", "parameters", "losses", "prompts", "joint"))

    def gain(row: Numbers, other: Numbers, level: float = 0.95) -> Ratio:
        return difference(row["latent_db"], other["latent_db"], numbers.get("test_prompts"), level)

    offline = {n: gain(ways["channel"], row) for n, row in ({"fitted taps": before} | numbers["on policy"]).items()}
    rows = gain(ways["channel"], ways["16 groups"])
    loss = {name: gain(losses[USUAL_LOSS], row) for name, row in losses.items() if name != USUAL_LOSS}
    fewer = {name: gain(row, before) for name, row in prompts.items()}
    more = gain(prompts[MORE], prompts[DOZENS]) if MORE in prompts else UNKNOWN
    together = {way: gain(joint[way], joint["climb, then refine"], shared_level(2)) for way in ("in turns", "race")}
    mixing = interval([row["mixing of all channels"] for row in numbers["reach_db"].values()])
    verdicts = {
        "rollout": all_above(offline.values(), MATTERS_DB),
        "rows": all_above([rows], MATTERS_DB),
        "loss": all_above(loss.values()),
        "dozens": all_below([more], MATTERS_DB),
        "joint": some_above(together.values(), MATTERS_DB),
        "history": all_below([mixing], FEW_DB),
    }
    facts = {"offline": offline, "rows": rows, "loss": loss, "more": more, "fewer": fewer, "together": together}
    return claims("refinement", verdicts, **facts, mixing=mixing, reach_db=numbers["reach_db"], matters=MATTERS_DB)


REFINEMENT = Outline("Refinement of the taps by gradient", ("demo",), measure, rulings)
