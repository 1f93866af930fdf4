"""Lanes of one sample that a pipeline draws with its own call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import tiny
import torch
from diffusers import DiffusionPipeline, UniPCMultistepScheduler
from plans import STEPS, changed, make_plan
from torch import Tensor

from hyca_calib.demo import demo_pipeline
from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.demo.glyphs.pipeline import GlyphPipeline
from hyca_runtime import Plan, apply_plan
from hyca_runtime.errors import SamplerError
from hyca_runtime.plan_facts import TimeGrid
from hyca_runtime.samplers import AfterHits, Hit, LanesRun, OnceClose, sample_chords
from hyca_runtime.solvers import Hold

STARTS, ALL = (0, 2, 5, 8), AfterHits(None)
COMMON: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "latent", "return_dict": False}

Made = tuple[DiffusionPipeline, dict[str, Any]]
PIPELINES: dict[str, Callable[[], Made]] = {
    "guided in two calls": lambda: (tiny.pipeline(), {"prompt": "red heart", "true_cfg_scale": 2.0}),
    "not guided": lambda: (tiny.pipeline(), {"prompt": ["red heart", "blue cat"]}),
    "guided in one call, DDIM": lambda: (tiny.glyphs(), {"class_labels": "Q", "num_inference_steps": 20}),
}


def arguments(**told: Any) -> dict[str, Any]:
    return {**COMMON, "generator": torch.Generator().manual_seed(0), **told}


def draw(pipe: Any, **told: Any) -> Tensor:
    latents: Tensor = pipe(**arguments(**told))[0]
    return latents


def lanes(pipe: Any, starts: Sequence[int] = STARTS, prompt: str = "red heart", **told: Any) -> LanesRun:
    return sample_chords(pipe, starts=starts, prompt=prompt, **arguments(**told))


def ddim_plan(pipe: DiffusionPipeline) -> Plan:
    """The usual one, at times of DDIM."""
    pipe.scheduler.set_timesteps(20)
    times = tuple(float(t) for t in pipe.scheduler.timesteps)
    grid = TimeGrid(
        scheduler="DDIMScheduler",
        timesteps=times,
        axis="step",
        axis_times=tuple(map(float, range(20))),
        scheduler_timesteps=times,
    )
    return changed(make_plan(pipe.transformer, (0, 1, 6, 12), steps=20), grid=grid)


@pytest.mark.parametrize("kind", PIPELINES)
class TestAnyPipeline:
    def test_one_lane_is_the_pipeline_to_the_bit(self, kind: str) -> None:
        pipe, told = PIPELINES[kind]()
        assert torch.equal(sample_chords(pipe, starts=(0,), **arguments(**told)).output[0], draw(pipe, **told))

    def test_the_slow_lane_is_the_pipeline_to_the_bit(self, kind: str) -> None:
        pipe, told = PIPELINES[kind]()
        run = sample_chords(pipe, starts=STARTS, stop=ALL, **arguments(**told))
        assert torch.equal(run.output[0], draw(pipe, **told))
        assert run.calls == run.computed == tuple(run.lanes.num_steps - start for start in STARTS)

    def test_the_pipeline_is_as_it_was(self, kind: str) -> None:
        pipe, told = PIPELINES[kind]()
        scheduler, before = pipe.scheduler, dict(vars(pipe.scheduler))
        config = dict(pipe.config)
        sample_chords(pipe, starts=STARTS, **arguments(**told))
        assert pipe.scheduler is scheduler
        assert dict(vars(scheduler)) == before
        assert dict(pipe.config) == config


def test_finished_samples_are_decoded_and_returned_as_ever(pipe: EmojiPipeline) -> None:
    run = lanes(pipe, output_type="np", return_dict=True)
    assert run.output.images.shape == (1, 16, 16, 3)
    assert run.output.images == pytest.approx(pipe.decode(run.hits[-1].latents, "np"))


def test_passes_calls_and_early_samples_are_told(pipe: EmojiPipeline) -> None:
    told = list[Hit]()
    calls = count(pipe)
    run = lanes(pipe, on_hit=told.append, true_cfg_scale=2.0)
    assert tuple(told) == run.hits
    assert [(hit.lane, hit.passes) for hit in told] == [(3, 4), (3, 7)]
    assert (run.passes, run.calls, run.computed_passes, run.spare) == (7, (7, 6, 5, 4), 7, 0)
    assert len(calls) == 2 * sum(run.calls)
    assert str(run).splitlines()[0] == "4 lanes: 7 passes instead of 12 steps, 22 evaluations, 22 computed, on 7 passes"
    assert str(run).splitlines()[-1] == "  lane 3 from step 8: 4 of 4 computed, sample after pass 7"


def count(pipe: EmojiPipeline) -> list[float]:
    """The times that the network is called with, in order."""
    calls, network = list[float](), pipe.transformer
    inner = network.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        calls.append(float(kwargs["timestep"][0]))
        return inner(*args, **kwargs)

    network.forward = forward
    return calls


def test_the_loop_ends_with_a_residual_that_is_small(pipe: EmojiPipeline) -> None:
    gaps = [hit.gap or 0.0 for hit in lanes(pipe, stop=ALL).hits]
    calls = count(pipe)
    run = lanes(pipe, stop=OnceClose(1.001 * gaps[2]))
    assert [hit.gap for hit in run.hits[1:]] == gaps[1:3]
    assert len(calls) == sum(run.calls)


class WithACopy(EmojiPipeline):
    """It goes through a list of its own."""

    def _denoised(self, latents: Tensor, predict: Any, *_: Any) -> Tensor:
        for step, timestep in enumerate(list(torch.cat([self.scheduler.timesteps]))):
            latents = self.scheduler.step(predict(latents, step, timestep), timestep, latents).prev_sample
        return latents


class Sliced(EmojiPipeline):
    """It begins later."""

    def _denoised(self, latents: Tensor, predict: Any, *_: Any) -> Tensor:
        for step, timestep in enumerate(self.scheduler.timesteps[3:]):
            latents = self.scheduler.step(predict(latents, step, timestep), timestep, latents, return_dict=False)[0]
        return latents


class Idle(EmojiPipeline):
    """It does not step."""

    def _denoised(self, latents: Tensor, *_: Any) -> Tensor:
        for _timestep in self.scheduler.timesteps:
            pass
        return latents


class Interrupted(EmojiPipeline):
    """It ends before its time."""

    def _denoised(self, latents: Tensor, *_: Any) -> Tensor:
        return latents


class Noisy(GlyphPipeline):
    """It steps with noise."""

    def _denoised(self, latents: Tensor, *_: Any) -> Tensor:
        stepped: Tensor = self.scheduler.step(latents, self.scheduler.timesteps[0], latents, eta=0.5)
        return stepped


class TestOtherLoops:
    def test_a_copy_of_the_timesteps_will_do(self) -> None:
        expected = lanes(tiny.pipeline()).output[0]
        pipe = tiny.as_kind(WithACopy)
        assert torch.equal(lanes(pipe).output[0], expected)

    @pytest.mark.parametrize(
        ("kind", "told"),
        [
            (Sliced, "begins at the first timestep of its scheduler"),
            (Idle, "without a step of its scheduler"),
            (Interrupted, "did not take all steps of its scheduler"),
        ],
    )
    def test_loops_that_cannot_be_led(self, kind: type[EmojiPipeline], told: str) -> None:
        pipe = tiny.as_kind(kind)
        scheduler = pipe.scheduler
        with pytest.raises(SamplerError, match=told):
            lanes(pipe)
        assert pipe.scheduler is scheduler

    def test_a_scheduler_of_several_outputs(self) -> None:
        pipe = demo_pipeline("demo-video")
        pipe.scheduler = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
        with pytest.raises(SamplerError, match="UniPCMultistepScheduler is not known to step from one output"):
            lanes(pipe)

    def test_a_step_with_noise(self) -> None:
        pipe = tiny.glyphs()
        pipe.__class__ = Noisy
        with pytest.raises(SamplerError, match=r"steps without eta, got 0\.5"):
            sample_chords(pipe, starts=STARTS, **arguments(class_labels="Q", num_inference_steps=20))

    def test_a_callback_that_changes_the_latents(self, pipe: EmojiPipeline) -> None:
        """One that leaves them as they are is called as ever."""
        seen: list[int] = []

        def looks(_: Any, step: int, __: Any, told: dict[str, Any]) -> dict[str, Any]:
            seen.append(step)
            return {"latents": told["latents"].clone()}

        one: dict[str, Any] = {"starts": [0], "stop": ALL}
        assert torch.equal(lanes(pipe, callback_on_step_end=looks, **one).output[0], draw(pipe, prompt="red heart"))
        assert len(seen) == STEPS
        with pytest.raises(SamplerError, match="callback_on_step_end, changed the latents between two steps"):
            lanes(pipe, callback_on_step_end=lambda *told: {"latents": told[3]["latents"] * 0.5}, **one)


class TestOneBatch:
    @pytest.mark.parametrize("prompts", [1, 2])
    def test_is_as_one_after_another(self, pipe: EmojiPipeline, prompts: int) -> None:
        def drawn(where: Any) -> LanesRun:
            told = arguments(generator=[torch.Generator().manual_seed(seed) for seed in range(prompts)])
            prompt = ["red heart", "blue cat"][:prompts]
            return sample_chords(pipe, starts=STARTS, where=where, prompt=prompt, true_cfg_scale=2.0, **told)

        apart, together = drawn("one after another"), drawn("one batch")
        assert together.output[0].shape == apart.output[0].shape
        assert (apart.output[0] - together.output[0]).abs().max() < 1e-5
        assert (together.passes, together.calls) == (apart.passes, apart.calls)
        assert (apart.spare, together.spare) == (0, 4 * 7 - 22)

    def test_makes_one_call_a_pass(self, pipe: EmojiPipeline) -> None:
        calls = count(pipe)
        run = lanes(pipe, where="one batch", return_dict=True, output_type="pil")
        assert (len(calls), len(run.output.images)) == (7, 1)

    def test_takes_noise(self, pipe: EmojiPipeline) -> None:
        noise = torch.randn(1, 16, 48, generator=torch.Generator().manual_seed(1))
        apart, together = (
            lanes(pipe, latents=noise, where=where).output[0] for where in ("one after another", "one batch")
        )
        assert (apart - together).abs().max() < 1e-5

    def test_needs_times_for_each_sample(self) -> None:
        told = arguments(class_labels="Q", num_inference_steps=20)
        with pytest.raises(SamplerError, match="GlyphPipeline cannot draw lanes in one batch"):
            sample_chords(tiny.glyphs(), starts=STARTS, where="one batch", **told)

    def test_needs_a_generator_for_each_sample(self, pipe: EmojiPipeline) -> None:
        with pytest.raises(SamplerError, match="a generator for each sample"):
            sample_chords(pipe, starts=STARTS, where="one batch", **arguments(prompt=["red heart", "blue cat"]))

    def test_needs_to_know_what_to_repeat(self, pipe: EmojiPipeline) -> None:
        with pytest.raises(SamplerError, match="need one of prompt"):
            sample_chords(pipe, starts=STARTS, where="one batch", **arguments())


class TestPlans:
    def test_one_lane_is_the_plan_to_the_bit(self, pipe: EmojiPipeline, plan: Plan) -> None:
        with apply_plan(pipe, plan) as session:
            expected = draw(pipe, prompt="red heart", true_cfg_scale=2.0)
            run = lanes(pipe, starts=(0,), session=session, true_cfg_scale=2.0)
        assert torch.equal(run.output[0], expected)
        assert (run.computed, run.computed_passes) == ((4,), 4)

    @pytest.mark.parametrize("kind", PIPELINES)
    def test_the_slow_lane_is_the_plan_to_the_bit(self, kind: str) -> None:
        pipe, told = PIPELINES[kind]()
        plan = make_plan(pipe.transformer) if "prompt" in told else ddim_plan(pipe)
        with apply_plan(pipe, plan) as session:
            expected = draw(pipe, **told)
            assert session.report().computed == 4
            run = sample_chords(pipe, starts=STARTS, stop=ALL, session=session, **arguments(**told))
        assert torch.equal(run.output[0], expected)
        assert run.computed[0] == 4
        assert 0 < run.computed[1] < run.calls[1]

    def test_each_lane_has_features_of_its_own(self, pipe: EmojiPipeline) -> None:
        """Every lane at steps 0, 1, 4 and 8, and at its first; a feature that is held serves at once."""
        plan = make_plan(pipe.transformer, solvers=(Hold(),))
        with apply_plan(pipe, plan, "adapt") as session:
            run = lanes(pipe, stop=ALL, session=session)
            again = lanes(pipe, stop=ALL, session=session)
            assert session.memory() is None
            assert session.report().cache_bytes > 0
        assert run.computed == again.computed == (4, 3, 2, 1)
        assert run.computed_passes == 8
        assert torch.equal(run.output[0], again.output[0])

    def test_a_lane_computes_until_it_has_what_the_plan_takes(self, pipe: EmojiPipeline, plan: Plan) -> None:
        with apply_plan(pipe, plan) as session:
            run = lanes(pipe, starts=(0, 2), stop=ALL, session=session)
        assert run.computed[1] > sum(step >= 2 for step in (0, 1, 4, 8))

    def test_a_corrected_lane_may_drop_its_features(self, pipe: EmojiPipeline) -> None:
        plan = make_plan(pipe.transformer, solvers=(Hold(),))
        with apply_plan(pipe, plan, "adapt") as session:
            kept, dropped = (
                lanes(pipe, stop=ALL, session=session, histories=histories) for histories in ("kept", "dropped")
            )
        assert kept.computed == (4, 3, 2, 1)
        assert dropped.computed[0] == 4  # never corrected
        assert all(more > fewer for more, fewer in zip(dropped.computed[1:], kept.computed[1:], strict=True))
        assert not torch.equal(kept.hits[1].latents, dropped.hits[1].latents)

    def test_a_corrected_lane_may_carry_its_features_over(self, pipe: EmojiPipeline) -> None:
        """Where it computed a step that the slower lane comes to; nothing more is computed for it."""
        plan = make_plan(pipe.transformer, range(0, 12, 4), solvers=(Hold(),))
        with apply_plan(pipe, plan, "adapt") as session:
            kept, carried = (
                lanes(pipe, (0, 2), stop=ALL, session=session, histories=histories) for histories in ("kept", "carried")
            )
        assert carried.computed == kept.computed
        assert torch.equal(carried.hits[-1].latents, kept.hits[-1].latents)  # never corrected
        assert not torch.equal(carried.hits[1].latents, kept.hits[1].latents)

    def test_each_lane_may_follow_a_plan_of_its_own(self, pipe: EmojiPipeline) -> None:
        plan, often = (make_plan(pipe.transformer, s, solvers=(Hold(),)) for s in ((0, 4, 8), range(0, 12, 2)))
        with apply_plan(pipe, plan, "adapt") as session:
            run = lanes(pipe, stop=ALL, session=session, plans=(often, plan, None, plan))
        assert run.computed == (6, 3, 7, 1)

    def test_no_lane_holds_features_afterwards(self, pipe: EmojiPipeline, plan: Plan) -> None:
        with apply_plan(pipe, plan) as session:
            lanes(pipe, session=session)
            left = [lane for _, lane in session._executors["transformer"].lanes_of(False)]
            assert len(left) == 4
            assert all(state.nbytes == 0 for lane in left for state in lane.streams.values())
            lanes(pipe, session=session)
            expected = draw(pipe, prompt="red heart")
        with apply_plan(pipe, plan):
            assert torch.equal(draw(pipe, prompt="red heart"), expected)

    def test_what_cannot_be(self, pipe: EmojiPipeline, plan: Plan) -> None:
        with apply_plan(pipe, plan) as session:
            with pytest.raises(SamplerError, match="in one batch share their calls"):
                lanes(pipe, session=session, where="one batch")
            with pytest.raises(SamplerError, match="expected one for each of 4 lanes, and a session"):
                lanes(pipe, session=session, plans=(plan,))
            with pytest.raises(SamplerError, match="expected one of 'kept', 'dropped', 'carried', got 'lost'"):
                lanes(pipe, session=session, histories="lost")
            with pytest.raises(SamplerError, match="expected 'one after another', 'one batch' or 'ranks'"):
                lanes(pipe, where="elsewhere")
        with apply_plan(pipe, plan, "error") as session, pytest.raises(SamplerError, match="begin without features"):
            lanes(pipe, session=session)
