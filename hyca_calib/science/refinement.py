"""End-to-end refinement of the taps: what to refine, on which loss, on how many prompts, at which price."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hyca_calib.science.chapter import Chapter, Claim, Context, Table, interval
from hyca_calib.science.loop.bed import BUDGET, Bed, bed_of
from hyca_calib.science.loop.joint import WAYS, joint
from hyca_calib.science.loop.limits import reach
from hyca_calib.science.loop.losses import losses
from hyca_calib.science.loop.on_policy import refitted
from hyca_calib.science.loop.parameters import parameterisations
from hyca_calib.science.loop.price import FLUX, price

__all__ = ["refinement"]

PROMPTS = (3, 6, 12, 24, 48)
ROUNDS = 2
MATTERS_DB = 0.2
HEAD = ("PSNR of latents on test, dB", "95 %", "gain over fitted taps, dB", "95 % ")


def refinement(context: Context) -> Chapter:
    """The chapter. Every refinement is kept in the folder: an interrupted run goes on where it stopped."""
    bed = bed_of(context)
    before = bed.judge(bed.start, bed.test)
    parts: dict[str, Callable[[], dict[str, dict[str, Any]]]] = {
        "parameters": lambda: {
            name: bed.refined(f"parameters {name}", parameters) for name, parameters in parameterisations(bed).items()
        },
        "losses": lambda: {name: bed.refined(f"loss {name}", objective=make) for name, make in losses(bed).items()},
        "prompts": lambda: {
            str(count): bed.refined(f"prompts {count}", prompts=count)
            for count in PROMPTS
            if count <= len(bed.fit.jobs)
        },
        "joint": lambda: {way: joint(bed, way) for way in WAYS},
        "on policy": lambda: _kept(bed.folder / "on-policy.json", lambda: _on_policy(bed)),
    }
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for i, (name, work) in enumerate(parts.items()):
        context.tell(i / (len(parts) + 2), name)
        found[name] = work()
    context.tell(1 - 2 / (len(parts) + 2), "what a linear map could reach")
    limits = _kept(bed.folder / "reach.json", lambda: _reach(bed))
    context.tell(1 - 1 / (len(parts) + 2), "price")
    costs = _kept(bed.folder / "price.json", lambda: price(bed))
    return Chapter(
        name="refinement",
        title="Refinement of the taps by gradient",
        text=(_opening(bed, before), _arithmetic(costs)),
        tables=(
            *(_table(f"{name.capitalize()}.", name, rows, before) for name, rows in found.items()),
            _reach_table(limits),
        ),
        claims=_claims(found, before, limits),
        numbers={**found, "before": before, "reach_db": limits, "price": costs},
    )


def _opening(bed: Bed, before: dict[str, list[float]]) -> str:
    computed = ", ".join(map(str, bed.candidate.schedule.computed_steps))
    return (
        f"Offline optimum at {BUDGET} (steps {computed} computed), {bed.settings.iterations} iterations of "
        f"{bed.settings.batch} fit prompts each unless said otherwise, judged on {len(bed.test.jobs)} test prompts. "
        f"Fitted taps: {interval(before['latent_db'])[0]:.2f} dB."
    )


def _kept(path: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(work()))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _on_policy(bed: Bed) -> dict[str, dict[str, Any]]:
    """Fitted taps, then rounds of refitting on the accelerated run's own history."""
    found, taps = {}, bed.start
    for turn in range(1, ROUNDS + 1):
        taps = refitted(bed, taps)
        found[f"refitted {turn}x"] = bed.judge(taps, bed.test)
    return found


def _reach(bed: Bed) -> dict[str, dict[str, float]]:
    """At the middle and the end of every gap."""
    computed, steps = bed.section.schedule.computed_steps, bed.section.schedule.num_steps
    targets = []
    for a, b in zip(computed, [*computed[1:], steps], strict=True):
        targets += sorted({(a + b) // 2, b - 1} - {a})
    return {str(target): reach(bed, target) for target in (targets[:1] if bed.context.quick else targets)}


def _gain(row: dict[str, Any], before: dict[str, list[float]]) -> list[float]:
    """dB of each test sample above fitted taps."""
    return [a - b for a, b in zip(row["latent_db"], before["latent_db"], strict=True)]


def _table(caption: str, head: str, rows: dict[str, dict[str, Any]], before: dict[str, list[float]]) -> Table:
    lines: list[tuple[str | float, ...]] = []
    for name, row in rows.items():
        (psnr, low, high), (gain, least, most) = interval(row["latent_db"]), interval(_gain(row, before))
        on_fit = float(np.mean(row["fit_db"])) if "fit_db" in row else "-"
        clipped = float(np.mean(row["picture_db"]))
        spread, sure = f"{low:.2f} to {high:.2f}", f"{least:+.2f} to {most:+.2f}"
        lines.append((name, row.get("numbers", "-"), psnr, spread, gain, sure, on_fit, clipped))
    columns = (head, "numbers", *HEAD, "on fit prompts, dB", "clipped pictures, dB")
    return Table(caption, columns, tuple(lines))


def _reach_table(limits: dict[str, dict[str, float]]) -> Table:
    names = list(next(iter(limits.values())))
    rows = tuple((name, *interval([limits[target][name] for target in limits])) for name in names)
    caption = (
        "What else a linear forecast could use: held-out dB gained over taps of history 3 per channel, mean over "
        f"steps {', '.join(limits)}; ridges and ranks of the mixing chosen in its favour."
    )
    return Table(caption, ("regressors", "gain, dB", "95 % from", "to"), rows)


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


def _claims(
    found: dict[str, dict[str, dict[str, Any]]], before: dict[str, list[float]], limits: dict[str, dict[str, float]]
) -> tuple[Claim, ...]:
    gains = {part: {name: interval(_gain(row, before)) for name, row in rows.items()} for part, rows in found.items()}
    channel, group = gains["parameters"]["channel"], gains["parameters"]["16 groups"]
    best = max(gains["parameters"], key=lambda name: gains["parameters"][name][0])
    loss = max(gains["losses"], key=lambda name: gains["losses"][name][0])
    usual = gains["losses"]["final latent, log"][0]
    counts = {int(name): value[0] for name, value in gains["prompts"].items()}
    enough = min(count for count, value in counts.items() if value > max(counts.values()) - MATTERS_DB)
    ways = {way: value[0] for way, value in gains["joint"].items()}
    one_way = ways["climb, then refine"]
    other = max(("in turns", "race"), key=lambda way: ways[way])
    policy = max(value[0] for value in gains["on policy"].values())
    mixing = float(np.mean([row["mixing of all channels"] for row in limits.values()]))
    return (
        Claim(
            "Refinement through the rollout gains what no offline fit can.",
            "holds" if channel[1] > MATTERS_DB else "fails",
            f"per channel {channel[0]:+.2f} dB ({channel[1]:+.2f} to {channel[2]:+.2f}) over fitted taps, "
            f"refitting on the accelerated run's own history {policy:+.2f} dB.",
        ),
        Claim(
            "Rows for channels beat rows for groups.",
            "holds" if channel[0] > group[0] + MATTERS_DB else "fails",
            f"channel {channel[0]:+.2f} dB, 16 groups {group[0]:+.2f} dB over fitted channel taps, best: {best} "
            f"{gains['parameters'][best][0]:+.2f} dB.",
        ),
        Claim(
            "The log error of the final latent is the loss to take.",
            "holds" if usual > gains["losses"][loss][0] - MATTERS_DB else "fails",
            f"it gains {usual:+.2f} dB, the best of all ({loss}) {gains['losses'][loss][0]:+.2f} dB.",
        ),
        Claim(
            "A few dozen prompts are enough.",
            "holds" if enough <= 24 else "fails",
            "gain by number of fit prompts: " + ", ".join(f"{n}: {gain:+.2f} dB" for n, gain in counts.items()) + ".",
        ),
        Claim(
            "Schedule and taps are better sought in turns, or in a race, than one after the other.",
            "holds" if ways[other] > one_way + MATTERS_DB else "fails",
            ", ".join(f"{way} {gain:+.2f} dB" for way, gain in ways.items()) + ".",
        ),
        Claim(
            "History per channel is nearly all that a linear forecast can use.",
            "holds" if mixing < 3 else "fails",
            f"a full linear map of all channels would lower the squared error by {mixing:.2f} dB, for as many "
            "weights a channel as there are channels.",
        ),
    )
