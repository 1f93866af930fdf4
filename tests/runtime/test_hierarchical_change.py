"""Two decisions in one call, structure and detail, against the published rule worked out again here, and by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from numpy.typing import NDArray
from plans import alike, changed, make_plan
from torch import Tensor

from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_runtime import Plan, apply_plan
from hyca_runtime.errors import AttachError
from hyca_runtime.moment import Moment
from hyca_runtime.policies import HierarchicalChange, PooledChange
from hyca_runtime.policies.hierarchical_change import pooled
from hyca_runtime.schedule import COMPUTE, EVERY, Action, Schedule
from hyca_runtime.solvers import Hold

STEPS, SPLIT = 12, 3
Array = NDArray[np.float64]

DETAIL, BOTH = Action(forecast=("detail",)), Action(forecast=("structure", "detail"))
PALETTE = (COMPUTE, DETAIL, BOTH)
POLICY = HierarchicalChange(0.3, SPLIT, 1.5, tokens=(8, 4))


@pytest.fixture
def pipe() -> EmojiPipeline:
    return tiny.pipeline(blocks=3)


def draw(pipe: EmojiPipeline, guidance: float = 1.0, prompts: Sequence[str] = ("red heart",)) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    call: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "latent", "return_dict": False}
    latents: Tensor = pipe(list(prompts), generator=generator, true_cfg_scale=guidance, **call)[0]
    return latents


def points_of(pipe: EmojiPipeline, span: str, detail: str = f"behind:{SPLIT + 1}") -> dict[str, Any]:
    width = pipe.transformer.inner_dim
    return {"structure": alike(f"{span}:residual", 2 * width, Hold()), "detail": alike(detail, width, Hold())}


def deciding_plan(
    pipe: EmojiPipeline, policy: HierarchicalChange | None, most: int | None = None, **fields: Any
) -> Plan:
    told: dict[str, Any] = {
        "points": points_of(pipe, "span:transformer_blocks.1..transformer_blocks.2"),
        "schedule": Schedule(palette=PALETTE, tables={EVERY: (0,) + (2,) * (STEPS - 1)}),
        "action_flops": (6.0, 4.0, 2.0),
        "policy": policy and policy.spec(most),
    }
    return changed(make_plan(pipe.transformer, computed=[0], steps=STEPS), **told | fields)


class Seen:
    """Both streams, one after the other, around the probes, and what reaches the final norm."""

    def __init__(self, network: Any) -> None:
        blocks = [*network.transformer_blocks, *network.single_transformer_blocks]
        self.calls, self.ended = [0] * len(blocks), list[Array]()
        self.entered: dict[int, list[Array]] = {0: [], SPLIT: []}
        self.left: dict[int, list[Array]] = {0: [], SPLIT: []}
        for number, block in enumerate(blocks):
            block.register_forward_pre_hook(lambda *_, i=number: self.calls.__setitem__(i, self.calls[i] + 1))
        for number in (0, SPLIT):
            blocks[number].register_forward_hook(lambda *a, i=number: self._saw(i, *a), with_kwargs=True)
        network.norm_out.register_forward_pre_hook(lambda _, args: self.ended.append(args[0][0].double().numpy()))

    def _saw(self, number: int, _: Any, args: Any, kwargs: dict[str, Any], output: tuple[Tensor, Tensor]) -> None:
        assert not args
        came = (kwargs["encoder_hidden_states"], kwargs["hidden_states"])
        self.entered[number].append(torch.cat(came, 1)[0].double().numpy())
        self.left[number].append(torch.cat(output, 1)[0].double().numpy())


def squares(tokens: Array, number: int) -> Array:
    side = len(tokens) // number
    return np.array(tokens.reshape(len(tokens) // side, side, -1, side).mean((1, 3)))


def relative(now: Array, before: Array) -> float:
    return float(np.abs(before - now).mean() / np.abs(before).mean())


def h2cache(seen: Seen, pictures: int) -> list[Action]:
    """The published rule on what the probes added; checks that what is reused is the latest residual."""
    actions, stored, detail_threshold = list[Action](), dict[str, Array](), POLICY.threshold * POLICY.ratio
    for step in range(STEPS):
        came, mid, left = seen.left[0][step], seen.entered[SPLIT][step], seen.left[SPLIT][step][-pictures:]
        first = squares((came - seen.entered[0][step])[-pictures:], 8)
        second = squares(left - mid[-pictures:], 4)
        if step and relative(first, stored["first"]) < POLICY.threshold:
            actions.append(BOTH)
            np.testing.assert_allclose(mid, came + stored["structure"], rtol=1e-5, atol=1e-5)
        else:
            stored |= {"first": first, "structure": mid - came}
            near = step > 0 and relative(second, stored["second"]) < detail_threshold
            actions.append(DETAIL if near else COMPUTE)
        if actions[-1] is COMPUTE:
            stored |= {"second": second, "detail": seen.ended[step] - left}
        np.testing.assert_allclose(seen.ended[step], left + stored["detail"], rtol=1e-5, atol=1e-5)
    return actions


def test_the_published_rule(pipe: EmojiPipeline) -> None:
    with apply_plan(pipe, deciding_plan(pipe, POLICY), "error") as session:
        seen = Seen(pipe.transformer)
        draw(pipe)
        report = session.report()
    actions = h2cache(seen, len(seen.ended[0]))
    count = {action: actions.count(action) for action in PALETTE}
    assert min(count.values()) > 1, count
    assert report.streams["", "cond", 0, 0].actions == count
    assert report.waits == STEPS + STEPS - count[BOTH], "one wait for each probe that is asked"
    fresh = count[COMPUTE] + count[DETAIL]
    assert seen.calls == [STEPS, fresh, fresh, STEPS, count[COMPUTE], count[COMPUTE]]
    assert report.flops_ratio == pytest.approx(6 * STEPS / (6 * count[COMPUTE] + 4 * count[DETAIL] + 2 * count[BOTH]))


@pytest.mark.parametrize("ratio", [0.0, 1.5])
def test_a_threshold_of_nothing_changes_no_bit(pipe: EmojiPipeline, ratio: float) -> None:
    full = draw(pipe, 3.0, ("red heart", "blue cat"))
    with apply_plan(pipe, deciding_plan(pipe, HierarchicalChange(0.0, SPLIT, ratio)), "error") as session:
        assert torch.equal(draw(pipe, 3.0, ("red heart", "blue cat")), full)
        assert session.report().computed == STEPS


def test_branches_and_runs_do_not_see_each_other(pipe: EmojiPipeline) -> None:
    plan = deciding_plan(pipe, POLICY)
    with apply_plan(pipe, plan, "error") as session:
        guided = draw(pipe, 3.0)
        assert len(session.report().streams) == 2
        draw(pipe, 1.0, ("blue cat",))
        assert torch.equal(draw(pipe, 3.0), guided)
    with apply_plan(pipe, Plan.model_validate_json(plan.model_dump_json()), "error"):
        assert torch.equal(draw(pipe, 3.0), guided), "saved and loaded it does the same"


def test_beyond_the_bound_the_detail_is_forecast(pipe: EmojiPipeline) -> None:
    with apply_plan(pipe, deciding_plan(pipe, HierarchicalChange(0.0, SPLIT), most=3), "error") as session:
        draw(pipe)
        assert session.report().streams["", "cond", 0, 0].actions == {COMPUTE: 3, DETAIL: STEPS - 3}


def test_by_hand() -> None:
    schedule, moment = Schedule(palette=PALETTE, tables={EVERY: (0, 2)}), Moment(0, 1, 0, 2)
    policy = HierarchicalChange(0.2, 5, 1.5)
    assert policy.behind == PooledChange(pytest.approx(0.3), 384)  # type: ignore[arg-type]

    def said(by: HierarchicalChange | PooledChange, evidence: tuple[float, ...] | None) -> Action:
        return by.decide((), moment, schedule, evidence)[0]

    assert [said(policy, e) for e in (None, (0.19,), (0.2,), (0.1, 0.3), (float("nan"),))] == [
        COMPUTE,
        BOTH,
        *[COMPUTE] * 3,
    ]
    assert [said(policy.behind, e) for e in (None, (0.29,), (0.31,))] == [COMPUTE, DETAIL, COMPUTE]
    tokens = torch.tensor([[[1.0, 3.0, 0.0], [5.0, 7.0, 9.0], [1.0, 1.0, 4.0], [2.0, 4.0, 4.0]]])
    assert pooled(tokens, 2).tolist() == [[[4.0], [2.0]]], "squares of two by two; a channel is left over"
    assert torch.equal(pooled(tokens, 9), tokens), "fewer tokens than that stay as they are"
    assert policy.measure(pooled(tokens, 2) + 1.5, pooled(tokens, 2)).tolist() == [0.5]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"threshold": -1.0, "split": 3}, "threshold must be 0 or more"),
        ({"threshold": 1.0, "split": 1}, "split must be a whole number above 1, got 1"),
        ({"threshold": 1.0, "split": 3, "ratio": -1.0}, "ratio must be 0 or more"),
        ({"threshold": 1.0, "split": 3, "tokens": (0, 1)}, "tokens must be two whole numbers above 0"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        HierarchicalChange(**settings)


def test_a_plan_with_other_points_or_actions_is_refused(pipe: EmojiPipeline) -> None:
    with pytest.raises(ValueError, match=r"needs the points \['span:\*.1..\*.2:residual', 'behind:4'\], got"):
        deciding_plan(pipe, POLICY, points=points_of(pipe, "span:transformer_blocks.1..transformer_blocks.1"))
    upside_down = Schedule(palette=(COMPUTE, BOTH, DETAIL), tables={EVERY: (0,) * STEPS})
    with pytest.raises(ValueError, match=r"needs actions that forecast .* in this order"):
        deciding_plan(pipe, POLICY, schedule=upside_down)


def test_a_structure_behind_the_split_is_refused(pipe: EmojiPipeline) -> None:
    span = "span:single_transformer_blocks.1..single_transformer_blocks.2"
    with pytest.raises(
        AttachError, match=r"ends at single_transformer_blocks\.2, behind the 4 blocks that lead 'detail'"
    ):
        apply_plan(pipe, deciding_plan(pipe, POLICY, points=points_of(pipe, span)))


def test_a_structure_without_a_probe_of_the_detail_is_refused() -> None:
    pipe = tiny.pipeline(blocks=3)
    pipe.transformer.transformer_blocks = pipe.transformer.transformer_blocks[:1]
    points = points_of(pipe, "span:single_transformer_blocks.1..single_transformer_blocks.1", "behind:3")
    policy = HierarchicalChange(0.1, 2)
    with pytest.raises(AttachError, match="leaves no block between it and 'behind:3'"):
        apply_plan(pipe, deciding_plan(pipe, policy, points=points))


def test_spans_and_what_is_behind_by_steps(pipe: EmojiPipeline) -> None:
    """The same actions without a policy; what a step keeps is what it computed."""
    schedule = Schedule(palette=PALETTE, tables={EVERY: (0, 1, 2, 1, 2, 0, 2, 2, 1, 1, 2, 2)})
    with apply_plan(pipe, deciding_plan(pipe, None, schedule=schedule), "error"):
        seen = Seen(pipe.transformer)
        draw(pipe)
    assert seen.calls == [12, 6, 6, 12, 2, 2]
