"""Steps that a caller says, of all calls or of some: the others follow from there, or are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import tiny
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from plans import STEPS, make_plan
from torch import Tensor

from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_runtime import Plan, PlanMismatchError, Session, apply_plan, merge_plans
from hyca_runtime.errors import ClockError

Said = Callable[[int], bool]
"""Whether the step of the n-th call of the network is said; there are two on every step."""


@contextmanager
def saying(pipe: EmojiPipeline, session: Session, said: Said) -> Iterator[None]:
    network, calls = pipe.transformer, iter(range(1000))
    inner = network.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        number = next(calls)
        with session.at(step=number // 2) if said(number) else nullcontext():
            return inner(*args, **kwargs)

    network.forward = forward
    try:
        yield
    finally:
        network.forward = inner


def draw(pipe: EmojiPipeline, steps: int = STEPS) -> Tensor:
    options: dict[str, Any] = {
        "num_inference_steps": steps,
        "true_cfg_scale": 2.0,
        "output_type": "latent",
        "return_dict": False,
    }
    latents: Tensor = pipe("red heart", generator=torch.Generator().manual_seed(0), **options)[0]
    return latents


SOME: dict[str, Said] = {
    "all": lambda number: True,
    "the first": lambda number: number < 2,
    "one amid": lambda number: number in (10, 11),
    "every other": lambda number: number % 4 < 2,
    "the last": lambda number: number > 10,
    "those of one branch": lambda number: number % 2 == 0,
    "those of the other branch": lambda number: number % 2 == 1,
    "one of one branch": lambda number: number == 10,
    "one of the other branch": lambda number: number == 11,
}


@pytest.mark.parametrize("said", SOME)
@pytest.mark.parametrize("with_scheduler", [True, False], ids=["pipeline", "network"])
def test_steps_that_are_not_said_follow_from_those_that_are(
    pipe: EmojiPipeline, plan: Plan, said: str, with_scheduler: bool
) -> None:
    with apply_plan(pipe if with_scheduler else pipe.transformer, plan, "error") as session:
        found = draw(pipe)
        with saying(pipe, session, SOME[said]):
            assert torch.equal(draw(pipe), found)
        assert (session.report().computed, session.report().steps) == (4, STEPS)


def test_a_scheduler_tells_later_steps_apart_that_round_to_one_time(pipe: EmojiPipeline) -> None:
    steps = 300  # in bfloat16 several steps share a timestep
    plan = make_plan(pipe.transformer, steps=steps)
    pipe.transformer.to(torch.bfloat16)
    with apply_plan(pipe, plan, "error") as session, saying(pipe, session, SOME["the first"]):
        draw(pipe, steps)
        assert (session.report().computed, session.report().steps) == (4, steps)


class TestPlansForSeveralStepCounts:
    @pytest.fixture
    def merged(self, pipe: EmojiPipeline) -> Plan:
        return merge_plans([make_plan(pipe.transformer, (0, 1, 4), steps=8), make_plan(pipe.transformer)], "both")

    def test_the_time_of_a_said_step_tells_which(self, pipe: EmojiPipeline, merged: Plan) -> None:
        with apply_plan(pipe, merged, "error") as session, saying(pipe, session, SOME["all"]):
            draw(pipe)
            assert (session.report().computed, session.report().steps) == (4, STEPS)

    def test_another_time_does_not(self, pipe: EmojiPipeline, merged: Plan) -> None:
        pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        told = pytest.raises(PlanMismatchError, match="the time of step 1 is that of none of the plan's 2 grids")
        with apply_plan(pipe, merged, "error") as session, saying(pipe, session, SOME["all"]), told:
            draw(pipe)


def test_a_run_may_begin_at_a_said_step_of_the_schedulers_grid(pipe: EmojiPipeline, plan: Plan) -> None:
    """As image to image does; without a scheduler that keeps the grid nothing is known of such a run."""
    later = tiny.pipeline()
    later.transformer = pipe.transformer
    with apply_plan(later, plan) as session:
        later.scheduler.set_timesteps(sigmas=list(plan.section.grid.timesteps))
        later.scheduler.set_begin_index(4)
        with session.at(step=4):
            call(later)
        assert session.report().off_plan == ""
    told = pytest.raises(PlanMismatchError, match="its run began at step 4")
    with apply_plan(later.transformer, plan, "error") as session, session.at(step=4), told:
        call(later)


def test_a_said_step_does_not_take_a_cancelled_run_up(pipe: EmojiPipeline, plan: Plan) -> None:
    def cancel(_: Any, step: int, *__: Any) -> None:
        if step == 3:
            raise InterruptedError

    with apply_plan(pipe, plan, "adapt") as session:
        with pytest.raises(InterruptedError), saying(pipe, session, SOME["all"]):
            pipe("red heart", num_inference_steps=STEPS, true_cfg_scale=2.0, callback_on_step_end=cancel)
        assert session.report().steps == 4
        pipe.scheduler.set_timesteps(sigmas=list(plan.section.grid.timesteps))
        pipe.scheduler.set_begin_index(4)
        with session.at(step=4):
            call(pipe)
        assert session.report().steps == 1


def call(pipe: EmojiPipeline) -> None:
    width, embeds = pipe.transformer.config.in_channels, torch.zeros(1, 2, 24)
    pipe.transformer(
        hidden_states=torch.zeros(1, 16, width),
        encoder_hidden_states=embeds,
        pooled_projections=torch.zeros(1, 24),
        timestep=torch.ones(1) * (1 - 4 / STEPS),
        img_ids=torch.zeros(16, 3),
        txt_ids=torch.zeros(2, 3),
    )


def test_a_thread_may_run_several_samplers_in_turn(pipe: EmojiPipeline, plan: Plan) -> None:
    """Step by step, two runs from other noise; each has features of its own."""
    grid = plan.section.grid.timesteps
    pipe.scheduler.set_timesteps(sigmas=list(grid))

    def answer(session: Session, lane: int, step: int) -> Tensor:
        told = {"img_ids": torch.zeros(16, 3), "txt_ids": torch.zeros(2, 3), "timestep": torch.ones(1) * grid[step]}
        told |= {"encoder_hidden_states": words, "pooled_projections": torch.zeros(1, 24)}
        noise = torch.randn(1, 16, 48, generator=torch.Generator().manual_seed(100 * lane + step))
        with session.at(step=step, lane=lane):
            found: Tensor = pipe.transformer(hidden_states=noise, **told, return_dict=False)[0]
        return found

    words, steps = torch.zeros(1, 2, 24), range(STEPS)
    with apply_plan(pipe.transformer, plan, "error") as session:
        apart = [[answer(session, lane, step) for step in steps] for lane in range(2)]
        in_turn = [[answer(session, lane, step) for lane in range(2)] for step in steps]
        with session.at(lane=1):
            assert (session.report(own=True).computed, session.report(own=True).steps) == (4, STEPS)
    assert all(torch.equal(apart[lane][step], in_turn[step][lane]) for step in steps for lane in range(2))


@pytest.mark.parametrize("step", [-1, 1.5, "3", torch.tensor(1.5)])
def test_what_is_no_step_is_refused(pipe: EmojiPipeline, plan: Plan, step: Any) -> None:
    refused = pytest.raises(ClockError, match="a whole one from 0 on, got")
    with apply_plan(pipe, plan) as session, refused, session.at(step=step):
        draw(pipe)


class Timeless(FluxTransformer2DModel):  # type: ignore[misc]
    """Its signature does not name the timestep."""

    def forward(self, **kwargs: Any) -> Any:
        return super().forward(**kwargs)


def test_where_no_time_is_given_every_step_is_to_be_said(pipe: EmojiPipeline) -> None:
    pipe.transformer.__class__ = Timeless
    with apply_plan(pipe.transformer, make_plan(pipe.transformer), "error") as session:
        with saying(pipe, session, SOME["all"]):
            draw(pipe)
        assert session.report().computed == 4
        with saying(pipe, session, SOME["the first"]), pytest.raises(ClockError, match="say the step"):
            draw(pipe)
