"""Where our plans stand among all others, in words and tables for documents: both sides by the same code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hyca_calib.bench.choice import MORE, SAME_COST, SPARING
from hyca_calib.bench.equivalence import OUTCOMES
from hyca_calib.bench.figures import Figures
from hyca_calib.bench.quality import Quality
from hyca_calib.bench.rows import OURS, RESULTS, Bench, read_bench
from hyca_calib.bench.table import Margin, margin
from hyca_calib.bench.wording import listed, made_with, signed, table, wrapped

__all__ = ["Contest", "Measured", "families_table", "gains_table", "measured", "rules_sentence", "standing_list"]

GOAL_DB, GOAL_AT = 6.0, ("3x", "5x")
"""How far ahead of everything that costs more we set out to be, and at which budgets."""
PREFIX = f"{OURS} plan "
"""Rows of our plans are called so, and by their budget."""
FULL = "full run"


@dataclass(frozen=True)
class Contest:
    """A plan against the best of the others.

    Attributes:
        equal: over those that spend as much, or up to `MORE` times that.
        dearer: over those that spend as much or more, down to a FLOPs ratio of `SPARING`.
        quality: what the judge of the model says, if there is one.
    """

    model: str
    budget: str
    ours: Figures
    equal: Margin | None
    dearer: Margin | None
    quality: Quality | None


@dataclass(frozen=True)
class Measured:
    """The comparison on one model.

    Attributes:
        bench: None for a file that does not say of which code and day it is.
    """

    model: str
    bench: Bench | None

    @cached_property
    def contests(self) -> tuple[Contest, ...]:
        """Our plans, the dearest first."""
        if self.bench is None:
            return ()
        rows, groups = self.bench.rows, self.bench.groups
        found = [
            Contest(
                self.model,
                row.method.removeprefix(PREFIX),
                row.result,
                margin(row.result, rows, groups, MORE),
                margin(row.result, rows, groups),
                row.quality,
            )
            for row in rows
            if row.ours and row.result
        ]
        return tuple(sorted(found, key=lambda contest: contest.ours.flops_ratio))

    @property
    def families(self) -> dict[str, str]:
        """Of every family of rivals: settings tried, settings shown, whether better ones may lie outside."""
        if self.bench is None:
            return {}
        shown = [row.family for row in self.bench.rows if row.result and not row.ours]
        told = {name: f"{shown.count(name)} shown" for name in dict.fromkeys(shown) if name != FULL}
        for sweep in self.bench.sweeps:
            tried = f"{len(sweep.tried)} tried, {shown.count(sweep.family)} shown"
            found = "cannot attach" if sweep.refused else tried + (", open" if sweep.open_ends else "")
            told[sweep.family] = found
        return told


def measured(root: Path) -> list[Measured]:
    """Every model's results below `root`, by name."""
    return [
        Measured(path.parent.name, read_bench(path) if _proven(path) else None)
        for path in sorted((root / "studies" / "bench").glob(f"*/{RESULTS}"))
    ]


def _proven(path: Path) -> bool:
    facts: dict[str, Any] = json.loads(path.read_text()).get("facts", {})
    return "commit" in facts and "date" in facts


def unproven(results: Sequence[Measured]) -> str:
    """Why no figures are shown, or nothing."""
    names = [f"`{result.model}`" for result in results if result.bench is None]
    if results and not names:
        return ""
    return wrapped(
        "*No figures are shown here: "
        + (f"the results of {listed(names)} say neither commit nor day" if names else "there are no results yet")
        + ". They are being measured again; studies/README.md says what is known to be wrong with earlier ones.*"
    )


def gains_table(root: Path) -> str:
    """A row for every plan of every model, and where the figures come from."""
    results = measured(root)
    if excuse := unproven(results):
        return excuse
    head = ["model, budget", "FLOPs ratio", "HyCa, dB", "best other way at this cost", "ahead by"]
    head += ["best of all that cost more", "ahead by"]
    lines = []
    for contest in (contest for result in results for contest in result.contests):
        cells = [f"{contest.model}, {contest.budget}", f"{contest.ours.flops_ratio:.2f}x"]
        cells += [f"**{contest.ours.psnr_db:.1f}**", *_against(contest.equal)]
        lines.append(cells + (["the same", ""] if contest.dearer == contest.equal else _against(contest.dearer)))
    return f"{table(head, 'lrrlrlr', lines)}\n\n{wrapped(_sources(results))}"


def standing_list(root: Path) -> str:
    """What we win and what we do not, counted in the same way."""
    results = measured(root)
    if excuse := unproven(results):
        return excuse
    contests = [contest for result in results for contest in result.contests]
    items = (
        _counted("At equal cost", [(c, c.equal) for c in contests]),
        _counted("Over everything that costs as much or more", [(c, c.dearer) for c in contests]),
        _goal(contests),
        _pictures(contests),
    )
    return "\n".join(wrapped(text, "- ") for text in items if text)


def families_table(root: Path) -> str:
    """How many settings of every family of rivals were tried and are shown, on each model."""
    results = measured(root)
    if excuse := unproven(results):
        return excuse
    sources = {sweep.family: sweep.source for result in results if result.bench for sweep in result.bench.sweeps}
    names = sorted({name for result in results for name in result.families}, key=str.casefold)
    lines = [
        [name, sources.get(name, ""), *(result.families.get(name, "not tried") for result in results)] for name in names
    ]
    return table(["family", "source", *(result.model for result in results)], "ll" + "r" * len(results), lines)


def rules_sentence(root: Path) -> str:  # noqa: ARG001  (of no file: the rules are the code's)
    """What counts as a rival."""
    less, more = (f"{100 * limit - 100:.0f} %" for limit in (SAME_COST, MORE))
    return wrapped(
        f"A rival *at this cost* spends as many FLOPs as our plan, at most {less} less and at most {more} more. *All "
        f"that cost more* are those and every other that spends more, down to a FLOPs ratio of {SPARING}: a cache that "
        "never acts agrees perfectly with the full run. The best rival is the one with the highest mean on the test "
        "split, which favours the others a little. HyCa as its paper has it is a rival, too."
    )


def _counted(title: str, found: Sequence[tuple[Contest, Margin | None]]) -> str:
    """Of all pairs of model and budget: how many are won and lost, and both ends."""
    faced = [(contest, margin) for contest, margin in found if margin]
    ahead = [pair for pair in faced if pair[1].low > 0]
    behind = [pair for pair in faced if pair[1].high < 0]
    open_, alone = len(faced) - len(ahead) - len(behind), len(found) - len(faced)
    text = f"**{title} our plans are ahead in {len(ahead)} of {len(found)} pairs of model and budget, and behind in "
    text += f"{len(behind)}{f', {open_} within the interval' if open_ else ''}"
    text += f"{f', {alone} without a rival' if alone else ''}.**"
    ends = []
    for name in dict.fromkeys(contest.model for contest, _ in faced):
        own = [pair for pair in faced if pair[0].model == name]
        worst, best = (f"{signed(m.mean)} dB at {c.budget}" for c, m in (min(own, key=_mean), max(own, key=_mean)))
        ends.append(f"`{name}` from {worst} to {best}")
    return f"{text} {'; '.join(ends)}." if ends else text


def _goal(contests: Sequence[Contest]) -> str:
    aimed = [contest for contest in contests if contest.budget in GOAL_AT]
    met = [contest for contest in aimed if contest.dearer and contest.dearer.low >= GOAL_DB]
    names = [f"`{contest.model}` at {contest.budget}" for contest in met]
    where = f": {listed(names)}" if met else ""
    goal = f"Our goal of {GOAL_DB:.0f} dB over everything that costs more, at {listed(GOAL_AT)},"
    return f"**{goal} is met in {len(met)} of {len(aimed)} pairs{where}.**"


def _pictures(contests: Sequence[Contest]) -> str:
    """What the tests of equivalence say of pictures on their own; nothing where nobody judges them."""
    seen = [(contest, contest.quality.outcome) for contest in contests if contest.quality]
    if not seen:
        return ""
    said = {way: [f"`{c.model}` at {c.budget}" for c, outcome in seen if outcome == way] for way in OUTCOMES}
    parts = [f"{way}: {len(names)}{f' ({listed(names)})' if names else ''}" for way, names in said.items()]
    return f"**Pictures on their own, beside the full run's, of {len(seen)} plans**: {'; '.join(parts)}."


def _mean(pair: tuple[Contest, Margin]) -> float:
    return pair[1].mean


def _against(found: Margin | None) -> list[str]:
    if found is None:
        return ["none", ""]
    rival = f"{found.rival_db:.1f}, {found.rival} ({found.rival_ratio:.2f}x)"
    return [rival, f"{signed(found.mean)} ({signed(found.low)} to {signed(found.high)})"]


def _sources(results: Sequence[Measured]) -> str:
    """Samples, steps, machine, day, commit, versions; what is common to several models once."""
    common: dict[str, list[str]] = {}
    for name, bench in ((result.model, result.bench) for result in results):
        if bench:
            samples = f"{len(bench.groups)} samples of {len(set(bench.groups))} prompts"
            common.setdefault(_made(bench.facts), []).append(f"`{name}` ({samples})")
    each = [f"{listed(names)}: {made}." for made, names in common.items()]
    what = "PSNR to the model's own full run and distances are in dB, means over the test split with 95 % intervals."
    return " ".join([what, *each])


def _made(facts: dict[str, Any]) -> str:
    workload = facts["workload"]
    return f"{workload['num_steps']} steps, seed {workload['seed']}, {made_with(facts)}"
