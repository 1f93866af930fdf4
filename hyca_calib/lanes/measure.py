"""How well lanes draw, in passes and in calls of the network, beside plans alone and fewer steps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor

from hyca_calib.lanes.aligned import aligned_plans, heavy_passes
from hyca_calib.pipelines.contract import takes
from hyca_calib.pipelines.outputs import samples_of
from hyca_calib.pipelines.pipeline import Pipeline
from hyca_calib.pipelines.rollout import followed, sample_clips
from hyca_calib.pipelines.workload import Job, batches, merge_calls
from hyca_calib.quality.metrics import agreement
from hyca_runtime import Plan, apply_plan
from hyca_runtime.errors import WorkloadError
from hyca_runtime.samplers import AfterHits, Lanes, LanesRun, sample_chords


class LaneRow(BaseModel, frozen=True):
    """One way of drawing, up to one finished sample.

    Attributes:
        way: in words.
        starts: of its lanes; one lane is a sampler alone.
        passes: evaluations one after another.
        computed_passes: those on which any lane computes the network; of no plan all.
        calls, computed_calls: evaluations by all lanes for one sample, guidance inside, and those that are computed.
        db: agreement with the exact sampler, of each sample.
        best: whether nothing that computes on as many passes or fewer agrees better.
    """

    way: str
    starts: tuple[int, ...]
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
        return self._alone("fewer steps", steps, steps, sample_clips(self.pipe, self.jobs, steps, self.batch)[0])

    def plan_alone(self, plan: Plan, way: str) -> LaneRow:
        """The sampler under a plan."""
        with followed(self.pipe, plan) as session:
            samples = sample_clips(self.pipe, self.jobs, self.num_steps, self.batch)[0]
            computed = session.report().computed
        return self._alone(way, self.num_steps, computed, samples)

    def _alone(self, way: str, steps: int, computed: int, samples: Tensor) -> LaneRow:
        return LaneRow(
            way=way,
            starts=(0,),
            passes=steps,
            computed_passes=computed,
            calls=steps,
            computed_calls=computed,
            db=self._db(samples),
        )

    def lanes(self, way: str, lanes: Lanes) -> list[LaneRow]:
        """Lanes without a plan, up to every finished sample."""
        return self._rows(way, lanes, {})

    def plan_in_lanes(self, plan: Plan, lanes: Lanes, way: str) -> list[LaneRow]:
        """Lanes that each follow the plan at its own steps."""
        with apply_plan(self.pipe, plan, "adapt") as session:
            return self._rows(way, lanes, {"session": session})

    def aligned(self, plan: Plan, lanes: Lanes, interval: int, way: str) -> Iterator[LaneRow]:
        """Lanes that all compute in the same passes: at an interval alone, or also where one is corrected.

        In the second case a corrected lane drops its features, which are of latents that it has no more.
        """
        for corrections, more in ((False, ""), (True, " and where corrected")):
            plans = aligned_plans(plan, lanes, heavy_passes(lanes, interval, corrections))
            told = {"plans": plans, "histories": "dropped" if corrections else "kept"}
            with apply_plan(self.pipe, plans[0], "adapt") as session:
                yield from self._rows(way + more, lanes, {**told, "session": session})

    def _rows(self, way: str, lanes: Lanes, told: dict[str, Any]) -> list[LaneRow]:
        drawn = list(self._drawn(lanes, told))
        run = drawn[0][0]
        rows = []
        for number, hit in enumerate(run.hits[1:], 1):
            computed, passes = run.until(hit.passes)
            samples = torch.cat([hits[number] for _, hits in drawn])
            rows.append(
                LaneRow(
                    way=way,
                    starts=lanes.starts,
                    passes=hit.passes,
                    computed_passes=len(passes),
                    calls=sum(lanes.calls(hit.passes)),
                    computed_calls=computed,
                    db=self._db(samples),
                )
            )
        return rows

    def _drawn(self, lanes: Lanes, told: dict[str, Any]) -> Iterator[tuple[LanesRun, list[Tensor]]]:
        """Of each batch the run of all lanes to their ends, and what all hits look like."""
        for group in batches(self.jobs, self.batch):
            call: dict[str, Any] = {
                "num_inference_steps": self.num_steps,
                "output_type": "latent",
                "return_dict": False,
            }
            call |= told | merge_calls(group)
            run = sample_chords(self.pipe, starts=lanes.starts, stop=AfterHits(None), **call)
            yield run, [_decoded(self.pipe, group, hit.latents) for hit in run.hits]


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


def with_best(rows: Sequence[LaneRow]) -> list[LaneRow]:
    """The rows by computed passes, those marked that no other beats."""
    ordered = sorted(rows, key=lambda row: (row.computed_passes, -row.mean_db))
    found, highest = list[LaneRow](), float("-inf")
    for row in ordered:
        found.append(row.model_copy(update={"best": row.mean_db > highest}))
        highest = max(highest, row.mean_db)
    return found
