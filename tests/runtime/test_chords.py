"""Lanes of one sample, on velocities that are written down."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from hyca_runtime.errors import SamplerError
from hyca_runtime.samplers import PUBLISHED, AfterHits, Hit, Lanes, OnceClose, as_lanes, ruled_starts
from hyca_runtime.samplers.chords import Chords, Stop
from hyca_runtime.samplers.single_step import FlowEuler, SingleStep, single_step

STEPS, ALL = 50, AfterHits(None)

Velocity = Callable[[Tensor, float], Tensor]


def sigmas(steps: int = STEPS, shift: float = 3.0) -> Tensor:
    """Levels of a shifted rectified flow."""
    linear = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return shift * linear / (1 + (shift - 1) * linear)


def pulled(latents: Tensor, time: float) -> Tensor:
    """A curved flow."""
    return torch.sin(2 * latents) + time * latents.flip(-1) - 0.5


def noise() -> Tensor:
    return torch.randn(2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def run(
    starts: tuple[int, ...], velocity: Velocity = pulled, stop: Stop = ALL, steps: int = STEPS, **told: Any
) -> tuple[Chords, int]:
    """The lanes once they are done, and how often the velocity was asked for."""
    levels, calls = sigmas(steps), 0
    chords = Chords(Lanes(steps, starts), FlowEuler(levels), noise(), stop, **told)
    while not chords.done:
        calls += len(chords.live)
        chords.advance({n: velocity(core.latents, float(levels[core.step])) for n, core in chords.live.items()})
    return chords, calls


def sequential(velocity: Velocity, steps: int = STEPS) -> Tensor:
    latents, levels = noise(), sigmas(steps)
    for now, then in pairwise(levels):
        latents = latents.float() + (then - now) * velocity(latents, float(now))
    return latents


@pytest.mark.parametrize("starts", [*PUBLISHED.values(), (0, 12, 25, 37), (0, 1, 2, 3), (0, 49), (0,)], ids=str)
class TestAnyLanes:
    def test_the_slow_lane_is_the_sampler_to_the_bit(self, starts: tuple[int, ...]) -> None:
        chords, _ = run(starts)
        assert torch.equal(chords.result, sequential(pulled))

    def test_every_lane_finishes_at_its_pass(self, starts: tuple[int, ...]) -> None:
        hits = run(starts)[0].hits
        lanes = range(len(starts) - 1, -1, -1)
        assert [(hit.lane, hit.passes) for hit in hits[1:]] == [(k, k + STEPS - starts[k]) for k in lanes]
        assert (hits[0].lane, hits[0].passes) == (len(starts) - 1, len(starts))

    def test_corrections_are_as_counted(self, starts: tuple[int, ...]) -> None:
        told, passes, lanes = list[tuple[int, int]](), 0, Lanes(STEPS, starts)

        def call(lane: int, _: Any) -> None:
            nonlocal passes
            passes += lane == 0

        run(starts, on_correction=lambda lane, _: told.append((lane, passes)), on_call=call)
        expected = [(lane, number) for lane in range(len(starts)) for number in lanes.corrected(lane)]
        assert sorted(told) == expected

    def test_calls_are_as_counted(self, starts: tuple[int, ...]) -> None:
        lanes = Lanes(STEPS, starts)
        for hits in range(len(starts) + 1):
            chords, calls = run(starts, stop=AfterHits(hits))
            assert (chords.passes, calls) == (lanes.passes(hits), sum(lanes.calls(lanes.passes(hits))))


@pytest.mark.parametrize("starts", [*PUBLISHED.values(), (0, 12, 24, 36)], ids=str)
def test_a_velocity_of_time_alone_is_exact_on_every_lane(starts: tuple[int, ...]) -> None:
    def velocity(latents: Tensor, time: float) -> Tensor:
        return torch.full_like(latents, time**3 - time)

    chords, _ = run(starts, velocity)
    exact = sequential(velocity)
    assert all((hit.latents - exact).abs().max() < 1e-6 for hit in chords.hits[1:])  # in float32
    assert (chords.hits[0].latents - exact).abs().max() > 0.01


@pytest.mark.parametrize("starts", PUBLISHED.values(), ids=str)
def test_slower_lanes_are_nearer_and_the_second_beats_as_many_plain_steps(starts: tuple[int, ...]) -> None:
    chords, _ = run(starts)
    exact = sequential(pulled)
    errors = [float((hit.latents - exact).norm()) for hit in chords.hits]
    assert all(later < before or later < 1e-5 for before, later in pairwise(errors))
    assert errors[2] < float((sequential(pulled, chords.hits[2].passes) - exact).norm())


def test_passes_and_calls_of_the_published_lists() -> None:
    found = [(lanes.passes(1), sum(lanes.calls(lanes.passes(1)))) for lanes in (as_lanes(n, STEPS) for n in (4, 6, 8))]
    assert found == [(21, 78), (19, 99), (17, 108)]


@pytest.mark.parametrize(
    ("lanes", "last", "starts"),
    [(4, 32, (0, 8, 16, 32)), (6, 36, (0, 2, 5, 11, 22, 36)), (3, 40, (0, 30, 40)), (1, 9, (0,)), (2, 9, (0, 9))],
)
def test_the_published_rule(lanes: int, last: int, starts: tuple[int, ...]) -> None:
    assert ruled_starts(lanes, STEPS, last) == starts


def test_published_starts_scale_with_the_steps() -> None:
    assert as_lanes(4, 20).starts == (0, 3, 6, 13)
    assert as_lanes(3, 50).starts == (0, 12, 25)
    assert as_lanes((0, 5), 50).starts == (0, 5)


@pytest.mark.parametrize("starts", [(), (1, 4), (0, 4, 4), (0, 50), (0, -1)], ids=str)
def test_starts_that_are_none(starts: tuple[int, ...]) -> None:
    with pytest.raises(SamplerError, match="expected ascending steps from 0, below the sampler's 50"):
        Lanes(STEPS, starts)


def test_a_correction_heals_more_of_an_error_the_shorter_its_way() -> None:
    left = []
    for window in (8, 4, 2):
        chords, _ = run((0, window), steps=2 * window, stop=AfterHits(1))
        jump, _ = run((0, window), steps=2 * window, stop=AfterHits(0))
        exact = run((0, 1), steps=2 * window)[0].result
        left.append(float((chords.result - exact).norm() / (jump.result - exact).norm()))
    assert left == sorted(left, reverse=True)
    assert left[0] < 1


class TestStopping:
    def test_at_the_first_small_gap(self) -> None:
        every = [hit.gap for hit in run(PUBLISHED[8])[0].hits]
        assert every[0] is None
        gaps = [gap for gap in every if gap is not None]
        chords, _ = run(PUBLISHED[8], stop=OnceClose(gaps[1] * 1.001))
        assert [hit.gap for hit in chords.hits[1:]] == gaps[:2]
        assert run(PUBLISHED[8], stop=OnceClose(0.0))[0].hits[-1].lane == 0

    def test_every_sample_is_handed_out_as_it_comes(self) -> None:
        told = list[Hit]()
        chords, _ = run(PUBLISHED[4], on_hit=told.append)
        assert told == chords.hits

    @pytest.mark.parametrize("hits", [-1, 5])
    def test_after_no_such_lane(self, hits: int) -> None:
        with pytest.raises(SamplerError, match="stop after 0 to 4 lanes"):
            as_lanes(4, STEPS).passes(hits)


def stepping(scheduler: Any, steps: int) -> tuple[SingleStep, Any]:
    scheduler.set_timesteps(steps)
    return single_step(scheduler), scheduler


DDIM: dict[str, dict[str, Any]] = {
    "epsilon": {"prediction_type": "epsilon", "clip_sample": False},
    "clipped": {"prediction_type": "epsilon"},
    "velocity": {"prediction_type": "v_prediction", "clip_sample": False, "timestep_spacing": "trailing"},
    "sample": {"prediction_type": "sample", "set_alpha_to_one": False},
}
SCHEDULERS: dict[str, Callable[[], Any]] = {
    "flow": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
    **{name: partial(DDIMScheduler, **told) for name, told in DDIM.items()},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_one_step_is_the_schedulers_to_the_bit(kind: str, dtype: torch.dtype) -> None:
    sampler, scheduler = stepping(SCHEDULERS[kind](), 10)
    latents, generator = torch.randn(2, 5, generator=torch.Generator().manual_seed(1)).to(dtype), torch.Generator()
    for place, time in enumerate(scheduler.timesteps):
        output = torch.randn(2, 5, generator=generator).to(dtype)
        own = sampler.stored(sampler.step(latents, output, place, place + 1), output)
        latents = scheduler.step(output, time, latents, return_dict=False)[0]
        assert own.dtype == latents.dtype
        assert torch.equal(own, latents)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "multistep": (
        lambda: UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
        "UniPCMultistepScheduler is not known to step from one output",
    ),
    "two calls": (FlowMatchHeunDiscreteScheduler, "FlowMatchHeunDiscreteScheduler is not known to step"),
    "noise": (lambda: FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), "draws noise at every step"),
    "thresholds": (lambda: DDIMScheduler(thresholding=True), "thresholds samples by their own range"),
    "gaps": (lambda: DDIMScheduler(timestep_spacing="linspace"), "choose a number of steps that divides them"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_samplers_are_refused_with_the_reason(kind: str) -> None:
    made, reason = REFUSED[kind]
    with pytest.raises(SamplerError, match=reason):
        stepping(made(), 10)


def test_what_is_no_scheduler_is_refused() -> None:
    with pytest.raises(SamplerError, match="SimpleNamespace is not known"):
        single_step(SimpleNamespace())
