"""The threshold of a step cache for a budget: from runs of the select split, of which each sample decides for itself.

Where the evidence is known without a network, the runs are simulated instead.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ValidationError
from torch import nn

from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.rollout import followed, sample_latents
from hyca_calib.pipelines.workload import Job
from hyca_calib.records.atomic import write_json
from hyca_calib.search.assemble import origin
from hyca_calib.search.outcome import NOT_SEARCHED, judged, write_outcome
from hyca_calib.search.problem import Problem
from hyca_calib.search.sources import SOURCES
from hyca_calib.search.step_caches.rule import Rule
from hyca_calib.search.step_caches.simulated import SampleRun, cheapest_run
from hyca_calib.search.step_caches.stack import Stack, deciding_section
from hyca_calib.search.study import StudyFolder
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.errors import BudgetError
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan import Plan
from hyca_runtime.policies import LearningPolicy
from hyca_runtime.schedule import COMPUTE, Action
from hyca_runtime.session import Session

SAMPLES = 8
"""Of the select split, for the threshold; "few samples" in the words of DiCache's paper."""
HALVINGS = 7
FIRST, HIGHEST = 0.1, 1e4
KEPT = "thresholds.json"
MARGIN = 1.1
"""What a run may compute over the dearest one that was seen; one that comes to the bound forecasts all that is left."""


class Tried(BaseModel, frozen=True):
    """A threshold with the other settings of its rule, and the runs under it."""

    settings: dict[str, Any]
    runs: tuple[SampleRun, ...]

    @property
    def threshold(self) -> float:
        return float(self.settings["threshold"])

    @property
    def scalars(self) -> dict[str, float]:
        """The settings that are numbers."""
        return {name: value for name, value in self.settings.items() if isinstance(value, int | float)}

    @property
    def share(self) -> float:
        """Mean share of the full run's FLOPs."""
        return statistics.fmean(run.share for run in self.runs)

    @property
    def median(self) -> SampleRun:
        """A usual run."""
        return sorted(self.runs, key=lambda run: run.share)[len(self.runs) // 2]


def search_threshold(
    pipe: Any,
    problem: Problem,
    budget: Budget,
    study: StudyFolder,
    contenders: Sequence[tuple[Rule, Stack]],
    on_progress: Callable[[float], None] = lambda share: None,
) -> Plan:
    """The plan with the least threshold whose mean cost meets `budget`, written with its account into `study`.

    As many steps are computed whatever happens as published, or fewer where the budget leaves no room for them. A
    second call goes on from the thresholds that were tried.

    Args:
        contenders: rules of one preset, of which the one is taken that agrees best with full runs of the select split.

    Raises:
        BudgetError: no threshold meets it.
    """
    file, found = study.folder / KEPT, list[_Found]()
    for rule, stack in contenders:
        if found and rule.spare:
            continue
        tries = _Tries(pipe, problem, stack, file, lambda share: on_progress(share / len(contenders)))
        allowed = budget.most_flops(stack.full_flops, stack.light_flops, problem.trace.num_steps)
        allowed /= stack.full_flops * problem.trace.num_steps
        one = next((one for each in rule.easier() if (one := _least(tries, each, allowed))), None)
        found += [] if one is None else [_Found.judged(pipe, problem, stack, *one)]
    if not found:
        raise _too_much(problem, tries.tried, contenders, budget)
    best = max(found, key=lambda one: one.psnr_db)
    rule, tried = best.rule, best.tried
    account = {
        **NOT_SEARCHED,
        "preset": rule.preset,
        "source": SOURCES[rule.preset],
        "settings": tried.settings,
        "computed": list(best.section.schedule.computed_steps),
        "groups": [{"size": size, "solver": rule.solver.name} for size in best.stack.channels.values()],
        "flops_ratios": sorted(round(1 / run.share, 3) for run in tried.runs),
        "thresholds": [{**one.scalars, "flops_ratio": round(1 / one.share, 3)} for one in tries.tried],
        "notes": list(rule.notes),
        "contenders": [{**one.tried.scalars, "psnr_db": one.psnr_db} for one in found],
    }
    told = {**origin(problem), "settings": tried.settings}
    return write_outcome(pipe, study, problem, best.section, budget, rule.preset, told, account)


@dataclass(frozen=True)
class _Found:
    """A threshold that meets the budget, and its section."""

    rule: Rule
    stack: Stack
    tried: Tried
    section: NetworkPlan

    @classmethod
    def judged(cls, pipe: Any, problem: Problem, stack: Stack, rule: Rule, tried: Tried) -> Self:
        """With the bound of computed calls and the agreement with full runs."""
        most, usual = max(run.most for run in tried.runs), tried.median
        if rule.policy(tried.threshold).by_sample:
            most = min(problem.trace.num_steps, math.ceil(MARGIN * most))
        told = (usual.computed, most, usual.partly, usual.halfway)
        section = deciding_section(problem, stack, rule, tried.threshold, *told)
        return cls(rule, stack, tried, judged(pipe, problem, section))

    @property
    def psnr_db(self) -> float:
        return 0.0 if self.section.quality is None else self.section.quality.psnr_db


def _too_much(
    problem: Problem, tried: Sequence[Tried], contenders: Sequence[tuple[Rule, Stack]], budget: Budget
) -> BudgetError:
    """What is told where no threshold of any rule meets a budget."""
    easier = [(each, stack) for rule, stack in contenders for each in rule.easier()]
    steps = problem.trace.num_steps
    shares = [one.share for one in tried] or [cheapest_run(stack, r, HIGHEST, steps).share for r, stack in easier]
    most, preset = math.floor(100 / min(shares)) / 100, contenders[0][0].preset
    return BudgetError(f"budget {budget.text!r} cannot be met by {preset}: {most}x is the most; ask for less")


class _Tries:
    """Runs under thresholds, each made once and kept in a file."""

    def __init__(
        self, pipe: Any, problem: Problem, stack: Stack, file: Path, on_progress: Callable[[float], None]
    ) -> None:
        self._pipe, self._problem, self._stack, self._file = pipe, problem, stack, file
        self._on_progress = on_progress
        self.tried = _kept(file, problem.identity)

    def cheapest(self, rule: Rule, threshold: float) -> SampleRun:
        """See `cheapest_run`."""
        return cheapest_run(self._stack, rule, threshold, self._problem.trace.num_steps)

    def at(self, rule: Rule, threshold: float) -> Tried:
        """The runs under a threshold."""
        settings = rule.policy(threshold).spec().model_dump(mode="json")["configuration"]
        for one in self.tried:
            if one.settings == settings:
                return one
        if rule.policy(threshold).by_sample:
            runs = tuple(self._run(rule, threshold, job) for job in self._problem.workload.of("select")[:SAMPLES])
        else:
            runs = (self.cheapest(rule, threshold),)
        self.tried.append(Tried(settings=settings, runs=runs))
        tried = [one.model_dump(mode="json") for one in self.tried]
        write_json(self._file, {"problem": self._problem.identity, "tried": tried})
        self._on_progress(min(1.0, len(self.tried) / (2 * HALVINGS)))
        return self.tried[-1]

    def _run(self, rule: Rule, threshold: float, job: Job) -> SampleRun:
        """One sample alone: in a batch all follow the most demanding one."""
        section = deciding_section(self._problem, self._stack, rule, threshold, [0], None)
        with (
            followed(self._pipe, Plan(name="candidate", sections=(section,))) as session,
            _noting(find_transformer(self._pipe, section.component), session, rule.actions[0]) as noted,
        ):
            sample_latents(self._pipe, [job], self._problem.workload.num_steps, 1)
            report = session.report()
        computed, most = report.computed_at, max(count.computed for count in report.streams.values())
        partly, halfway = tuple(sorted(noted.partly.difference(computed))), noted.halfway(len(report.streams))
        share = 1 / (report.flops_ratio or 1.0)
        return SampleRun(share=share, computed=computed, most=most, partly=partly, halfway=halfway)


@dataclass(frozen=True)
class _Noted:
    """Steps of a run.

    Attributes:
        partly: on which a branch does an action.
        computing: how many branches are computed on each.
    """

    partly: set[int] = field(default_factory=set)
    computing: Counter[int] = field(default_factory=Counter)

    def halfway(self, branches: int) -> tuple[int, ...]:
        """Those on which some of so many branches are computed and others not."""
        return tuple(sorted(step for step, number in self.computing.items() if 0 < number < branches))


@contextmanager
def _noting(network: nn.Module, session: Session, action: Action) -> Iterator[_Noted]:
    """What branches do on the steps of a run."""
    noted, counted = _Noted(), Counter[Action]()

    def hear(*_: Any) -> None:
        report, before = session.report(), counted.copy()
        counted.clear()
        for count in report.streams.values():
            counted.update(count.actions)
        noted.partly.update([report.steps - 1] if counted[action] > before[action] else [])
        noted.computing[report.steps - 1] += counted[COMPUTE] - before[COMPUTE]

    hook = network.register_forward_hook(hear)
    try:
        yield noted
    finally:
        hook.remove()


def _least(tries: _Tries, rule: Rule, allowed: float) -> tuple[Rule, Tried] | None:
    """The least threshold whose mean cost is allowed; None if none is."""
    low, high = 0.0, FIRST
    if tries.cheapest(rule, HIGHEST).share > allowed:
        return None
    if isinstance(rule.policy(HIGHEST), LearningPolicy) and tries.at(rule, HIGHEST).share > allowed:
        return None  # what it reuses is known from runs alone
    while tries.at(rule, high).share > allowed:
        low, high = high, 4 * high
        if high > HIGHEST:
            return None
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high) if low else high / 4
        low, high = (low, middle) if tries.at(rule, middle).share <= allowed else (middle, high)
    return rule, tries.at(rule, high)


def _kept(file: Path, identity: str) -> list[Tried]:
    """What an interrupted search tried on the same trace."""

    class Kept(BaseModel):
        problem: str
        tried: list[Tried]

    try:
        found = Kept.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return []
    return found.tried if found.problem == identity else []
