"""The chapters: decisions, plans, keys, growth and drift.

- *decisions*: FlowCache with a decision for each chunk, and one for all that share a call, at equal chunk-forwards.
- *plans*: ours, of sections for the first chunk and those behind it, beside FlowCache, at equal budgets.
- *keys*: packed keys and values, important ones, and a window of the newest chunks, at equal budgets.
- *growth*: seconds of every chunk and bytes kept, of a long clip.
- *drift*: what the judge sees in later parts of a long clip, under plans and in full runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from hyca_calib.commands.options import SearchLimits
from hyca_calib.demo.judge import load_judge
from hyca_calib.search.lineage import LATER
from hyca_calib.search.packcache import keeping
from hyca_calib.search.step_caches.flowcache import FlowCache
from hyca_calib.search.step_caches.stack import deciding_section, traced_stack
from hyca_runtime import Plan, load_plan, save_plan
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.streaming.retention import All, Important, Packed, Retention
from studies.streaming.notebook import Notebook, Numbers
from studies.streaming.runs import Subject

THRESHOLDS = (0.05, 0.1, 0.2, 0.4, 0.8)
WARMUP = 1
"""More of it, and one decision for all computes most steps of all chunks whenever one begins."""
HALVINGS, EQUAL = 7, 0.01
"""Of the threshold of the one decision, until the shares of chunk-forwards differ by no more."""
BUDGETS = ("2x", "4x", "6x")
PUBLISHED, DRIFTING = "ours-{}.plan.json", "4x"
"""The file of a plan, and whose drift is looked for."""
KEPT = (2, 3, 4)
"""Chunks of keys and values."""
LONG = 2
"""Clips so many times as long as trained, for keys, growth and drift."""


def decisions(subject: Subject, book: Notebook) -> None:
    """At equal chunk-forwards, decisions by chunk against one for all that share a call."""
    problem, samples = subject.problem("all"), subject.drawn(lag=max(1, subject.steps // 4))
    rule = FlowCache(problem.trace.point, warmup=WARMUP)
    stack, together = traced_stack(problem, rule), replace(problem, keys=None)

    def runs(threshold: float) -> Numbers:
        return subject.under(samples, deciding_section(together, stack, rule, threshold, [0], None))

    for threshold in THRESHOLDS:
        section = deciding_section(problem, stack, rule, threshold, [0], None)
        own = book.once(f"by chunk {threshold}", partial(subject.under, samples, section))
        equal = partial(_at_share, runs, own["forwards"], threshold)
        one = book.once(f"one for all {threshold}", equal)
        if own["forwards"] < 1 and abs(own["forwards"] - one["forwards"]) <= EQUAL:
            book.lead(f"lead {threshold}", own["db"], one["db"], subject.groups)


def _at_share(runs: Callable[[float], Numbers], share: float, first: float) -> Numbers:
    """Runs under the threshold at which they compute such a share of the chunk-forwards, or the nearest found."""
    low, high, tried = 0.0, first, {first: runs(first)}
    while tried[high]["forwards"] > share and len(tried) < HALVINGS:
        low, high = high, 2 * high
        tried[high] = runs(high)
    for _ in range(HALVINGS):
        if min(abs(found["forwards"] - share) for found in tried.values()) <= EQUAL:
            break
        middle = math.sqrt(low * high) if low else high / 2
        tried[middle] = runs(middle)
        low, high = (middle, high) if tried[middle]["forwards"] > share else (low, middle)
    threshold = min(tried, key=lambda t: abs(tried[t]["forwards"] - share))
    return {**tried[threshold], "threshold": threshold}


def plans(subject: Subject, book: Notebook, limits: SearchLimits) -> None:
    """Our plans against FlowCache, at equal budgets."""
    every, first, later = (subject.problem(which).trace.where for which in ("all", "first", "later"))
    samples, ways = subject.drawn(), {"flowcache": [every], "alike": [every], "ours": [first, later]}
    found = dict[str, dict[str, Numbers]]()
    for name, traces in ways.items():
        asked = SearchLimits(preset=name, model=limits.model) if name == "flowcache" else limits
        of = subject.searched(name, ",".join(BUDGETS), traces, asked)
        found[name] = {
            budget: book.once(f"{name} {budget}", partial(subject.under, samples, *plan.sections))
            for budget, plan in zip(BUDGETS, of, strict=True)
        }
        if name == "ours":
            for budget, plan in zip(BUDGETS, of, strict=True):
                save_plan(_published(plan), subject.published / PUBLISHED.format(budget))
    for rival in ("flowcache", "alike"):
        for budget, own in found["ours"].items():
            book.lead(f"lead over {rival} {budget}", own["db"], found[rival][budget]["db"], subject.groups)


def _published(plan: Plan) -> Plan:
    """A plan that does not say in which folders of this machine its traces are."""
    named = {key: Path(value).name for key, value in plan.provenance.items() if key in ("trace", LATER)}
    return plan.model_copy(update={"provenance": {**plan.provenance, **named}})


def retentions(kept: int) -> dict[str, Retention]:
    """Ways to keep so many chunks of tokens in all."""
    return {
        "packed": Packed(kept - 1, window=4),
        "window": Packed(kept, window=kept, anchors=0, shares=(1 / kept,) * kept),
        "important": Important(kept),
    }


def keys(subject: Subject, book: Notebook) -> None:
    """Packed keys against a window of the newest chunks, at equal budgets, on clips longer than trained."""
    problem, samples = subject.problem("all"), subject.drawn(num_frames=LONG * subject.frames)
    for kept in KEPT:
        found = dict[str, Numbers]()
        for name, way in retentions(kept).items():
            found[name] = book.once(f"{name} {kept}", partial(subject.under, samples, keeping(problem, way)))
        for rival in ("window", "important"):
            line = f"lead of packed over {rival} {kept}"
            book.lead(line, found["packed"]["db"], found[rival]["db"], subject.groups)


def growth(subject: Subject, book: Notebook) -> None:
    """Seconds of every chunk and bytes behind it, of a long clip."""
    problem, frames = subject.problem("all"), LONG * subject.frames
    book.once("as it is", partial(subject.growth, frames))
    for name, way in {"all": All(), "packed": Packed(2, 4), "important": Important(3)}.items():
        book.once(name, partial(subject.growth, frames, keeping(problem, way)))


def drift(subject: Subject, book: Notebook) -> None:
    """What the judge sees in later parts of a long clip, under plans and in full runs; nothing without a judge."""
    judge, frames = load_judge(subject.model), LONG * subject.frames
    if judge is None or frames % judge.frames:
        book.once("no judge", dict)
        return
    full = book.once("full", partial(subject.seen, judge, frames))
    ways: dict[str, tuple[NetworkPlan, ...]] = {"packed": (keeping(subject.problem("all"), Packed(2, 4)),)}
    if (plan := subject.published / PUBLISHED.format(DRIFTING)).exists():
        ways["ours"] = load_plan(plan).sections
    for name, sections in ways.items():
        own = book.once(name, partial(subject.seen, judge, frames, *sections))
        book.lead(f"{name} falls more than full", own["fall"], full["fall"], subject.groups)
