"""End-to-end refinement of the taps: what to refine, on which loss, on how many prompts, at which price."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hyca_calib.quality.metrics import interval, prompt_groups
from studies.paper.chapter import Chapter, Claim, Context, Table, Verdict, finished, kept
from studies.paper.effects import Ratio, difference
from studies.paper.loop.joint import WAYS, joint
from studies.paper.loop.limits import reach
from studies.paper.loop.on_policy import refitted
from studies.paper.loop.price import FLUX, price
from studies.paper.loop.refinement_setup import BUDGET, RefinementSetup, refinement_setup
from studies.paper.loop.variants import losses, parameterisations
from studies.paper.ruling import above, all_above, any_of, below, decide, listed, ruled, shared_level, told_db

PARTS = ("parameters", "losses", "prompts", "joint", "on policy")
PROMPTS = (3, 6, 12, 24, 48)
ROUNDS = 2
MATTERS_DB = 0.2
FEW_DB = 0.46
"""A tenth of the squared error."""
DOZENS, MORE = "24", "48"
HEAD = ("PSNR of latents on test, dB", "95 %", "gain over fitted taps, dB", "95 % ")


def refinement(context: Context) -> Chapter:
    """The chapter. Every refinement is kept in the folder: an interrupted run goes on where it stopped."""
    setup = refinement_setup(context)
    before = setup.judge(setup.start, setup.test)
    parts: dict[str, Callable[[], dict[str, dict[str, Any]]]] = {
        "parameters": lambda: {
            name: setup.refined(f"parameters {name}", parameters)
            for name, parameters in parameterisations(setup).items()
        },
        "losses": lambda: {name: setup.refined(f"loss {name}", objective=make) for name, make in losses(setup).items()},
        "prompts": lambda: {
            str(count): setup.refined(f"prompts {count}", prompts=count)
            for count in PROMPTS
            if count <= len(setup.fit.jobs)
        },
        "joint": lambda: {way: joint(setup, way) for way in WAYS},
        "on policy": lambda: kept(setup.folder / "on-policy.json", lambda: _on_policy(setup)),
    }
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for i, (name, work) in enumerate(parts.items()):
        context.tell(i / (len(parts) + 2), name)
        found[name] = work()
    context.tell(1 - 2 / (len(parts) + 2), "what a linear map could reach")
    limits = kept(setup.folder / "reach.json", lambda: _reach(setup))
    context.tell(1 - 1 / (len(parts) + 2), "price")
    costs = kept(setup.folder / "price.json", lambda: price(setup))
    chapter = Chapter(
        name="refinement",
        title="Refinement of the taps by gradient",
        text=(_opening(setup, before), _arithmetic(costs)),
        numbers={
            **found,
            "before": before,
            "reach_db": limits,
            "price": costs,
            "test_prompts": prompt_groups(setup.test.jobs),
        },
    )
    return finished(chapter, claims, tables)


def claims(numbers: dict[str, Any]) -> tuple[Claim, ...]:
    """Verdicts by what the ways of refining reach on the same test samples."""

    def ahead(part: str, name: str, other: list[float], level: float = 0.95) -> Ratio:
        return difference(numbers[part][name]["latent_db"], other, numbers.get("test_prompts"), level)

    def listed_db(found: dict[str, Ratio]) -> str:
        return listed(found, "{}: {}", told=told_db)

    def offline() -> tuple[Verdict, str]:
        rivals = {"fitted taps": numbers["before"]} | numbers["on policy"]
        found = {name: ahead("parameters", "channel", rival["latent_db"]) for name, rival in rivals.items()}
        return all_above(found.values(), MATTERS_DB), f"per channel, dB above {listed_db(found)}."

    def rows() -> tuple[Verdict, str]:
        found = ahead("parameters", "channel", numbers["parameters"]["16 groups"]["latent_db"])
        return all_above([found], MATTERS_DB), f"channels are {told_db(found)} dB above 16 groups."

    def loss() -> tuple[Verdict, str]:
        usual, tried = "final latent, log", numbers["losses"]
        found = {name: ahead("losses", usual, tried[name]["latent_db"]) for name in tried if name != usual}
        return all_above(found.values()), f"dB above {listed_db(found)}."

    def enough() -> tuple[Verdict, str]:
        found = ahead("prompts", MORE, numbers["prompts"][DOZENS]["latent_db"])
        fewer = {name: ahead("prompts", name, numbers["before"]["latent_db"]) for name in numbers["prompts"]}
        return decide([below(found, MATTERS_DB)]), (
            f"{MORE} fit prompts gain {told_db(found)} dB on {DOZENS}; gain on fitted taps by number of fit prompts: "
            f"{listed_db(fewer)}."
        )

    def jointly() -> tuple[Verdict, str]:
        ways, after = ("in turns", "race"), numbers["joint"]["climb, then refine"]["latent_db"]
        found = {way: ahead("joint", way, after, shared_level(len(ways))) for way in ways}
        verdict = decide([any_of(above(cell, MATTERS_DB) for cell in found.values())])
        return verdict, f"dB above climbing first: {listed_db(found)}."

    def mixing() -> tuple[Verdict, str]:
        steps = numbers["reach_db"]
        found = interval([row["mixing of all channels"] for row in steps.values()])
        return decide([below(found, FEW_DB)]), (
            f"the map would lower it by {told_db(found)} dB (interval over {len(steps)} forecast steps; its ridge is "
            "chosen in its favour), for as many weights a channel as there are channels."
        )

    rules = {
        f"Refinement through the rollout gains over {MATTERS_DB:g} dB on fitted taps and on every refit on the "
        "accelerated run's own history.": offline,
        f"Rows for channels beat rows for groups (by over {MATTERS_DB:g} dB).": rows,
        "The log error of the final latent is a better loss than each other that was tried.": loss,
        f"A few dozen prompts are enough (twice as many gain under {MATTERS_DB:g} dB more).": enough,
        "Schedule and taps are better sought in turns, or in a race, than one after the other (by over "
        f"{MATTERS_DB:g} dB, corrected for two).": jointly,
        "History per channel is nearly all that a linear forecast can use (a full linear map of all channels lowers "
        "the squared error by under 10 %).": mixing,
    }
    return tuple(ruled(text, rule) for text, rule in rules.items())


def tables(numbers: dict[str, Any]) -> tuple[Table, ...]:
    """One for each part, and what a linear map could reach."""
    return (*(_table(name, numbers) for name in PARTS), _reach_table(numbers["reach_db"]))


def _opening(setup: RefinementSetup, before: dict[str, list[float]]) -> str:
    computed = ", ".join(map(str, setup.candidate.schedule.computed_steps))
    return (
        f"Offline optimum at {BUDGET} (steps {computed} computed), {setup.settings.iterations} iterations of "
        f"{setup.settings.batch} fit prompts each unless said otherwise, judged on {len(setup.test.jobs)} test "
        f"prompts. Fitted taps: {interval(before['latent_db'])[0]:.2f} dB."
    )


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


def _table(part: str, numbers: dict[str, Any]) -> Table:
    cells = {}
    before, prompts = numbers["before"]["latent_db"], numbers.get("test_prompts")
    for name, row in numbers[part].items():
        psnr, low, high = interval(row["latent_db"], 0, prompts)
        gain, least, most = difference(row["latent_db"], before, prompts)
        on_fit = float(np.mean(row["fit_db"])) if "fit_db" in row else "-"
        clipped = float(np.mean(row["picture_db"]))
        spread, sure = f"{low:.2f} to {high:.2f}", f"{least:+.2f} to {most:+.2f}"
        cells[name] = (row.get("numbers", "-"), psnr, spread, gain, sure, on_fit, clipped)
    columns = (part, "numbers", *HEAD, "on fit prompts, dB", "clipped pictures, dB")
    return Table.of(f"{part.capitalize()}.", columns, cells)


def _reach_table(limits: dict[str, dict[str, float]]) -> Table:
    names = list(next(iter(limits.values())))
    cells = {name: interval([limits[target][name] for target in limits]) for name in names}
    caption = (
        "What else a linear forecast could use: held-out dB gained over taps of history 3 per channel, mean over "
        f"steps {', '.join(limits)}; ridges and ranks of the mixing chosen in its favour."
    )
    return Table.of(caption, ("regressors", "gain, dB", "95 % from", "to"), cells)


def _arithmetic(costs: dict[str, Any]) -> str:
    flux, seconds, kept = costs["flux"], costs["seconds"], costs["bytes"]
    return (
        f"One sample here: a rollout takes {seconds['rollout']:.2f} s, an iteration {seconds['iteration']:.2f} s and "
        f"{kept['whole rollout'] / 2**20:.0f} MiB of activations, checkpointed by network call "
        f"{seconds['iteration, checkpointed']:.2f} s and {kept['between calls'] / 2**20:.1f} MiB between calls. By the "
        f"same ratios FLUX.1-dev at 1024 x 1024 in bfloat16 ({FLUX['tflops_per_call']} TFLOPs a call) needs "
        f"{flux['pflops_per_sample_and_iteration']:.1f} PFLOPs for a sample and iteration, and beside "
        f"{FLUX['weights_gib']} GiB of weights {flux['gib_whole_rollout']:.0f} GiB of activations for a whole rollout, "
        f"{flux['gib_one_call']:.0f} GiB checkpointed by call, {flux['gib_one_call_checkpointed_by_block']:.1f} GiB "
        "checkpointed by block as well. On paper: no such run was made."
    )
