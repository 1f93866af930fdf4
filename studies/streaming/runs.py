"""Full runs of a streaming model, and runs under plans, as numbers."""

import statistics
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyca_calib.bench.marks import confidence
from hyca_calib.commands.options import SearchLimits
from hyca_calib.commands.searching import search_with
from hyca_calib.demo.judge.network import Judge, labels_of
from hyca_calib.pipelines.load import TracedModel
from hyca_calib.pipelines.rollout import followed, sample_latents
from hyca_calib.pipelines.workload import Job, Workload
from hyca_calib.quality.metrics import log_error, prompt_groups
from hyca_calib.search.problem import Problem, Samples
from hyca_calib.search.rollout_error import to_db
from hyca_calib.trace.run import trace
from hyca_calib.trace.store import Trace
from hyca_calib.trace.streamed import Which
from hyca_runtime import Plan, load_plan
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.point import parse_point
from studies.streaming.notebook import Numbers

RESIDUAL, OUTPUT = parse_point("trunk:residual"), parse_point("output")


@dataclass(frozen=True)
class Subject:
    """A streaming model, its traces, and the samples that it is measured on.

    Attributes:
        model: its name.
        folder: of the traces, and of plans.
        workload: of the traces, whose test samples are measured.
        samples: how many of these.
        published: folder of plans that later chapters look at, too.
    """

    pipe: Any
    model: str
    folder: Path
    workload: Workload
    samples: int
    published: Path

    def problem(self, which: Which) -> Problem:
        """What a trace knows of some of the chunks, recorded if it is not there."""
        where, points = self.folder / f"{which}.zarr", (RESIDUAL, OUTPUT) if which == "all" else (RESIDUAL,)
        trace(self.pipe, self.workload, points, where, model_name=self.model, batch=4, tokens=16, chunks=which)
        return Problem(Trace(where))

    @property
    def steps(self) -> int:
        return self.workload.num_steps

    @cached_property
    def jobs(self) -> tuple[Job, ...]:
        return self.workload.of("test")[: self.samples]

    @property
    def groups(self) -> tuple[int, ...]:
        """Which samples are of one prompt."""
        return prompt_groups(self.jobs)

    @property
    def frames(self) -> int:
        """Of a clip as trained."""
        return int(self.pipe.config.num_frames)

    def drawn(self, **call: Any) -> Samples:
        """Full runs of the samples, with other arguments of the call."""
        jobs = tuple(replace(job, call={**job.call, **call}) for job in self.jobs)
        return Samples(jobs, sample_latents(self.pipe, jobs, self.steps, 1), self.steps)

    def searched(self, name: str, budgets: str, traces: Sequence[str], limits: SearchLimits) -> list[Plan]:
        """Plans that are searched, of all budgets together, if they are not there."""

        def traced(_: TracedModel) -> Any:
            return self.pipe

        paths = search_with(traced, budgets, traces, limits, self.folder / name, reported=False)
        return [load_plan(path) for path in paths]

    def under(self, samples: Samples, *sections: NetworkPlan) -> Numbers:
        """Agreement with full runs in dB, and the share of their chunk-forwards, of runs under a plan, each alone."""
        agreement, shares = list[float](), list[float]()
        with followed(self.pipe, Plan(name="study", sections=sections)) as session:
            for i, job in enumerate(samples.jobs):
                drawn = sample_latents(self.pipe, [job], samples.num_steps, 1)
                counts = session.report().streams.values()
                shares.append(sum(count.computed for count in counts) / sum(count.steps for count in counts))
                error = float(log_error(drawn, samples.latents[i : i + 1].to(drawn.device)))
                agreement.append(round(to_db(error, float(samples.log_peak[i])), 4))
        return {"db": agreement, "mean_db": statistics.fmean(agreement), "forwards": statistics.fmean(shares)}

    def growth(self, frames: int, *sections: NetworkPlan) -> Numbers:
        """Seconds of every chunk of one long clip, and bytes of keys and values behind it.

        Args:
            sections: of a plan; none for full runs.
        """
        moments, held, last = [time.perf_counter()], list[int](), self.steps - 1

        def note(_: Any, iteration: int, __: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
            if iteration % self.steps == last:
                moments.append(time.perf_counter())
                held.append(0 if session is None else session.key_bytes)
            return given

        asked: dict[str, Any] = {**self.jobs[0].call, "num_frames": frames, "num_inference_steps": self.steps}
        asked |= {"output_type": "latent", "callback_on_step_end": note, "return_dict": False}
        generator = torch.Generator().manual_seed(0)
        plan = followed(self.pipe, Plan(name="study", sections=sections)) if sections else nullcontext()
        with plan as session:
            self.pipe(**asked, generator=generator)
        return {"seconds": [b - a for a, b in pairwise(moments)], "bytes": held}

    def seen(self, judge: Judge, frames: int, *sections: NetworkPlan) -> Numbers:
        """A judge's confidence in each part of long clips, and how far it falls from the first to the last.

        Args:
            sections: of a plan; none for full runs.
        """
        found = list[tuple[float, ...]]()
        plan = followed(self.pipe, Plan(name="study", sections=sections)) if sections else nullcontext()
        with plan:
            for job in self.jobs:
                generator, asked = torch.Generator().manual_seed(job.seed), {**job.call, "num_frames": frames}
                asked |= {"num_inference_steps": self.steps, "output_type": "pt", "return_dict": False}
                clip = self.pipe(**asked, generator=generator)[0][0]
                parts = torch.stack(clip.split(judge.frames)).transpose(1, 2).flatten(2, 3)
                found.append(confidence(judge, judge.judge(parts.float())[1], [labels_of(job.call)] * len(parts)))
        return {"confidence": found, "fall": [one[0] - one[-1] for one in found]}
