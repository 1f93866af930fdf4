"""The threshold of a step cache for a budget: from runs of the select split, of which each sample decides for itself.

Where the evidence is known without a network, the runs are simulated instead.
"""

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

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
from hyca_runtime.errors import BudgetError
from hyca_runtime.plan import Plan

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
    stack: Stack,
    rule: Rule,
    on_progress: Callable[[float], None] = lambda share: None,
) -> Plan:
    """The plan with the least threshold whose mean cost meets `budget`, written with its account into `study`.

    As many steps are computed whatever happens as published, or fewer where the budget leaves no room for them. A
    second call goes on from the thresholds that were tried.

    Raises:
        BudgetError: no threshold meets it.
    """
    steps = problem.trace.num_steps
    allowed = budget.most_flops(stack.full_flops, stack.light_flops, steps) / (stack.full_flops * steps)
    tries = _Tries(pipe, problem, stack, study.folder / KEPT, on_progress)
    found = next((one for each in rule.easier() if (one := _least(tries, each, allowed))), None)
    if found is None:
        shares = [one.share for one in tries.tried] or [tries.cheapest(each, HIGHEST).share for each in rule.easier()]
        ratio = math.floor(100 / min(shares)) / 100
        raise BudgetError(f"budget {budget.text!r} cannot be met by {rule.preset}: {ratio}x is the most; ask for less")
    chosen, tried = found
    most = max(run.most for run in tried.runs)
    if chosen.probes:
        most = min(steps, math.ceil(MARGIN * most))
    section = deciding_section(problem, stack, chosen, tried.threshold, tried.median.computed, most)
    account = {
        **NOT_SEARCHED,
        "preset": rule.preset,
        "source": SOURCES[rule.preset],
        "settings": tried.settings,
        "computed": list(section.schedule.computed_steps),
        "groups": [{"size": stack.channels, "solver": chosen.solver.name}],
        "flops_ratios": sorted(round(1 / run.share, 3) for run in tried.runs),
        "thresholds": [{**one.scalars, "flops_ratio": round(1 / one.share, 3)} for one in tries.tried],
    }
    told = {**origin(problem), "settings": tried.settings}
    section = judged(pipe, problem, section)
    return write_outcome(pipe, study, problem, section, budget, rule.preset, told, account)


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
        if rule.probes:
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
        with followed(self._pipe, Plan(name="candidate", sections=(section,))) as session:
            sample_latents(self._pipe, [job], self._problem.workload.num_steps, 1)
            report = session.report()
        most = max(count.computed for count in report.streams.values())
        return SampleRun(share=1 / (report.flops_ratio or 1.0), computed=report.computed_at, most=most)


def _least(tries: _Tries, rule: Rule, allowed: float) -> tuple[Rule, Tried] | None:
    """The least threshold whose mean cost is allowed; None if none is."""
    low, high = 0.0, FIRST
    if tries.cheapest(rule, HIGHEST).share > allowed:
        return None
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
