"""The threshold of DiCache for a budget, found by runs of the select split; each sample decides for itself."""

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
from hyca_calib.search.dicache.rule import Rule, less_retained, rule_of
from hyca_calib.search.dicache.stack import Stack, probing_section
from hyca_calib.search.outcome import NOT_SEARCHED, judged, write_outcome
from hyca_calib.search.problem import Problem
from hyca_calib.search.sources import DICACHE, SOURCES
from hyca_calib.search.study import StudyFolder
from hyca_runtime.errors import BudgetError
from hyca_runtime.plan import Plan
from hyca_runtime.solvers import Aligned

SAMPLES = 8
"""Of the select split, for the threshold; "few samples" in the paper's words."""
HALVINGS = 7
FIRST, HIGHEST = 0.1, 1e4
KEPT = "thresholds.json"
MARGIN = 1.1
"""What a run may compute over the dearest one that was seen; one that comes to the bound forecasts all that is left."""


class SampleRun(BaseModel, frozen=True):
    """One run of one sample.

    Attributes:
        share: of the full run's FLOPs.
        computed: steps on which a branch was computed.
        most: computed calls of the branch that has most.
    """

    share: float
    computed: tuple[int, ...]
    most: int


class Tried(BaseModel, frozen=True):
    """A threshold, and the runs under it."""

    retained: float
    threshold: float
    runs: tuple[SampleRun, ...]

    @property
    def share(self) -> float:
        """Mean share of the full run's FLOPs."""
        return statistics.fmean(run.share for run in self.runs)

    @property
    def median(self) -> SampleRun:
        """A usual run."""
        return sorted(self.runs, key=lambda run: run.share)[len(self.runs) // 2]


def search_dicache(
    pipe: Any,
    problem: Problem,
    budget: Budget,
    study: StudyFolder,
    stack: Stack,
    on_progress: Callable[[float], None] = lambda share: None,
) -> Plan:
    """The plan with the least threshold whose mean cost meets `budget`, written with its account into `study`.

    The first fifth of the steps is computed as published, or less where the budget leaves no room for it. A second call
    goes on from the thresholds that were tried.

    Raises:
        BudgetError: no threshold meets it.
    """
    rule = rule_of(problem.trace.attributes.model.transformer)
    allowed = budget.most_flops(stack.full_flops, stack.probed_flops, problem.trace.num_steps)
    allowed /= stack.full_flops * problem.trace.num_steps
    tries = _Tries(pipe, problem, stack, study.folder / KEPT, on_progress)
    found = next((one for each in less_retained(rule) if (one := _least(tries, each, allowed))), None)
    if found is None:
        ratio = math.floor(100 / min(tried.share for tried in tries.tried)) / 100
        raise BudgetError(f"budget {budget.text!r} cannot be met by dicache: {ratio}x is the most; ask for less")
    chosen, tried = found
    most = min(problem.trace.num_steps, math.ceil(MARGIN * max(run.most for run in tried.runs)))
    section = probing_section(problem, stack, chosen, tried.threshold, tried.median.computed, most)
    settings = {"threshold": tried.threshold, "retained": chosen.retained, "blocks": chosen.blocks}
    account = {
        **NOT_SEARCHED,
        "preset": DICACHE,
        "source": SOURCES[DICACHE],
        "settings": settings,
        "computed": list(section.schedule.computed_steps),
        "groups": [{"size": stack.channels, "solver": Aligned.name}],
        "flops_ratios": sorted(round(1 / run.share, 3) for run in tried.runs),
        "thresholds": sorted((one.retained, one.threshold, round(1 / one.share, 3)) for one in tries.tried),
    }
    told = {**origin(problem), "settings": settings}
    section = judged(pipe, problem, section)
    return write_outcome(pipe, study, problem, section, budget, DICACHE, told, account)


class _Tries:
    """Runs under thresholds, each made once and kept in a file."""

    def __init__(
        self, pipe: Any, problem: Problem, stack: Stack, file: Path, on_progress: Callable[[float], None]
    ) -> None:
        self._pipe, self._problem, self._stack, self._file = pipe, problem, stack, file
        self._on_progress = on_progress
        self.tried = _kept(file, problem.identity)

    def at(self, rule: Rule, threshold: float) -> Tried:
        """The runs under a threshold."""
        for one in self.tried:
            if (one.retained, one.threshold) == (rule.retained, threshold):
                return one
        jobs = self._problem.workload.of("select")[:SAMPLES]
        runs = tuple(self._run(rule, threshold, job) for job in jobs)
        self.tried.append(Tried(retained=rule.retained, threshold=threshold, runs=runs))
        tried = [one.model_dump(mode="json") for one in self.tried]
        write_json(self._file, {"problem": self._problem.identity, "tried": tried})
        self._on_progress(min(1.0, len(self.tried) / (2 * HALVINGS)))
        return self.tried[-1]

    def _run(self, rule: Rule, threshold: float, job: Job) -> SampleRun:
        """One sample alone: in a batch all follow the most demanding one."""
        section = probing_section(self._problem, self._stack, rule, threshold, [0], None)
        with followed(self._pipe, Plan(name="candidate", sections=(section,))) as session:
            sample_latents(self._pipe, [job], self._problem.workload.num_steps, 1)
            report = session.report()
        most = max(count.computed for count in report.streams.values())
        return SampleRun(share=1 / (report.flops_ratio or 1.0), computed=report.computed_at, most=most)


def _least(tries: _Tries, rule: Rule, allowed: float) -> tuple[Rule, Tried] | None:
    """The least threshold whose mean cost is allowed; None if none is."""
    low, high = 0.0, FIRST
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
