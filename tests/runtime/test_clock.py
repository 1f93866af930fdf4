"""What the clock reads off a scheduler."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import tiny
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from hyca_runtime.attach.clock import Clock

STEPS = 4


def test_the_schedulers_time_is_that_of_its_step() -> None:
    pipe = tiny.pipeline()
    clock, seen = Clock(pipe.transformer, pipe), []
    pipe.transformer.register_forward_pre_hook(lambda *_: seen.append(clock.scheduler_time()))
    pipe("red cat", num_inference_steps=STEPS)
    assert seen == pytest.approx([1000, 750, 500, 250])
    assert clock.scheduler_time() is None  # after its last step


def test_a_scheduler_that_was_not_stepped_is_at_its_first_time() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(STEPS)
    assert scheduler.step_index is None
    pipe = SimpleNamespace(scheduler=scheduler)
    assert Clock(tiny.pipeline().transformer, pipe).scheduler_time() == scheduler.timesteps[0].item()


@pytest.mark.parametrize("scheduler", [None, DDIMScheduler()], ids=["none", "without a step index"])
def test_no_time_without_a_scheduler_that_says_where_it_is(scheduler: object) -> None:
    pipe = SimpleNamespace(scheduler=scheduler)
    assert Clock(tiny.pipeline().transformer, pipe).scheduler_time() is None


@pytest.mark.parametrize(
    ("time", "place"),
    [(1000.0, 0), (1.0, 0), (500.0, 2), (0.5, 2), (0.0, 0), (0.77, 0)],
    ids=["first", "in thousandths", "third", "third in thousandths", "time that rises", "nowhere"],
)
def test_a_scheduler_that_was_not_told_where_it_begins_is_where_the_call_is(time: float, place: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.0])
    network = tiny.pipeline().transformer
    clock = Clock(network, SimpleNamespace(scheduler=scheduler))
    clock.timestep((), {"timestep": torch.tensor([time])})
    assert clock.index() == place
    scheduler.set_begin_index(1)
    assert clock.index() == 1
