"""What a calibration settled before its first step, kept beside what it makes: who goes on does the same."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from hyca_calib.commands.announced import Announcement, announced, fitted
from hyca_calib.commands.calibrate_options import CalibrateOptions
from hyca_calib.commands.options import TraceOptions
from hyca_calib.commands.tracing import points_of
from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.load import TracedModel
from hyca_calib.pipelines.pipeline import Pipeline
from hyca_calib.pipelines.rollout import runs_on, sample_latents
from hyca_calib.pipelines.short_runs import PROBE_STEPS, shortest
from hyca_calib.pipelines.threads import best_threads, timed_threads, using_threads
from hyca_calib.pipelines.workload import Workload
from hyca_calib.quality.evaluate import Evaluation
from hyca_calib.records.atomic import create_json
from hyca_calib.records.console import present, say
from hyca_calib.search.effort import Effort
from hyca_calib.search.smaller import parse_size
from hyca_calib.search.study import CALIBRATION, holds_anything
from hyca_calib.trace.folder import Folder
from hyca_calib.trace.request import Request
from hyca_calib.trace.timed_model import timed_model
from hyca_runtime.errors import StudyError

EVALUATION = "evaluation.json"


@dataclass(frozen=True)
class Settled:
    """What decides the plans, whatever the clock says from now on.

    Attributes:
        asked: what the user asked for, as JSON.
        effort: after a cut to the hours that are allowed.
        threads: of a CPU; None elsewhere.
        announced: what it would take; None in old files.
    """

    asked: dict[str, Any]
    effort: Effort
    threads: int | None
    announced: Announcement | None = None

    @classmethod
    def in_folder(cls, folder: Path, asked: dict[str, Any]) -> Settled | None:
        """What an earlier call settled there for the same request; None if there was none.

        Raises:
            StudyError: the folder holds something else.
        """
        if not (folder / CALIBRATION).exists():
            if holds_anything(folder):
                raise StudyError(f"{folder} is not empty and holds no calibration; choose another --out")
            return None
        found = cls.read(folder)
        if differs := sorted(key for key in asked if asked[key] != found.asked.get(key)):
            raise StudyError(
                f"{folder} holds a calibration with another {', '.join(differs)}; choose another --out, or remove it"
            )
        return found

    @classmethod
    def read(cls, folder: Path) -> Settled:
        """What was settled there.

        Raises:
            StudyError: its file is not one.
        """
        try:
            return TypeAdapter(Settled).validate_json((folder / CALIBRATION).read_bytes())
        except ValidationError as error:
            what = f"{folder / CALIBRATION}: no calibration"
            raise StudyError(f"{what}; remove the folder or choose another --out") from error

    def keep(self, folder: Path) -> Settled:
        """Write it; from then on the folder is this calibration's. What another process has settled meanwhile counts.

        Raises:
            StudyError: another process began another calibration there.
        """
        if create_json(folder / CALIBRATION, self):
            return self
        return type(self).in_folder(folder, self.asked) or self


def kept_evaluation(folder: Path) -> Evaluation | None:
    """What the plan in a folder reached on the test split; None if nobody has measured it, or the file is none."""
    with suppress(OSError, ValidationError):
        return TypeAdapter(Evaluation).validate_json((folder / EVALUATION).read_bytes())
    return None


def settle(
    pipe: Pipeline,
    workload: Workload,
    budgets: Sequence[Budget],
    options: CalibrateOptions,
    recorded: TraceOptions,
    asked: dict[str, Any],
    wanted: Effort,
    checks: bool,
) -> Settled:
    """Time the model, tell what will be done with how many threads and what it takes, and cut what does not fit.

    Args:
        recorded: how it will be traced.
        wanted: before any cut.
        checks: whether an earlier plan is looked at that may still hold.

    Raises:
        StudyError: not even the least fits the hours that are allowed.
    """
    request, size = _requested(pipe, workload, options, recorded), parse_size(options.refine_at)
    on_cpu = runs_on(pipe).type == "cpu"
    threads = _threads(pipe, request, options.threads) if on_cpu else None
    with using_threads(threads or torch.get_num_threads()):
        timed = timed_model(pipe, request, Folder(recorded.where))
        resized = replace(workload, prompts=tuple({**call, **size} for call in workload.prompts))
        at_size = _requested(pipe, resized, options, recorded)
        smaller = timed_model(pipe, at_size, Folder(recorded.where)) if size else None
    budgets = [budget.within(timed.run_seconds(workload.num_steps)) for budget in budgets]

    def announce(effort: Effort) -> Announcement:
        return announced(timed, workload, effort, budgets, request.batch, on_cpu, checks, smaller)

    effort = _within(announce, wanted, options.max_hours)
    told = announce(effort)
    if timed.backward_seconds is None:
        say("no gradient gets through this network, or fits memory: taps will be refined by evolution")
    cost = timed.cost
    say(
        f"a step of one sample takes {cost.full_seconds:.3g} s in full, {cost.predicted_seconds:.3g} s if predicted; "
        f"effort {effort.name}: about {told.hours:.2g} hours",
        stages=[asdict(work) for work in told.stages],
    )
    present(told.table())
    return Settled(asked, effort, threads, told)


def _requested(pipe: Pipeline, workload: Workload, options: CalibrateOptions, recorded: TraceOptions) -> Request:
    """The trace of a workload."""
    return Request.asked(
        model=TracedModel.of(pipe, options.model, recorded.component),
        points=points_of(recorded),
        workload=workload,
        batch=recorded.batch or 1,
        tokens=recorded.tokens,
        gram_tokens=recorded.gram_tokens,
        across=recorded.across,
    )


def _within(announce: Callable[[Effort], Announcement], wanted: Effort, hours: float | None) -> Effort:
    """The effort, cut to the hours that are allowed; what was cut is told."""
    if hours is None:
        return wanted
    effort = fitted(announce, wanted, hours)
    if effort != wanted:
        say(
            f"cut to {100 * effort.share:.3g} % of effort {wanted.name}, to fit {hours:g} hours: "
            f"{wanted.differing(effort)}"
        )
    return effort


def _threads(pipe: Pipeline, request: Request, asked: int | None) -> int:
    """How many threads to use on a CPU, and tell it."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    if asked is not None or said:
        count, why = asked or torch.get_num_threads(), "as --threads says" if asked else "as OMP_NUM_THREADS says"
    else:
        jobs, most = request.batches[0], request.workload.num_steps

        def timed(steps: int) -> dict[int, float]:
            return timed_threads(lambda: sample_latents(pipe, jobs, steps, len(jobs)))

        seconds = shortest(most, timed, max(PROBE_STEPS, most // 10)) or {}
        count, times = best_threads(seconds), ", ".join(f"{n}: {took:.3g} s" for n, took in seconds.items())
        why = f"the fastest here ({times}); sums round by it: --threads {count} makes the same plan elsewhere"
    say(f"{count} thread{'s' * (count > 1)}, {why}")
    return count


def with_samples(workload: Workload, effort: Effort) -> Workload:
    """As many samples as an effort has."""
    return replace(workload, num_samples=effort.samples)
