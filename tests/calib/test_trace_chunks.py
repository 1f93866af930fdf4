"""A trace of a video in chunks: each chunk has steps, features and statistics of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import streaming
import tiny
import torch
from streaming import CHUNKS, FRAMES, LAG

from hyca_calib.commands.describing import describe
from hyca_calib.demo.stream.pipeline import StreamPipeline
from hyca_calib.pipelines.workload import Job, Workload
from hyca_calib.search.assemble import build_section
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.error_damping import measure_damping
from hyca_calib.search.problem import Problem
from hyca_calib.search.rollout_error import log_errors
from hyca_calib.search.settings import Settings
from hyca_calib.trace.recorder import Recorder
from hyca_calib.trace.recording import Recording
from hyca_calib.trace.run import trace
from hyca_calib.trace.store import Trace
from hyca_calib.trace.streamed import TracedChunks, Which
from hyca_runtime.errors import TraceError
from hyca_runtime.fingerprint import config_digest
from hyca_runtime.point import parse_point
from hyca_runtime.schedule import Schedule

STEPS, CLIP = 5, 4
POINT = parse_point("trunk:residual")
SCHEDULE = Schedule.from_steps(STEPS, (0, 1, 3))


def recorded(pipe: StreamPipeline, which: Which = "all", **call: Any) -> Recording:
    job = Job(0, "fit", 0, {"prompt": "red heart", **call})
    with Recorder(pipe, POINT, 1000, chunks=which) as recorder:
        return recorder.record([job], STEPS, 0)


def told(pipe: Any, frames: int, lag: int, clip: int) -> TracedChunks:
    digest = config_digest(pipe.transformer, num_frame_per_block=frames)
    return TracedChunks(frames=frames, lag=lag, clip=clip, which="all", config_digest=digest)


def features(recording: Recording) -> torch.Tensor:
    """``(branch, step, token, channel)``."""
    point = recording.points["trunk-residual"]
    return torch.stack([torch.stack([step[0][0] for step in branch]) for branch in point.features])


@pytest.mark.parametrize("lag", [None, 2, 1])
def test_chunks_are_passes_however_they_follow_one_another(lag: int | None) -> None:
    one, other = recorded(tiny.stream()), recorded(tiny.stream(), lag=lag)
    assert one.branches == ["cond", "uncond"]
    assert len(one.timesteps) == STEPS
    assert one.scheduler_timesteps == one.timesteps
    assert one.chunks == told(tiny.stream(), 3, 0, CLIP)
    assert other.chunks == one.chunks
    assert features(one).shape == (2, STEPS, CLIP * 3 * 4, 24)
    first = slice(0, 3 * 4)  # sees no other; those behind it see chunks that are not finished
    assert torch.allclose(features(one)[:, :, first], features(other)[:, :, first], atol=1e-5)


@pytest.mark.parametrize("lag", [None, 2, 1])
def test_guidance_is_known_from_the_schedulers_of_chunks(lag: int | None) -> None:
    pipe = tiny.stream()
    assert recorded(pipe, lag=lag, guidance_scale=4.0).guidance == pytest.approx([4.0, -3.0], abs=1e-4)
    assert recorded(pipe, "later", lag=lag, guidance_scale=1.0).guidance == [1.0]
    assert "step" not in vars(pipe.scheduler)


def test_first_and_later_chunks_apart() -> None:
    every, first, later = (features(recorded(tiny.stream(), which)) for which in ("all", "first", "later"))
    assert torch.equal(torch.cat([first, later], 2), every)
    assert first.shape[2] == 3 * 4


def test_gains_are_of_the_chunks_that_are_recorded() -> None:
    every, first, later = (
        torch.stack([torch.stack(of) for of in recorded(tiny.stream(), which).points["trunk-residual"].gains])
        for which in ("all", "first", "later")
    )
    assert every.shape == (2, STEPS, 24)
    assert (every > 0).all()
    assert torch.allclose(every, (first + 3 * later) / 4, rtol=1e-4)


def test_chunks_that_wait_are_recorded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """SkyReels-V2's own pipeline calls chunks before their first step, too."""
    pipe = streaming.pipeline(torch.float32)
    monkeypatch.setattr("hyca_calib.trace.recorder.sample_latents", lambda *_: streaming.film(pipe))
    with Recorder(pipe, POINT, 1000) as recorder:
        found = recorder.record([Job(0, "fit", 0, {})], streaming.STEPS, 0)
    assert found.guidance == pytest.approx([3.0, -2.0], abs=1e-4)  # of schedulers of single frames
    assert found.chunks == told(pipe, FRAMES, LAG, CHUNKS)
    assert len(found.timesteps) == streaming.STEPS
    assert found.points["trunk-residual"].features[0][0][0].shape == (1, CHUNKS * FRAMES * 4, 24)


def test_a_single_chunk_has_no_later_ones() -> None:
    with pytest.raises(TraceError, match="--chunks later: expected a video of several chunks"):
        recorded(tiny.stream(), "later", num_frames=6)


def test_tokens_must_be_in_frames() -> None:
    recorder, job = Recorder(tiny.stream(), parse_point("modules:blocks.0.attn2.to_k"), 1000), Job(0, "fit", 0, {})
    with recorder, pytest.raises(TraceError, match="expected features in frames"):
        recorder.record([replace(job, call={"prompt": "cat"})], STEPS, 0, with_gain=False)


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Problem]:
    folder, workload = tmp_path_factory.mktemp("traces"), Workload(tiny.prompts(), 7, STEPS)
    found = dict[str, Problem]()
    for which in ("all", "first", "later"):
        where = folder / f"{which}.zarr"
        trace(tiny.stream(), workload, POINT, where, model_name="tiny:stream", batch=2, tokens=4, chunks=which)
        found[which] = Problem(Trace(where))
    return found


def test_a_trace_says_of_which_chunks_it_is(problems: dict[str, Problem]) -> None:
    told = [describe(str(problems[which].trace.name))["chunks"] for which in ("all", "first")]
    assert told == ["all of 4, of 3 frames each", "first of 4, of 3 frames each"]


def test_statistics_add_up(problems: dict[str, Problem]) -> None:
    every, first, later = (problems[which].gram("fit") for which in ("all", "first", "later"))
    assert np.allclose(every, first + later, rtol=1e-4, atol=1e-6)
    assert len({problem.identity for problem in problems.values()}) == 3


def test_rows_over_the_other_branch_are_followed_by_chunk(problems: dict[str, Problem]) -> None:
    problem = problems["all"]
    assert problem.trace.guidance == pytest.approx((3.0, -2.0), abs=1e-4)
    assert problem.sources == ("all", "branches", "constant")
    assert not np.allclose(problem.select, problem.gram("select"))  # the objective is of what guidance makes
    own, joint = (
        build_section(Candidate(problem, Settings(groups=1, taps="channel", sources=of), SCHEDULE))
        for of in ("own", "all")
    )
    assert joint.is_joint
    assert not own.is_joint
    errors = [float(log_errors(tiny.stream(), each, problem.samples("fit")).mean()) for each in (own, joint)]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("which", ["all", "first", "later"])
def test_errors_of_a_network_that_does_not_look_stay(problems: dict[str, Problem], which: Which) -> None:
    """Its output is of time alone, so that all of a push is left in the end, whenever it was made."""
    pipe = tiny.stream()
    for weights in pipe.text_encoder.parameters():
        weights.data.zero_()
    pipe.transformer.patch_embedding.weight.data.zero_()
    assert measure_damping(pipe, problems[which], probes=6) == pytest.approx(np.ones(STEPS), rel=0.05)


def test_a_step_costs_one_chunk(problems: dict[str, Problem]) -> None:
    cost = problems["first"].trace.cost
    assert cost.full_flops == problems["later"].trace.cost.full_flops
    assert cost.feature_numel == 2 * 3 * 4 * 24


def test_plans_of_a_trace_are_followed_by_chunk(problems: dict[str, Problem]) -> None:
    def section(which: str, computed: tuple[int, ...]) -> Any:
        settings = Settings(groups=1)
        return build_section(Candidate(problems[which], settings, Schedule.from_steps(STEPS, computed)))

    samples, whole = problems["all"].samples("select"), tuple(range(STEPS))
    first, later, every = section("first", (0, 1, 3)), section("later", whole), section("all", whole)
    assert (first.from_chunk, later.from_chunk, every.from_chunk) == (None, 1, None)
    exact, mixed, short = (
        float(log_errors(tiny.stream(), each, samples_of).mean())
        for each, samples_of in (
            (every, samples),
            (later, replace(samples, other_chunks=(first,))),
            (section("all", (0, 1, 3)), samples),
        )
    )
    assert exact < -20
    assert exact + 3 < mixed < short
