"""Runs that are not the plan's: adapted, in sections, begun midway, or under another plan of the thread."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import tiny
import torch
from plans import STEPS, make_plan
from spies import overhear
from torch import Tensor

from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.search.assemble import with_groups
from hyca_runtime import Plan, PlanError, PlanMismatchError, PlanMismatchWarning, apply_plan, merge_plans
from hyca_runtime.schedule import FEATURE
from hyca_runtime.solvers import Hold, Newton


def draw(pipe: EmojiPipeline, steps: int, seed: int = 1, **kwargs: Any) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    options = {"num_inference_steps": steps, "output_type": "latent", "return_dict": False, **kwargs}
    latents: Tensor = pipe(["red heart", "blue cat"], generator=generator, **options)[0]
    return latents


@pytest.mark.parametrize(("steps", "computed"), [(6, 4), (9, 4), (24, 4), (50, 4), (STEPS, 4)])
def test_adapted_runs_compute_as_often_in_their_own_time(pipe: EmojiPipeline, steps: int, computed: int) -> None:
    with warnings.catch_warnings(), apply_plan(pipe, make_plan(pipe.transformer), "adapt") as session:
        warnings.simplefilter("error")  # adapting was asked for, there is nothing to warn of
        found = draw(pipe, steps)
        report = session.report()
    assert (report.computed, report.steps) == (computed, steps)
    assert ("adapted" in str(report)) == (steps != STEPS)
    full = draw(pipe, steps)
    assert not torch.equal(found, full)
    assert (found - full).square().mean() < 0.05 * full.square().mean()


def test_adapted_forecasts_are_extrapolations_in_the_samplers_time(pipe: EmojiPipeline) -> None:
    """Newton 1 on sigma: the feature at 24 steps' third call is the line through its first two."""
    plan = make_plan(pipe.transformer, computed=(0, 1), solvers=(Newton(1),))
    seen = overhear(pipe.transformer.norm_out)
    with apply_plan(pipe, plan, "adapt") as session:
        draw(pipe, 24)
        assert session.report().computed == 2
    # computed at positions 0 and 1 of the plan (calls 0 and 2); call 1 is held from call 0
    torch.testing.assert_close(seen[1], seen[0])
    torch.testing.assert_close(seen[3], seen[2] + (seen[2] - seen[0]) / 2, rtol=1e-4, atol=1e-5)


def test_fitted_groups_adapt_by_their_fallback(pipe: EmojiPipeline) -> None:
    from hyca_runtime.solvers import Fitted

    plan = make_plan(pipe.transformer, computed=(0, 1), solvers=(Hold(),))
    group = plan.section.forecast.groups_of()[0]
    taps = Fitted(tuple(range(2, STEPS)), torch.ones(STEPS - 2, 1, 1).numpy()).spec()
    fitted = group.model_copy(update={"solver": taps, "fallback": Hold().spec()})
    section = with_groups(plan.section, [fitted])
    with apply_plan(pipe, Plan(name="fitted", sections=(section,)), "adapt"):
        found = draw(pipe, 24)
    with apply_plan(pipe, plan, "adapt"):
        assert torch.equal(draw(pipe, 24), found)
    assert group.model_copy(update={"solver": taps}).closed_form == Newton(1).spec()


def test_a_plan_with_sections_follows_each(pipe: EmojiPipeline) -> None:
    plan = merge_plans(
        [make_plan(pipe.transformer, (0, 1, 4, 8)), make_plan(pipe.transformer, (0, 1, 3), steps=6)], "two"
    )
    with apply_plan(pipe, plan, "error") as session:
        for steps, computed in ((STEPS, 4), (6, 3), (STEPS, 4)):
            draw(pipe, steps)
            assert (session.report().computed, session.report().steps) == (computed, steps)
        with pytest.raises(PlanMismatchError, match="the sampler's 7 timesteps"):
            draw(pipe, 7)
    bare = apply_plan(pipe.transformer, plan, "error")  # no scheduler: the second timestep tells
    for steps, computed in ((6, 3), (STEPS, 4)):
        draw(pipe, steps)
        assert bare.report().computed == computed
    bare.remove()


def test_sections_of_the_same_grid_are_refused(pipe: EmojiPipeline) -> None:
    with pytest.raises(PlanError, match="with the same timesteps"):
        merge_plans([make_plan(pipe.transformer), make_plan(pipe.transformer, (0, 2))], "twice")
    with pytest.raises(PlanError, match="share their cache points"):
        merge_plans(
            [make_plan(pipe.transformer), make_plan(pipe.transformer, steps=6, computed=(0, 1), point="output")], "x"
        )


def test_a_thread_may_follow_another_plan_or_none(pipe: EmojiPipeline) -> None:
    plans = [make_plan(pipe.transformer, computed) for computed in ((0, 1, 4, 8), (0, 6))]
    full, expected = draw(pipe, STEPS), []
    for plan in plans:
        with apply_plan(pipe, plan):
            expected.append(draw(pipe, STEPS))
    with apply_plan(pipe, plans[0]) as session:
        for _ in range(2):
            assert torch.equal(draw(pipe, STEPS), expected[0])
            with session.following(plans[1]):
                assert torch.equal(draw(pipe, STEPS), expected[1])
                assert session.report().computed == 2
            with session.following(None):
                assert torch.equal(draw(pipe, STEPS), full)
        with (
            pytest.raises(PlanMismatchError, match="cached at 'output'"),
            session.following(make_plan(pipe.transformer, point="output")),
        ):
            pass
        other = make_plan(tiny.pipeline(heads=4).transformer)
        with pytest.raises(PlanMismatchError, match="another configuration"), session.following(other):
            pass
        assert torch.equal(draw(pipe, STEPS), expected[0])


def test_the_scheduler_is_asked_instead_of_the_device(pipe: EmojiPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a timestep waits for the GPU: once for each branch and run, whatever the number of steps."""
    from hyca_runtime.attach.timestep import Timestep

    reads, read = [0], Timestep._read
    monkeypatch.setattr(Timestep, "_read", lambda now: (reads.__setitem__(0, reads[0] + 1), read(now))[1])
    monkeypatch.setattr(Timestep, "waits", True)  # as on a GPU
    with apply_plan(pipe, make_plan(pipe.transformer), "error"):
        draw(pipe, STEPS, true_cfg_scale=3.0)
        assert reads == [2]
    with apply_plan(pipe, make_plan(pipe.transformer), "adapt"):
        draw(pipe, 24)
        assert reads == [3]


def test_another_shift_is_another_grid(pipe: EmojiPipeline) -> None:
    """Same number of steps, same first timestep, other times between."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    plan = make_plan(pipe.transformer)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    full = draw(pipe, STEPS)
    with apply_plan(pipe, plan), pytest.warns(PlanMismatchWarning, match="the sampler's 12 timesteps are none"):
        assert torch.equal(draw(pipe, STEPS), full)


def test_memory_is_said_before_and_after(pipe: EmojiPipeline) -> None:
    plan = make_plan(pipe.transformer)
    points = {FEATURE: plan.section.forecast.model_copy(update={"numel": 16 * 32})}
    plan = Plan(name="x", sections=(plan.section.model_copy(update={"points": points}),))
    with apply_plan(pipe, plan) as session:
        assert session.memory(samples=2) == 2 * 2 * 16 * 32 * 4  # history, samples, tokens, channels, bytes
        assert "no step has run yet; at most 0.00391 MiB of features" in str(session.report())
        draw(pipe, STEPS)
        assert session.report().cache_bytes == session.memory(samples=2)
        held = [
            state.histories[FEATURE].nbytes
            for _, lane in session._executors["transformer"].lanes_of(False)
            for state in lane.streams.values()
        ]
        assert held == [0]  # given back with the last step


def test_a_mistyped_way_with_mismatches_is_refused(pipe: EmojiPipeline) -> None:
    with pytest.raises(PlanError, match="on_mismatch: expected one of compute, adapt, error, got 'raise'"):
        apply_plan(pipe, make_plan(pipe.transformer), "raise")  # type: ignore[arg-type]
    apply_plan(pipe, make_plan(pipe.transformer), "error").remove()
