"""Runs under the thresholds of step caches, each made once."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from hyca_calib.pipelines.workload import Job
from hyca_calib.records.atomic import write_json
from hyca_calib.search.problem import Problem
from hyca_calib.search.step_caches.decided_run import decided_run
from hyca_calib.search.step_caches.rule import Rule
from hyca_calib.search.step_caches.simulated import SampleRun, cheapest_run
from hyca_calib.search.step_caches.stack import Stack, deciding_section

SAMPLES = 8
"""Of the select split, for the threshold; "few samples" in the words of DiCache's paper."""
KEPT = "thresholds.json"


class Tried(BaseModel, frozen=True):
    """A threshold with the other settings of its rule, and the runs under it.

    Attributes:
        forecast: see `Rule.forecast_digest`.
    """

    settings: dict[str, Any]
    forecast: str
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


class Tries:
    """Runs under thresholds, each made once and kept in a file.

    Args:
        tried: is added what was asked for.
        on_tried: told how many that are.
    """

    def __init__(
        self,
        pipe: Any,
        problem: Problem,
        stack: Stack,
        file: Path,
        tried: list[Tried],
        on_tried: Callable[[int], None],
    ) -> None:
        self._pipe, self._problem, self._stack, self._file = pipe, problem, stack, file
        self._on_tried, self._tried = on_tried, tried
        self._known = _kept(file, problem.identity)

    def cheapest(self, rule: Rule, threshold: float) -> SampleRun:
        """See `cheapest_run`."""
        return cheapest_run(self._stack, rule, threshold, self._problem.trace.num_steps)

    def at(self, rule: Rule, threshold: float) -> Tried:
        """The runs under a threshold."""
        settings = rule.policy(threshold).spec().model_dump(mode="json")["configuration"]
        forecast = rule.forecast_digest
        same = [one for one in self._known if (one.settings, one.forecast) == (settings, forecast)]
        found = same[0] if same else Tried(settings=settings, forecast=forecast, runs=self._runs(rule, threshold))
        if not same:
            self._known.append(found)
            tried = [one.model_dump(mode="json") for one in self._known]
            write_json(self._file, {"problem": self._problem.identity, "tried": tried})
        self._tried += [] if found in self._tried else [found]
        self._on_tried(len(self._tried))
        return found

    def _runs(self, rule: Rule, threshold: float) -> tuple[SampleRun, ...]:
        if not rule.by_sample:
            return (self.cheapest(rule, threshold),)
        return tuple(self._run(rule, threshold, job) for job in self._problem.workload.of("select")[:SAMPLES])

    def _run(self, rule: Rule, threshold: float, job: Job) -> SampleRun:
        section = deciding_section(self._problem, self._stack, rule, threshold, [0], None)
        run = decided_run(self._pipe, section, job, self._problem.workload.num_steps)
        report, computed = run.report, run.report.computed_at
        first = {step for table in run.tables.values() for step, number in enumerate(table) if number == 1}
        branches = zip(*run.tables.values(), strict=False)
        halfway = tuple(step for step, done in enumerate(branches) if 0 in done and any(done))
        return SampleRun(
            share=1 / (report.flops_ratio or 1.0),
            computed=computed,
            most=max(count.computed for count in report.streams.values()),
            partly=tuple(sorted(first.difference(computed))),
            halfway=halfway,
        )


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
