"""Runs under the thresholds of step caches, each made once."""

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from hyca_calib.quality.metrics import log_error
from hyca_calib.records.atomic import write_json
from hyca_calib.search.problem import Problem, Samples
from hyca_calib.search.rollout_error import mean_psnr
from hyca_calib.search.step_caches.decided_run import decided_run
from hyca_calib.search.step_caches.rule import Rule
from hyca_calib.search.step_caches.simulated import SampleRun, cheapest_run
from hyca_calib.search.step_caches.stack import Stack, deciding_section

SAMPLES, FEW = 8, 2
"""Of the select split, for the threshold, "few samples" in the words of DiCache's paper; and to come near it."""
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
    def psnr_db(self) -> float | None:
        """Mean agreement of the runs; None where nothing ran."""
        found = [run.psnr_db for run in self.runs if run.psnr_db is not None]
        return statistics.fmean(found) if len(found) == len(self.runs) else None

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

    def at(self, rule: Rule, threshold: float, few: bool = False) -> Tried:
        """The runs under a threshold: of `SAMPLES` samples, or of `FEW`."""
        count = min(FEW if few else SAMPLES, SAMPLES, len(self._problem.workload.of("select")))
        settings = rule.policy(threshold).spec().model_dump(mode="json")["configuration"]
        forecast = rule.forecast_digest
        found = next((one for one in self._known if (one.settings, one.forecast) == (settings, forecast)), None)
        if found is None or len(found.runs) < (count if rule.by_sample else 1):
            known = () if found is None else found.runs
            runs = (*known, *self._runs(rule, threshold, len(known), count))
            self._known = [one for one in self._known if one is not found]
            self._known.append(found := Tried(settings=settings, forecast=forecast, runs=runs))
            tried = [one.model_dump(mode="json") for one in self._known]
            write_json(self._file, {"problem": self._problem.identity, "tried": tried})
        self._tried[:] = [one for one in self._tried if (one.settings, one.forecast) != (settings, forecast)]
        self._tried.append(found)
        self._on_tried(len(self._tried))
        return found.model_copy(update={"runs": found.runs[:count]})

    def _runs(self, rule: Rule, threshold: float, begin: int, end: int) -> tuple[SampleRun, ...]:
        if not rule.by_sample:
            return (self.cheapest(rule, threshold),)
        select = self._problem.samples("select")
        return tuple(self._run(rule, threshold, select[[i]]) for i in range(begin, end))

    def _run(self, rule: Rule, threshold: float, sample: Samples) -> SampleRun:
        section = deciding_section(self._problem, self._stack, rule, threshold, [0], None)
        run = decided_run(self._pipe, section, sample.jobs[0], sample.num_steps)
        error = float(log_error(run.latents, sample.latents.to(run.latents.device)))
        report, leading = run.report, next(iter(run.tables.values()), ())
        computed = report.computed_at or tuple(step for step, number in enumerate(leading) if number == 0)
        first = {step for table in run.tables.values() for step, number in enumerate(table) if number == 1}
        branches = zip(*run.tables.values(), strict=False)
        halfway = tuple(step for step, done in enumerate(branches) if 0 in done and any(done))
        return SampleRun(
            share=1 / (report.flops_ratio or 1.0),
            computed=computed,
            most=max(count.computed for count in report.streams.values()),
            partly=tuple(sorted(first.difference(computed))),
            halfway=halfway,
            psnr_db=mean_psnr(error, sample) if math.isfinite(error) else 0.0,
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
