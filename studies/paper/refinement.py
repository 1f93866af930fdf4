"""End-to-end refinement of the taps: what to refine, on which loss, on how many prompts, at which price."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hyca_calib.metrics import interval
from studies.paper.chapter import Chapter, Context, Table, finished, kept
from studies.paper.effects import difference
from studies.paper.loop.joint import WAYS, joint
from studies.paper.loop.limits import reach
from studies.paper.loop.on_policy import refitted
from studies.paper.loop.price import FLUX, price
from studies.paper.loop.refined import claims
from studies.paper.loop.refinement_setup import BUDGET, RefinementSetup, refinement_setup
from studies.paper.loop.variants import losses, parameterisations

PARTS = ("parameters", "losses", "prompts", "joint", "on policy")
PROMPTS = (3, 6, 12, 24, 48)
ROUNDS = 2
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
            "test_prompts": setup.test.prompts,
        },
    )
    return finished(chapter, claims, tables)


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
