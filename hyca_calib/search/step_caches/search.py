"""The threshold of a step cache for a budget: from runs of the select split, of which each sample decides for itself.

Where the evidence is known without a network, the runs are simulated instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from hyca_calib.costs.budget import Budget
from hyca_calib.search.assemble import origin
from hyca_calib.search.outcome import NOT_SEARCHED, judged, write_outcome
from hyca_calib.search.problem import Problem
from hyca_calib.search.sources import SOURCES
from hyca_calib.search.step_caches.rule import Rule
from hyca_calib.search.step_caches.simulated import cheapest_run
from hyca_calib.search.step_caches.stack import Stack, deciding_section
from hyca_calib.search.step_caches.tries import KEPT, Tried, Tries
from hyca_calib.search.study import StudyFolder
from hyca_runtime.errors import BudgetError
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan import Plan
from hyca_runtime.policies import LearningPolicy

HALVINGS, NEAR = 7, 0.99
"""How often the interval of a threshold is halved at most, and the share of what is allowed that is near enough."""
WIDE, NARROW, FINE = 4.0, 1.1, 3
"""How far one threshold is from the next where few samples are run, and where all are; and halvings there."""
HIGHEST = 1e4
MARGIN = 1.1
"""What a run may compute over the dearest one that was seen; one that comes to the bound forecasts all that is left."""


Contenders = Sequence[tuple[Rule, Stack]]
"""Rules of one preset, and what each costs."""


def search_threshold(
    pipe: Any,
    problem: Problem,
    budget: Budget,
    study: StudyFolder,
    contenders: Contenders,
    on_progress: Callable[[float], None] = lambda share: None,
    folder: Path | None = None,
) -> Plan:
    """The plan with the least threshold that meets `budget`, written with its account into `study`."""
    found = find_threshold(pipe, problem, budget, study, contenders, on_progress, folder=folder)
    return write_found(pipe, problem, budget, study, found)


def find_threshold(
    pipe: Any,
    problem: Problem,
    budget: Budget,
    study: StudyFolder,
    contenders: Contenders,
    on_progress: Callable[[float], None] = lambda share: None,
    folder: Path | None = None,
) -> Found:
    """The least threshold whose mean cost meets `budget`, of the rule that agrees best with full runs of *select*.

    As many steps are computed whatever happens as published, or fewer where that agrees better, or where the budget
    leaves no room for them.

    Args:
        folder: where thresholds that were tried are kept, for several budgets; by default the study. A second call goes
            on from them.

    Raises:
        BudgetError: no threshold meets it.
    """
    file, tried, found = (folder or study.folder) / KEPT, list[Tried](), list[Judged]()

    def told(count: int) -> None:
        on_progress(min(1.0, count / (2 * HALVINGS * len(contenders))))

    for rule, stack in contenders:
        if found and rule.spare:
            continue
        tries = Tries(pipe, problem, stack, file, tried, told)
        allowed = _allowed(problem, budget, stack)
        met = (one for each in rule.easier() if (one := _least(tries, each, allowed)))
        found += _climbed(Judged.judged(pipe, problem, stack, *one) for one in met)
    if not found:
        raise _too_much(problem, tried, contenders, budget)
    best = max(found, key=lambda one: one.psnr_db)
    return Found(best, tuple(tried), tuple(found))


def _climbed(coming: Iterable[Judged]) -> list[Judged]:
    """As many as each agree better than the one before, and one more."""
    found = list[Judged]()
    for one in coming:
        found.append(one)
        if len(found) > 1 and found[-1].psnr_db <= found[-2].psnr_db:
            break
    return found


def check_reach(problem: Problem, budget: Budget, contenders: Contenders) -> None:
    """Raises BudgetError if not even the cheapest run that any of the rules can make meets a budget."""
    for rule, stack in contenders:
        cheapest = min(cheapest_run(stack, each, HIGHEST, problem.trace.num_steps).share for each in rule.easier())
        if cheapest <= _allowed(problem, budget, stack):
            return
    raise _too_much(problem, (), contenders, budget)


def in_reach(pipe: Any, problem: Problem, budget: Budget, study: StudyFolder, rule: Rule, stack: Stack) -> bool:
    """Whether runs of a rule meet a budget under the highest threshold, with as few steps computed as it allows."""
    allowed = _allowed(problem, budget, stack)
    tries = Tries(pipe, problem, stack, study.folder / KEPT, [], lambda _: None)
    return any(tries.at(each, HIGHEST).share <= allowed for each in reversed(rule.easier()))


def write_found(
    pipe: Any,
    problem: Problem,
    budget: Budget,
    study: StudyFolder,
    found: Found,
    told: Mapping[str, Any] = MappingProxyType({}),
) -> Plan:
    """Write the plan of what was found into `study`, with an account.

    Args:
        told: more of that.
    """
    best = found.best
    rule, tried = best.rule, best.tried
    account = {
        **NOT_SEARCHED,
        "preset": rule.preset,
        "source": SOURCES[rule.preset],
        "settings": tried.settings,
        "computed": list(best.section.schedule.computed_steps),
        "groups": [{"size": size, "solver": rule.forecast_by} for size in best.stack.channels.values()],
        "flops_ratios": sorted(round(1 / run.share, 3) for run in tried.runs),
        "thresholds": [{**one.scalars, "flops_ratio": round(1 / one.share, 3)} for one in found.tried],
        "notes": list(rule.notes),
        "contenders": found.contenders,
        **told,
    }
    origins = {**origin(problem), "settings": tried.settings}
    section = best.section if best.section.quality else judged(pipe, problem, best.section)
    return write_outcome(pipe, study, problem, section, budget, rule.preset, origins, account)


@dataclass(frozen=True)
class Judged:
    """A threshold that meets the budget, and its section."""

    rule: Rule
    stack: Stack
    tried: Tried
    section: NetworkPlan

    @classmethod
    def judged(cls, pipe: Any, problem: Problem, stack: Stack, rule: Rule, tried: Tried) -> Self:
        """With the bound of computed calls; and with its agreement with full runs, where its own runs do not tell."""
        most, usual = max(run.most for run in tried.runs), tried.median
        if rule.by_sample:
            most = min(problem.trace.num_steps, math.ceil(MARGIN * most))
        told = (usual.computed, most, usual.partly, usual.halfway)
        section = deciding_section(problem, stack, rule, tried.threshold, *told)
        return cls(rule, stack, tried, section if tried.psnr_db is not None else judged(pipe, problem, section))

    @property
    def psnr_db(self) -> float:
        if self.tried.psnr_db is not None:
            return self.tried.psnr_db
        return 0.0 if self.section.quality is None else self.section.quality.psnr_db


@dataclass(frozen=True)
class Found:
    """What a search of thresholds found.

    Attributes:
        best: of the contenders that were judged.
        tried: all thresholds.
    """

    best: Judged
    tried: tuple[Tried, ...]
    judged: tuple[Judged, ...]

    @property
    def contenders(self) -> list[dict[str, float]]:
        """What the best settings of each rule reached."""
        return [{**one.tried.scalars, "psnr_db": one.psnr_db} for one in self.judged]


def _allowed(problem: Problem, budget: Budget, stack: Stack) -> float:
    """The share of the full run's FLOPs that a budget leaves."""
    most = budget.most_flops(stack.full_flops, stack.light_flops, problem.trace.num_steps)
    return most / (stack.full_flops * problem.trace.num_steps)


def _too_much(
    problem: Problem, tried: Sequence[Tried], contenders: Sequence[tuple[Rule, Stack]], budget: Budget
) -> BudgetError:
    """What is told where no threshold of any rule meets a budget."""
    easier = [(each, stack) for rule, stack in contenders for each in rule.easier()]
    steps = problem.trace.num_steps
    shares = [one.share for one in tried] or [cheapest_run(stack, r, HIGHEST, steps).share for r, stack in easier]
    most, preset = math.floor(100 / min(shares)) / 100, contenders[0][0].preset
    return BudgetError(f"budget {budget.text!r} cannot be met by {preset}: {most}x is the most; ask for less")


def _least(tries: Tries, rule: Rule, allowed: float) -> tuple[Rule, Tried] | None:
    """The least threshold whose mean cost is allowed; None if none is."""
    low, high = 0.0, rule.first
    if tries.cheapest(rule, HIGHEST).share > allowed:
        return None
    if isinstance(rule.policy(HIGHEST), LearningPolicy) and tries.at(rule, HIGHEST, few=True).share > allowed:
        return None  # what it reuses is known from runs alone
    for few, factor in ((True, WIDE), (False, NARROW)):
        halvings = HALVINGS if few else FINE
        while tries.at(rule, high, few).share > allowed:
            low, high = high, factor * high
            if high > HIGHEST:
                return None
        while low and tries.at(rule, high, few).share < NEAR * allowed and tries.at(rule, low, few).share <= allowed:
            low, high, halvings = low * (low / high) ** 2, low, HALVINGS  # the few were the more demanding ones
        for _ in range(halvings):
            if tries.at(rule, high, few).share >= NEAR * allowed:
                break
            middle = math.sqrt(low * high) if low else high / factor
            low, high = (low, middle) if tries.at(rule, middle, few).share <= allowed else (middle, high)
        low = high / NARROW
    return rule, tries.at(rule, high)
