"""Networks that change hands, are wrapped, copied or replaced under a plan."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from diffusers import DDPMParallelScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from plans import STEPS, alike, changed, make_plan
from torch import Tensor, nn

from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_runtime import AttachError, Plan, PlanMismatchError, Session, apply_plan
from hyca_runtime.attach.points import find_modules
from hyca_runtime.policies import ProbedChange
from hyca_runtime.schedule import FEATURE
from hyca_runtime.solvers import Newton


def draw(pipe: Any, seed: int = 0, **options: Any) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    given = {"num_inference_steps": STEPS, "output_type": "latent", "generator": generator, **options}
    found = pipe("red heart", **given).images
    assert isinstance(found, Tensor)
    return found


def beside(pipe: EmojiPipeline) -> EmojiPipeline:
    """Another pipeline around the same network, with a scheduler of its own."""
    other = EmojiPipeline(pipe.transformer, pipe.text_encoder, FlowMatchEulerDiscreteScheduler(), image_size=16)
    other.set_progress_bar_config(disable=True)
    return other


def at_point(plan: Plan, point: str, network: Any) -> Plan:
    blocks = len(network.transformer_blocks) + len(network.single_transformer_blocks)
    wide = {"blocks": 2 * blocks, "span:transformer_blocks.0..transformer_blocks.1:residual": 2}
    return changed(plan, points={FEATURE: alike(point, wide.get(point, 1) * network.inner_dim, Newton(1))})


@pytest.mark.parametrize("after", range(0, STEPS - 1, 3))
def test_a_cancelled_run_is_not_taken_up_by_another_pipeline(pipe: EmojiPipeline, after: int) -> None:
    """Though both have one prompt and the other's first call comes where the plan's next step would."""
    other = beside(pipe)

    def cancel(_: Any, step: int, *__: Any) -> dict[str, Tensor]:
        if step == after:
            raise KeyboardInterrupt
        return {}

    with apply_plan(pipe, make_plan(pipe.transformer), "error") as session:
        alone = draw(other, seed=3)
        with pytest.raises(KeyboardInterrupt):
            draw(pipe, seed=9, callback_on_step_end=cancel)
        assert torch.equal(draw(other, seed=3), alone)
        assert session.report().computed == 4


def steps_of(by: EmojiPipeline, seed: int, session: Session, start: int = 0, **told: Any) -> Iterator[Tensor]:
    """Latents after each step of a loop of one's own, which says what is `told`, and its step if that is None."""
    scheduler, condition = by.scheduler, by._condition(["red heart"], 4, 4)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / STEPS, STEPS))
    scheduler.set_begin_index(start)
    latents = torch.randn(1, 16, 48, generator=torch.Generator().manual_seed(seed))
    for number, time in enumerate(scheduler.timesteps[start:], start):
        said: dict[str, Any] = {name: number if value is None else value for name, value in told.items()}
        with torch.no_grad(), session.at(**said):
            velocity = by.transformer(
                hidden_states=latents, timestep=time.expand(1) / 1000, **condition, return_dict=False
            )[0]
        latents = scheduler.step(velocity, time, latents, return_dict=False)[0]
        yield latents


def test_pipelines_that_take_turns_have_lanes_of_their_own(pipe: EmojiPipeline) -> None:
    other = beside(pipe)
    with apply_plan(pipe, make_plan(pipe.transformer), "error") as session:
        alone = [list(steps_of(of, seed, session, pipe=of))[-1] for seed, of in enumerate((pipe, other))]
        turns = [steps_of(of, seed, session, pipe=of, lane=seed + 1) for seed, of in enumerate((pipe, other))]
        *_, together = zip(*turns, strict=True)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_tasks_of_one_event_loop_say_each_their_own(pipe: EmojiPipeline) -> None:
    """Whatever lies between them, and an `await` inside what is said."""
    other, plan = beside(pipe), make_plan(pipe.transformer)

    async def turns(session: Session, of: EmojiPipeline, lane: int, follows: Plan | None) -> Tensor:
        with session.following(follows), session.at(pipe=of, lane=lane):
            for latents in steps_of(of, lane, session):  # noqa: B007
                await asyncio.sleep(0)
        return latents

    async def together(session: Session) -> list[Tensor]:
        return await asyncio.gather(*(turns(session, *one) for one in asked))

    with apply_plan(pipe, plan, "error") as session:
        for follows in (plan, None):
            asked = [(pipe, 0, plan), (other, 1, follows)]
            alone = [asyncio.run(turns(session, *one)) for one in asked]
            assert all(torch.equal(a, b) for a, b in zip(alone, asyncio.run(together(session)), strict=True))
    assert torch.equal(alone[1], list(steps_of(other, 1, session))[-1]), "the last was computed in full"


def test_a_thread_that_a_task_waits_for_hears_what_the_task_said(pipe: EmojiPipeline) -> None:
    async def request(session: Session) -> tuple[Tensor, Tensor]:
        with session.following(None):
            full = await asyncio.to_thread(draw, pipe)
        return full, await asyncio.to_thread(draw, pipe)

    alone = draw(pipe)
    with apply_plan(pipe, make_plan(pipe.transformer), "error") as session:
        cached = draw(pipe)
        full, told = asyncio.run(request(session))
    assert torch.equal(full, alone)
    assert torch.equal(told, cached)
    assert not torch.equal(cached, alone)


@pytest.mark.parametrize("start", [2, 3, 5])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_that_begins_late_does_not_take_up_a_cancelled_one(pipe: EmojiPipeline, start: int) -> None:
    with apply_plan(pipe, make_plan(pipe.transformer)) as session:
        alone = list(steps_of(pipe, 1, session, start, step=None))[-1]
        session.reset()
        cancelled = steps_of(pipe, 9, session, step=None)
        for _ in range(start):
            next(cancelled)
        assert torch.equal(list(steps_of(pipe, 1, session, start, step=None))[-1], alone)


@pytest.mark.parametrize("kind", [DDPMScheduler, DDPMParallelScheduler])
def test_another_sampler_that_does_not_say_where_it_is(kind: type) -> None:
    pipe = tiny.glyphs()
    pipe.scheduler.set_timesteps(STEPS)
    plan = make_plan(pipe.transformer)
    times = tuple(float(time) for time in pipe.scheduler.timesteps)
    grid = plan.section.grid.model_copy(update={"scheduler": "DDIMScheduler", "timesteps": times})
    plan = changed(plan, grid=grid.model_copy(update={"scheduler_timesteps": None}))
    pipe.scheduler = kind.from_config(pipe.scheduler.config)  # type: ignore[attr-defined]
    with apply_plan(pipe, plan, "error"), pytest.raises(PlanMismatchError, match=f"the sampler is {kind.__name__}"):
        pipe(3, num_inference_steps=STEPS, output_type="latent")


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    "point", ["trunk:residual", "behind:1", "blocks", "span:transformer_blocks.0..transformer_blocks.1:residual"]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_blocks_that_are_compiled_one_by_one(pipe: EmojiPipeline, point: str, before: bool) -> None:
    network = pipe.transformer
    plan = at_point(make_plan(network), point, network)
    with apply_plan(pipe, plan, "error"):
        eager = draw(pipe)

    def compile_blocks() -> None:
        for blocks in (network.transformer_blocks, network.single_transformer_blocks):
            for number, block in enumerate(blocks):
                blocks[number] = torch.compile(block, backend="eager")

    if before:
        compile_blocks()
    with apply_plan(pipe, plan, "error"):
        if not before:
            compile_blocks()
        assert torch.equal(draw(pipe), eager)


def test_a_session_that_was_removed_tells_of_its_last_run(pipe: EmojiPipeline, plan: Plan) -> None:
    with apply_plan(pipe, plan) as session:
        draw(pipe)
        told = str(session.report())
    assert str(session.report()) == told
    with pytest.raises(AttachError, match="no network follows the plan any more"), session.following(plan):
        pass


def test_a_network_that_is_gone_is_told_of(pipe: EmojiPipeline, plan: Plan) -> None:
    session = apply_plan(pipe, plan)
    pipe.transformer = copy.deepcopy(pipe.transformer)
    gc.collect()
    draw(pipe)
    assert str(session.report()).startswith("no network follows the plan any more")


def test_plans_that_cannot_be_applied_cannot_be_followed(pipe: EmojiPipeline) -> None:
    network: Any = pipe.transformer
    plain = at_point(make_plan(network), "trunk:residual", network)
    deep, early = (changed(plain, policy=ProbedChange(0.2, blocks=b).spec(max_computed=8)) for b in (9, 1))
    with apply_plan(pipe, plain) as session:
        with pytest.raises(AttachError), session.following(deep):
            pass
        network._parallel_config = SimpleNamespace(context_parallel_config=object())
        with pytest.raises(PlanMismatchError, match="cut over ranks"), session.following(early):
            pass
        del network._parallel_config
        with session.following(early):
            draw(pipe)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_blocks_in_another_list_are_told_of(pipe: EmojiPipeline) -> None:
    network = pipe.transformer
    with apply_plan(pipe, at_point(make_plan(network), "blocks", network)) as session:
        for name in ("transformer_blocks", "single_transformer_blocks"):
            setattr(network, name, nn.ModuleList(list(getattr(network, name))))
        draw(pipe)
        assert "a call did not come to the plan's points" in session.report().off_plan


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda of: pickle.loads(pickle.dumps(of))])  # noqa: S301
def test_streaming_networks_are_copied_without_their_plan(copied: Any) -> None:
    from hyca_runtime.attach.chunk_attention import ChunkAttention

    network = tiny.stream().transformer
    attention = ChunkAttention(network)
    attention.install()
    other = copied(network)
    attention.remove()
    kept = weakref.ref(attention)
    del attention
    gc.collect()
    assert kept() is None
    assert torch.equal(next(other.parameters()), next(network.parameters()))


def test_lists_of_modules_are_no_place_to_look(pipe: EmojiPipeline) -> None:
    paths = [place.path for place in find_modules(pipe.transformer, "*")]
    assert "transformer_blocks.0" in paths
    assert "transformer_blocks" not in paths


@pytest.mark.parametrize("axis", [5, -9])
def test_an_axis_that_features_do_not_have(pipe: EmojiPipeline, plan: Plan, axis: int) -> None:
    forecast = plan.section.points[FEATURE]
    elsewhere = forecast.at.model_copy(update={"channel_axis": axis})
    odd = changed(plan, points={FEATURE: forecast.model_copy(update={"at": elsewhere})})
    with apply_plan(pipe, odd), pytest.raises(PlanMismatchError, match="the network has 0 there"):
        draw(pipe)
