"""The runtime on a tiny FLUX: exact where nothing is predicted, exactly the weighted sum where it is."""

from __future__ import annotations

import copy
import gc
import warnings
from functools import partial
from typing import Any

import pytest
import tiny
import torch
from plans import STEPS, make_plan
from spies import overhear
from torch import Tensor

from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_runtime import (
    AttachError,
    ClockError,
    Plan,
    PlanMismatchError,
    PlanMismatchWarning,
    apply_plan,
    session_of,
)
from hyca_runtime.solvers import AdamsBashforth, Hold, Newton

PROMPTS = ["red heart", "blue cat"]


def draw(pipe: EmojiPipeline, prompts: list[str] | None = None, seed: int = 1, **kwargs: Any) -> Tensor:
    options = {"num_inference_steps": STEPS, "output_type": "latent", **kwargs}
    generator = torch.Generator().manual_seed(seed)
    latents: Tensor = pipe(prompts or PROMPTS, generator=generator, return_dict=False, **options)[0]
    return latents


def count_block_calls(pipe: EmojiPipeline) -> list[int]:
    calls = [0]
    for block in [*pipe.transformer.transformer_blocks, *pipe.transformer.single_transformer_blocks]:
        block.attn.register_forward_pre_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    return calls


@pytest.mark.parametrize("point", ["trunk", "output"])
def test_an_all_compute_plan_changes_no_bit(pipe: EmojiPipeline, point: str) -> None:
    full = draw(pipe)
    with apply_plan(pipe, make_plan(pipe.transformer, range(STEPS), point=point)) as session:
        assert torch.equal(draw(pipe), full)
        assert session.report().computed == STEPS


@pytest.mark.parametrize("point", ["trunk", "output"])
def test_removal_restores_everything(pipe: EmojiPipeline, point: str) -> None:
    full = draw(pipe)
    before = [vars(m).get("forward") for m in pipe.transformer.modules()]
    session = apply_plan(pipe, make_plan(pipe.transformer, point=point))
    assert not torch.equal(draw(pipe), full)
    session.remove()
    session.remove()
    assert [vars(m).get("forward") for m in pipe.transformer.modules()] == before
    assert "cache_context" not in vars(pipe.transformer)
    assert torch.equal(draw(pipe), full)


def test_no_block_runs_on_a_predicted_step(pipe: EmojiPipeline, plan: Plan) -> None:
    calls = count_block_calls(pipe)
    with apply_plan(pipe, plan) as session:
        draw(pipe)
        assert calls[0] == 4 * len(plan.section.schedule.computed_steps)
        report = session.report()
    assert (report.computed, report.steps) == (4, STEPS)
    assert "4 of 12 steps computed (3.0x fewer, 2.94x by FLOPs of the transformer)" in str(report)


def test_output_point_calls_nothing(pipe: EmojiPipeline) -> None:
    calls = [0]
    pipe.transformer.x_embedder.register_forward_pre_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    with apply_plan(pipe, make_plan(pipe.transformer, point="output")):
        draw(pipe)
    assert calls[0] == 4


def test_a_prediction_is_the_weighted_sum_of_computed_features(pipe: EmojiPipeline) -> None:
    """Forecasts are what the final norm receives, compared with a sum written out here."""
    plan = make_plan(pipe.transformer, solvers=(AdamsBashforth(2), Newton(2), Hold()))
    seen = overhear(pipe.transformer.norm_out)
    with apply_plan(pipe, plan):
        draw(pipe)
    for step, taps in plan.section.taps().items():
        weights = torch.from_numpy(taps.weights)
        expected = sum(w * seen[s] for w, s in zip(weights, taps.history, strict=True))
        torch.testing.assert_close(seen[step], expected, rtol=1e-6, atol=1e-6)


def test_a_second_run_equals_the_first(pipe: EmojiPipeline, plan: Plan) -> None:
    with apply_plan(pipe, plan):
        first = draw(pipe)
        draw(pipe, ["green star"], seed=9)
        assert torch.equal(draw(pipe), first)


def test_a_cancelled_run_leaves_no_trace(pipe: EmojiPipeline, plan: Plan) -> None:
    def cancel(pipe: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if step == 5:
            raise KeyboardInterrupt
        return tensors

    with apply_plan(pipe, plan):
        clean = draw(pipe)
        with pytest.raises(KeyboardInterrupt):
            draw(pipe, ["green star"], seed=9, callback_on_step_end=cancel)
        assert torch.equal(draw(pipe), clean)


def test_guidance_branches_do_not_mix(pipe: EmojiPipeline) -> None:
    """With equal conditions on both sides guidance changes nothing; a mixed history would."""
    plan = make_plan(pipe.transformer)
    with apply_plan(pipe, plan) as session:
        single = draw(pipe, [""])
        guided = draw(pipe, [""], true_cfg_scale=3.0)
        report = session.report()
    torch.testing.assert_close(guided, single, rtol=1e-4, atol=1e-5)
    assert {stream[1] for stream in report.streams} == {"cond", "uncond"}
    assert all(count.computed == 4 for count in report.streams.values())


def test_other_steps_are_computed_in_full_and_said_once(pipe: EmojiPipeline, plan: Plan) -> None:
    full = draw(pipe, num_inference_steps=7)
    with apply_plan(pipe, plan) as session:
        with pytest.warns(PlanMismatchWarning, match="computed in full"):
            first = draw(pipe, num_inference_steps=7)
        assert torch.equal(first, full)
        draw(pipe, num_inference_steps=7)  # a second warning would be an error here
        assert "none of the plan's 12" in session.report().off_plan
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            draw(pipe)
        assert session.report().computed == 4


def test_half_the_steps_share_times_with_the_plan_and_are_computed_in_full(pipe: EmojiPipeline, plan: Plan) -> None:
    full = draw(pipe, num_inference_steps=6)
    with apply_plan(pipe, plan), pytest.warns(PlanMismatchWarning):
        assert torch.equal(draw(pipe, num_inference_steps=6), full)


def test_other_steps_can_be_an_error(pipe: EmojiPipeline, plan: Plan) -> None:
    with apply_plan(pipe, plan, on_mismatch="error"), pytest.raises(PlanMismatchError, match="for 12 steps"):
        draw(pipe, num_inference_steps=7)


def test_half_precision_times_are_told_apart(pipe: EmojiPipeline) -> None:
    pipe.transformer.to(torch.bfloat16)
    pipe.text_encoder.to(torch.bfloat16)
    plan = make_plan(pipe.transformer, (0, 1, 20, 50, 90), steps=100)
    with apply_plan(pipe, plan, on_mismatch="error") as session:
        out = draw(pipe, num_inference_steps=100)
        assert session.report().computed == 5
    assert out.isfinite().all()


def test_another_model_is_refused_untouched(pipe: EmojiPipeline) -> None:
    other = tiny.pipeline(heads=4)
    with pytest.raises(PlanMismatchError, match="another configuration"):
        apply_plan(pipe, make_plan(other.transformer))
    section = make_plan(pipe.transformer).section
    wan = section.model.model_copy(update={"transformer": "WanTransformer3DModel"})
    renamed = Plan(name="renamed", sections=(section.model_copy(update={"model": wan}),))
    with pytest.raises(PlanMismatchError, match="is for a WanTransformer3DModel, got a FluxTransformer2DModel"):
        apply_plan(pipe, renamed)
    assert all("forward" not in vars(module) for module in pipe.transformer.modules())


def test_a_second_plan_and_a_diffusers_cache_are_refused(pipe: EmojiPipeline, plan: Plan) -> None:
    from diffusers import FirstBlockCacheConfig

    with apply_plan(pipe, plan), pytest.raises(AttachError, match=r"a plan applied already; .*session_of"):
        apply_plan(pipe, plan)
    pipe.transformer.enable_cache(FirstBlockCacheConfig())
    with pytest.raises(AttachError, match="disable_cache"):
        apply_plan(pipe, plan)


def test_a_session_that_nobody_kept_is_found(pipe: EmojiPipeline, plan: Plan) -> None:
    assert session_of(pipe) is None
    apply_plan(pipe, plan)
    gc.collect()
    draw(pipe)
    found = session_of(pipe.transformer)
    assert found is not None
    assert found is session_of(pipe)
    assert found.report().computed == 4
    found.remove()
    assert session_of(pipe) is None
    assert "forward" not in vars(pipe.transformer)


@pytest.mark.parametrize("said", [{"lane": "a"}, {"branch": 3}, {"step": -1}, {"chunk": 1.5}])
def test_what_cannot_be_said_of_a_call(pipe: EmojiPipeline, plan: Plan, said: dict[str, Any]) -> None:
    with apply_plan(pipe, plan) as session, pytest.raises(ClockError, match="expected"), session.at(**said):
        pass


def test_removal_under_another_wrapper_hands_every_call_through(pipe: EmojiPipeline, plan: Plan) -> None:
    """An offload hook around ours keeps its hold on our forward; nothing of the plan may be left in it."""
    full = draw(pipe)
    session = apply_plan(pipe, plan)
    pipe.transformer.forward = partial(pipe.transformer.forward)
    session.remove()
    assert torch.equal(draw(pipe), full)
    with apply_plan(pipe, plan) as session:
        assert not torch.equal(draw(pipe), full)
        assert session.report().computed == 4
    assert torch.equal(draw(pipe), full)


def test_two_models_do_not_touch(pipe: EmojiPipeline, plan: Plan) -> None:
    other = tiny.pipeline(seed=5)
    alone = draw(other)
    with apply_plan(pipe, plan):
        mine = draw(pipe)
        assert torch.equal(draw(other), alone)
        assert torch.equal(draw(pipe), mine)


def test_batch_size_may_change_between_runs(pipe: EmojiPipeline, plan: Plan) -> None:
    with apply_plan(pipe, plan):
        both = draw(pipe)
        one = draw(pipe, PROMPTS[:1])
        assert len(one) == 1
        assert torch.equal(draw(pipe), both)


def test_explicit_steps_overrule_the_timestep(pipe: EmojiPipeline) -> None:
    plan = make_plan(pipe.transformer, (0, 1))
    with apply_plan(pipe, plan) as session:
        with session.at(0):
            draw(pipe, num_inference_steps=1)
        with session.at(1):
            draw(pipe, num_inference_steps=1)
        with session.at(2):
            draw(pipe, num_inference_steps=1)
        report = session.report()
    assert (report.computed, report.steps) == (2, 3)


def test_a_network_that_was_replaced_is_told_of(pipe: EmojiPipeline, plan: Plan) -> None:
    network = pipe.transformer
    with apply_plan(pipe, plan) as session:
        draw(pipe)
        for inner in (torch.compile(network, backend="eager"), torch.nn.Sequential(network)):
            pipe.transformer = inner
            assert session.report().off_plan == ""
        pipe.transformer = copy.deepcopy(network)
        draw(pipe)
        assert session.report().off_plan == "the pipeline has another network by now; apply the plan to it again"


def test_reset_forgets(pipe: EmojiPipeline, plan: Plan) -> None:
    with apply_plan(pipe, plan) as session:
        draw(pipe)
        assert session.report().cache_bytes == 2 * 2 * 16 * 32 * 4  # history, batch, tokens, channels, bytes
        session.reset()
        assert session.report().cache_bytes == 0
        assert str(session.report()) == "no step has run yet"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "order", "backend"),
    [
        ("trunk", "plan first", "inductor"),
        ("trunk", "compile first", "aot_eager"),
        ("trunk", "one graph", "aot_eager"),
        ("trunk", "blocks", "aot_eager"),
        ("trunk:residual", "compile first", "aot_eager"),
        ("output", "plan first", "aot_eager"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_compiled(point: str, order: str, backend: str) -> None:
    """Same pictures as eager; blocks whose weights turn to NaN after the last computed step are not run."""
    torch._dynamo.reset()
    pipe = tiny.pipeline(blocks=1)
    plan = make_plan(pipe.transformer, point=point)
    with apply_plan(pipe, plan):
        eager = draw(pipe)
    original = pipe.transformer
    weights = [p for name, p in original.named_parameters() if "blocks" in name]
    kept = [p.detach().clone() for p in weights]

    @torch.no_grad()
    def poison(pipe: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if step == plan.section.schedule.computed_steps[-1]:
            for p in weights:
                p.fill_(float("nan"))
        return {}

    if order in ("compile first", "one graph"):
        pipe.transformer = torch.compile(original, backend=backend, fullgraph=order == "one graph")
    session = apply_plan(pipe, plan)
    if order == "plan first":
        pipe.transformer = torch.compile(original, backend=backend)
    elif order == "blocks":
        original.compile_repeated_blocks(fullgraph=True, backend=backend)
    for _ in range(2):
        torch.testing.assert_close(draw(pipe, callback_on_step_end=poison), eager, rtol=1e-3, atol=1e-4)
        for p, value in zip(weights, kept, strict=True):
            p.data.copy_(value)
    assert session.report().computed == 4
    session.remove()
    assert all("forward" not in vars(module) for module in original.modules())
