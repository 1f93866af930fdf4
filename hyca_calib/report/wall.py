"""The wall: the same prompts and noise drawn by the full run, by the plan, and by what else costs as much."""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyca_calib.baselines.base import INTERVALS, Baseline, Setup
from hyca_calib.baselines.caches import taylorseer_family
from hyca_calib.baselines.samplers import DPM, OWN, sampled_by, samplers
from hyca_calib.baselines.score import reason
from hyca_calib.costs.same_cost import SAME_COST, costs_the_same
from hyca_calib.pipelines.outputs import are_pictures
from hyca_calib.pipelines.rollout import followed, sample_clips
from hyca_calib.pipelines.workload import Job
from hyca_calib.quality.evaluate import SampledRun, run_untimed, sampling_seconds
from hyca_calib.quality.metrics import Measure
from hyca_calib.report.looks import Look, look_of
from hyca_calib.report.steps import NETWORK, computed_at, told_steps
from hyca_calib.search.problem import Problem
from hyca_runtime import Plan, RunReport

STARTS = (0, 3, 5)
"""Where samplers' levels begin, see `Spacing`: few spacings stand for many."""
WARMUP = 3
"""First steps that TaylorSeer computes."""
NOTHING = torch.empty(0, 1, 3, 1, 1)


@dataclass(frozen=True)
class Tile:
    """One column of the wall.

    Attributes:
        told: what it computes.
        flops_ratio: FLOPs of the networks in the full run over its own.
        samples: ``(sample, ...)``, pictures as clips, ``(sample, frame, channel, height, width)``; none if it failed.
        agreement_db: of each sample with the full run's, all frames together; of the full run itself none.
        seconds: wall time of all samples together.
        steps_flops_ratio: as `flops_ratio`, of all that runs on every step, also of a ControlNet.
    """

    name: str
    told: str
    flops_ratio: float
    samples: Tensor = NOTHING
    agreement_db: tuple[float, ...] = ()
    seconds: float = math.nan
    error: str = ""
    steps_flops_ratio: float = 1.0

    @property
    def mean_db(self) -> float:
        return float(np.mean(self.agreement_db)) if self.agreement_db else math.inf


@dataclass(frozen=True)
class Wall:
    """Ways to draw the same samples.

    Attributes:
        baselines: of each family the best setting that spends what the plan does, best first.
        cache_bytes, key_bytes: of features, and of keys and values of chunks, of all samples together.
    """

    captions: tuple[str, ...]
    full: Tile
    plan: Tile
    baselines: tuple[Tile, ...]
    failures: tuple[Tile, ...]
    cache_bytes: int
    key_bytes: int = 0

    @property
    def look(self) -> Look:
        """What samples are shown as."""
        return look_of(self.full.samples)

    @property
    def measure(self) -> Measure:
        """What agreement is told as."""
        return "PSNR" if are_pictures(self.full.samples) else "signal-to-error ratio"

    @property
    def others_run(self) -> bool:
        """Whether more than the networks runs on every step, and changes what a way costs."""
        return any(abs(tile.steps_flops_ratio / tile.flops_ratio - 1) > 1e-3 for tile in self.columns)

    @property
    def columns(self) -> tuple[Tile, ...]:
        return (self.full, self.plan, *self.baselines)


def draw_wall(
    pipe: Any,
    jobs: Sequence[Job],
    num_steps: int,
    plan: Plan,
    on_progress: Callable[[float, str], None] = lambda share, news: None,
) -> Wall:
    """Sample `jobs` in every way; a baseline that raises is kept with its error, one of another cost is not."""
    on_progress(0.0, "full run and plan")
    one = sample_clips(pipe, jobs[:1], min(2, num_steps), 1)[0]  # warms up, too
    frames = one.shape[1] if are_pictures(one) else 0
    batch = 1 if plan.decides_by_sample else len(jobs)
    full = run_untimed(pipe, jobs, num_steps, batch, nullcontext)
    with followed(pipe, plan, "compute") as session:
        ours = run_untimed(pipe, jobs, num_steps, batch, lambda: nullcontext(session))
        report = session.report()
    methods = nullcontext, partial(followed, pipe, plan, "compute")
    seconds = [sampling_seconds(pipe, jobs, num_steps, batch, method) for method in methods]
    spent, others = ours.flops.steps / full.flops.steps, list[Tile]()
    baselines = _baselines(pipe, jobs, num_steps, spent)
    for number, baseline in enumerate(baselines, 2):
        on_progress(number / (2 + len(baselines)), baseline.name)
        others.append(_tried(pipe, jobs, baseline, full, frames))
    return Wall(
        captions=tuple(str(job.call.get("prompt", job.call.get("class_labels", job.index))) for job in jobs),
        full=Tile("full run", _counted(plan, report.steps), 1.0, _unstacked(full, frames), (), seconds[0]),
        plan=_tile("plan", _told(plan, report), ours, full, frames, seconds[1]),
        baselines=_best_of_families(t for t in others if not t.error and _as_costly(t, spent, num_steps)),
        failures=tuple(tile for tile in others if tile.error),
        cache_bytes=report.cache_bytes,
        key_bytes=report.key_bytes,
    )


def _told(plan: Plan, report: RunReport) -> str:
    """What the plan computed; of points of other names, or branches on steps of their own, what it says, for a report
    counts whole steps. Of a video in chunks these are of all of them."""
    if len(plan.sections) == 1 and [*computed_at(plan.section)] != [NETWORK]:
        return told_steps(plan.section)
    return f"{report.computed} of {_counted(plan, report.steps)}"


def _counted(plan: Plan, steps: int) -> str:
    """So many steps; of a video in chunks, each of which has its own, forwards of one."""
    return f"{steps} {'steps' if plan.sections[0].chunks is None else 'chunk-forwards'}"


def _as_costly(tile: Tile, spent: float, num_steps: int) -> bool:
    return costs_the_same(1 / tile.steps_flops_ratio, spent, 1 / num_steps)


def _baselines(pipe: Any, jobs: Sequence[Job], num_steps: int, spent: float) -> list[Baseline]:
    """A few settings of what a user would do instead, for what the plan spends or a little more.

    Args:
        spent: the share of the full run's FLOPs.
    """
    computed = max(1, math.ceil(num_steps * spent / SAME_COST - 1e-9))
    found = [Baseline(f"{computed} steps", OWN, computed, nullcontext)]
    setup = Setup(jobs, num_steps, lambda name, make: make(), _no_trace)
    for sampler in samplers(pipe, setup):
        for start in STARTS if sampler.family in (OWN, DPM) else ():
            if (make := sampler.made(start, 1.0)) is not None:
                name = f"{computed} steps, " + (f"log-SNR from {start}" if start else "own levels")
                found.append(Baseline(name, sampler.family, sampler.steps(computed), partial(sampled_by, make=make)))
    interval = max([n for n in INTERVALS if WARMUP + (num_steps - WARMUP) // n >= computed], default=INTERVALS[0])
    caches = taylorseer_family(num_steps)
    return found + [caches.baseline({"way": way, "N": interval, "O": 1, "W": WARMUP}) for way in ("lite", "last block")]


def _no_trace() -> Problem:
    raise LookupError("the wall has no trace; none of its baselines asks for one")


def _tried(pipe: Any, jobs: Sequence[Job], baseline: Baseline, full: SampledRun, frames: int) -> Tile:
    told = baseline.name.removeprefix(f"{baseline.family} ")
    try:
        run = run_untimed(pipe, jobs, baseline.steps, len(jobs), partial(baseline.applied, pipe))
    except Exception as error:  # foreign code may raise anything
        return Tile(baseline.family, told, 0.0, error=reason(error))
    return _tile(baseline.family, told, run, full, frames, math.nan)


def _best_of_families(tiles: Iterable[Tile]) -> tuple[Tile, ...]:
    """The best setting of each family, best first."""
    best: dict[str, Tile] = {}
    for tile in sorted(tiles, key=lambda tile: -tile.mean_db):
        best.setdefault(tile.name, tile)
    return tuple(best.values())


def _tile(name: str, told: str, run: SampledRun, full: SampledRun, frames: int, seconds: float) -> Tile:
    found = run.fidelity_to(full).agreement_db
    networks, steps = full.flops.networks / run.flops.networks, full.flops.steps / run.flops.steps
    return Tile(name, told, networks, _unstacked(run, frames), found, seconds, steps_flops_ratio=steps)


def _unstacked(run: SampledRun, frames: int) -> Tensor:
    """Pictures as clips of so many frames; of none the samples are no pictures, and stay."""
    if not frames:
        return run.images
    return run.images.unflatten(2, (frames, -1)).transpose(1, 2)  # type: ignore[no-any-return,no-untyped-call]
