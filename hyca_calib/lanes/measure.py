"""How well lanes draw, in passes and in calls of the network, beside plans alone and fewer steps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import torch
from pydantic import BaseModel
from torch import Tensor

from hyca_calib.pipelines.contract import takes
from hyca_calib.pipelines.outputs import samples_of
from hyca_calib.pipelines.pipeline import Pipeline
from hyca_calib.pipelines.rollout import followed, sample_clips
from hyca_calib.pipelines.workload import Job, batches, merge_calls
from hyca_calib.quality.metrics import agreement
from hyca_runtime import Plan, apply_plan
from hyca_runtime.errors import WorkloadError
from hyca_runtime.samplers import AfterHits, Hit, Lanes, LanesRun, sample_chords
from hyca_runtime.samplers.following import Histories

Kind = Literal["fewer steps", "lanes", "plan", "both"]
"""The sampler alone, lanes that compute all, plans alone, plans in lanes."""


class LaneRow(BaseModel, frozen=True):
    """One way of drawing, up to one finished sample.

    Attributes:
        way: in words.
        lane: whose sample it is, counted from 0, the slow one.
        starts: of its lanes; one lane is a sampler alone.
        passes: evaluations one after another.
        computed_passes: those on which any lane computes the network; of no plan all.
        calls, computed_calls: evaluations by all lanes for one sample, guidance inside, and those that are computed.
        db: agreement with the exact sampler, of each sample.
        best: whether nothing that computes on as many passes or fewer agrees better.
    """

    kind: Kind
    way: str
    starts: tuple[int, ...]
    lane: int
    passes: int
    computed_passes: int
    calls: int
    computed_calls: int
    db: tuple[float, ...]
    best: bool = False

    @property
    def mean_db(self) -> float:
        return fmean(self.db)


@dataclass(frozen=True)
class Bench:
    """Samples to draw, and what they are compared with.

    Attributes:
        reference: finished samples of the exact sampler.
    """

    pipe: Pipeline
    jobs: Sequence[Job]
    num_steps: int
    batch: int
    reference: Tensor

    @classmethod
    def of(cls, pipe: Pipeline, jobs: Sequence[Job], num_steps: int, batch: int) -> "Bench":
        return cls(pipe, jobs, num_steps, batch, sample_clips(pipe, jobs, num_steps, batch)[0])

    def _db(self, samples: Tensor) -> tuple[float, ...]:
        return tuple(agreement(samples, self.reference))

    def fewer_steps(self, steps: int) -> LaneRow:
        """The sampler alone, with other steps."""
        samples = sample_clips(self.pipe, self.jobs, steps, self.batch)[0]
        return self._alone("fewer steps", "fewer steps", steps, steps, samples)

    def plan_alone(self, plan: Plan, way: str) -> LaneRow:
        """The sampler under a plan."""
        with followed(self.pipe, plan) as session:
            samples = sample_clips(self.pipe, self.jobs, self.num_steps, self.batch)[0]
            computed = session.report().computed
        return self._alone("plan", way, self.num_steps, computed, samples)

    def _alone(self, kind: Kind, way: str, steps: int, computed: int, samples: Tensor) -> LaneRow:
        return LaneRow(
            kind=kind,
            way=way,
            starts=(0,),
            lane=0,
            passes=steps,
            computed_passes=computed,
            calls=steps,
            computed_calls=computed,
            db=self._db(samples),
        )

    def lanes(self, way: str, lanes: Lanes, hits: int | None = None) -> tuple[LaneRow, ...]:
        """Lanes without a plan, of every sample that so many finish; of all by default."""
        return self._rows("lanes", way, lanes, {"stop": AfterHits(hits)})

    def plans_in_lanes(
        self, way: str, lanes: Lanes, plans: Sequence[Plan], histories: Histories = "kept", hits: int | None = 1
    ) -> tuple[LaneRow, ...]:
        """Lanes that each follow a plan; of every sample that so many finish."""
        told = {"plans": plans, "histories": histories, "stop": AfterHits(hits)}
        with apply_plan(self.pipe, plans[0], "adapt") as session:
            return self._rows("both", way, lanes, {**told, "session": session})

    def _rows(self, kind: Kind, way: str, lanes: Lanes, told: dict[str, Any]) -> tuple[LaneRow, ...]:
        drawn = list(self._drawn(lanes, told))
        run = drawn[0][0]

        def row(number: int, hit: Hit) -> LaneRow:
            computed, passes = run.until(hit.passes)
            return LaneRow(
                kind=kind,
                way=way,
                starts=lanes.starts,
                lane=hit.lane,
                passes=hit.passes,
                computed_passes=len(passes),
                calls=sum(lanes.calls(hit.passes)),
                computed_calls=computed,
                db=self._db(torch.cat([hits[number] for _, hits in drawn])),
            )

        return tuple(row(number, hit) for number, hit in enumerate(run.hits[1:]))

    def _drawn(self, lanes: Lanes, told: dict[str, Any]) -> Iterator[tuple[LanesRun, list[Tensor]]]:
        """Of each batch the run, and what the samples of its lanes look like."""
        for group in batches(self.jobs, self.batch):
            call: dict[str, Any] = {
                "num_inference_steps": self.num_steps,
                "output_type": "latent",
                "return_dict": False,
            }
            call |= told | merge_calls(group)
            run = sample_chords(self.pipe, starts=lanes.starts, **call)
            yield run, [_decoded(self.pipe, group, hit.latents) for hit in run.hits[1:]]


def _decoded(pipe: Pipeline, group: Sequence[Job], latents: Tensor) -> Tensor:
    """What latents look like: a run of one step, whose latents are replaced by them.

    Raises:
        WorkloadError: the pipeline has no callback that could.
    """
    if not takes(pipe, "callback_on_step_end"):
        raise WorkloadError(
            f"{type(pipe).__name__} has no callback_on_step_end, so samples of its lanes cannot be seen"
        )

    def replaced(*_: Any) -> dict[str, Tensor]:
        return {"latents": latents}

    call = {"num_inference_steps": 1, "output_type": "pt", "return_dict": False, "callback_on_step_end": replaced}
    return samples_of(pipe(**merge_calls(group), **call)[0], type(pipe).__name__).float().cpu()
