"""Step, branch and block under one policy, against the published rule worked out again here, and by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from plans import alike, changed, mixed_plan
from torch import Tensor

from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.demo.glyphs.pipeline import GlyphPipeline
from hyca_calib.pipelines.by_hand import hand_plan
from hyca_runtime import Plan, apply_plan
from hyca_runtime.moment import Moment
from hyca_runtime.point import parse_point
from hyca_runtime.policies import MixedGranularity
from hyca_runtime.policies.mixed_granularity import Mixed
from hyca_runtime.schedule import COMPUTE, EVERY, Action, Schedule
from hyca_runtime.solvers import Hold

STEPS = 12
OUTPUT, BLOCK = Action(forecast=("output",)), Action(forecast=("block",))
PALETTE = (COMPUTE, BLOCK, OUTPUT)
EVEN = {"step": 1.0, "branch": 1.0, "block": 1.0}
POLICY = MixedGranularity(0.2, EVEN, "cond", warmup=2, initial=3)


def draw(pipe: EmojiPipeline, guidance: float = 3.0, prompts: Sequence[str] = ("red heart", "cat")) -> Tensor:
    call: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "latent", "return_dict": False}
    generator = torch.Generator().manual_seed(1)
    latents: Tensor = pipe(list(prompts), generator=generator, true_cfg_scale=guidance, **call)[0]
    return latents


def glyph(pipe: GlyphPipeline) -> Tensor:
    call: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "latent", "return_dict": False}
    latents: Tensor = pipe(["A"], generator=torch.Generator().manual_seed(1), guidance_scale=3.0, **call)[0]
    return latents


def blocks_of(network: Any) -> list[Any]:
    return [*network.transformer_blocks, *getattr(network, "single_transformer_blocks", ())]


def counted(network: Any) -> list[int]:
    """Calls of each block from now on, times samples."""
    blocks = blocks_of(network)
    calls = [0] * len(blocks)

    def hear(number: int, _: Any, args: Any, kwargs: dict[str, Any]) -> None:
        calls[number] += len((*args, kwargs.get("hidden_states"))[0])

    for number, block in enumerate(blocks):
        block.register_forward_pre_hook(lambda *a, n=number: hear(n, *a), with_kwargs=True)
    return calls


Changes = Callable[[int], Mapping[str, float]]


def decided(policy: MixedGranularity, changes: Changes, steps: int = STEPS) -> list[str]:
    """What each step of a run does in which reuse of each granularity would have been so far off."""
    schedule, state, found = Schedule(palette=PALETTE, tables={EVERY: (0,) * steps}), policy.begin(), list[str]()
    for step in range(steps):
        actions = {}
        for branch in ("cond", "uncond"):
            moment = Moment(0, step, step - 1, steps, branch)
            actions[branch], state = policy.decide(state, moment, schedule)
            if actions[branch].computes and policy.wants(state, moment):
                off = changes(step) if step else {}
                output = off.get("step" if branch == "cond" else "branch")
                told = {"output": (output, 0.0), "block": (0.0, off["block"])} if output is not None else {}
                state = policy.learn(state, moment, told)
        cond, uncond = actions.values()
        kinds = {(COMPUTE, COMPUTE): "", (COMPUTE, OUTPUT): "branch", (OUTPUT, OUTPUT): "step", (BLOCK, BLOCK): "block"}
        found.append(kinds[cond, uncond])
    return found


def mixcache(policy: MixedGranularity, changes: Changes, steps: int = STEPS) -> list[str]:
    """The rule, from its statement."""
    done, latest, interval, since, d = list[str](), "", policy.initial, list[str](), dict[str, float]()
    weight = {name: policy.impact[name] for name in ("step", "branch", "block")}
    for step in range(steps):
        if step < max(2, policy.warmup) or len(since) + 1 >= interval:
            done.append("")
            if step:
                d = dict(changes(step))
                p = {name: d[name] * weight[name] for name in weight}
                reused = since or ([min(p, key=p.__getitem__)] if interval == 1 else [])
                astray = max((p[name] / weight["step"] for name in reused), default=None)
                if astray is not None and astray > policy.threshold:
                    interval = max(policy.shortest, interval - 1)
                elif astray is not None and astray < policy.ratio * policy.threshold:
                    interval = min(policy.longest, interval + 1)
            since = []
            continue
        p = {name: d[name] * weight[name] * (5 if name == latest else 1) for name in weight}
        latest = min(p, key=p.__getitem__)
        done.append(latest)
        since.append(latest)
    return done


def constantly(**changes: float) -> Changes:
    return lambda step: changes


@pytest.mark.parametrize(
    ("changes", "choices"),
    [
        ({"step": 0.3, "branch": 0.2, "block": 0.1}, ["block", "branch", "block", "branch"]),
        ({"step": 0.1, "branch": 0.2, "block": 0.4}, ["step", "branch", "step", "branch"]),
        ({"step": 0.1, "branch": 0.1, "block": 0.1}, ["step", "branch", "step", "branch"]),  # ties
        ({"step": 0.1, "branch": 0.6, "block": 0.51}, ["step", "step", "step", "step"]),  # 5 P still wins
        ({"step": 0.1, "branch": 0.6, "block": 0.49}, ["step", "block", "step", "block"]),
        ({"step": 0.1, "branch": 0.5, "block": 0.5}, ["step", "step", "step", "step"]),  # a tie with 5 P
        ({"step": 0.4, "branch": 0.1, "block": 0.2}, ["branch", "block", "branch", "block"]),
    ],
)
def test_the_least_distance_times_impact_is_chosen(changes: dict[str, float], choices: list[str]) -> None:
    policy = replace(POLICY, initial=5, longest=5, threshold=9.0)
    assert decided(policy, constantly(**changes), 6) == ["", "", *choices]
    double = replace(policy, impact={"step": 2.0, "branch": 0.5, "block": 1.0})
    halved = {"step": changes["step"] / 2, "branch": 2 * changes["branch"], "block": changes["block"]}
    assert decided(double, constantly(**halved), 6) == ["", "", *choices], "impact counts as distance does"


def test_the_choice_before_a_computed_step_counts() -> None:
    policy = replace(POLICY, initial=2, longest=2)
    found = decided(policy, constantly(step=0.1, branch=0.2, block=0.3), 9)
    assert found == ["", "", "step", "", "branch", "", "step", "", "branch"]


def test_the_interval_follows_what_went_astray() -> None:
    """Of threshold 0.2: below 0.1 it grows, above 0.2 it shrinks, between it stays; it keeps its bounds."""

    def gaps(off: float, initial: int) -> list[int]:
        policy = replace(POLICY, initial=initial, impact={"step": 0.5, "branch": 1.0, "block": 1.0})
        found = decided(policy, constantly(step=off, branch=9.0, block=9.0), 40)
        computed = [step for step, kind in enumerate(found) if not kind]
        return [after - step for step, after in itertools.pairwise(computed)]

    assert gaps(0.09, 2)[:8] == [1, 2, 3, 4, 5, 6, 6, 6]
    assert gaps(0.15, 3)[:5] == [1, 3, 3, 3, 3]
    assert gaps(0.3, 4)[:8] == [1, 4, 3, 2, 1, 1, 1, 1]
    assert gaps(float("nan"), 3)[:5] == [1, 3, 2, 1, 1], "what is no number is far"


@pytest.mark.parametrize("seed", range(8))
def test_the_rule(seed: int) -> None:
    generator = np.random.default_rng(seed)
    numbers = generator.lognormal(-2, 1, (60, 3))
    impact = dict(zip(EVEN, generator.lognormal(0, 1, 3).tolist(), strict=True))
    policy = MixedGranularity(float(numbers.mean()), impact, "cond", warmup=seed, initial=1 + seed % 3)

    def changes(step: int) -> dict[str, float]:
        return dict(zip(EVEN, numbers[step].tolist(), strict=True))

    found = decided(policy, changes, 60)
    assert found == mixcache(policy, changes, 60)
    assert len({*found}) > 2


@pytest.mark.parametrize("threshold", [0.0, 9.0])
def test_a_threshold_of_nothing_and_an_interval_of_one_change_no_bit(pipe: EmojiPipeline, threshold: float) -> None:
    full = draw(pipe)
    policy = replace(POLICY, threshold=0.0) if threshold == 0 else replace(POLICY, threshold=9.0, initial=1, longest=1)
    with apply_plan(pipe, mixed_plan(pipe.transformer, policy), "error") as session:
        assert torch.equal(draw(pipe), full)
        assert session.report().computed == STEPS


@pytest.mark.parametrize("alone", ["step", "branch", "block"])
def test_each_granularity_alone(pipe: EmojiPipeline, alone: str) -> None:
    """Its calls of blocks; a wait for each branch of a computed step, but the first and the last, and no other."""
    impact = {name: 1e-6 if name == alone else 1.0 for name in EVEN}
    policy = replace(POLICY, impact=impact, initial=5, longest=5, threshold=9.0)
    computed = [0, 1, 6, 11]
    with apply_plan(pipe, mixed_plan(pipe.transformer, policy), "error") as session:
        calls = counted(pipe.transformer)
        draw(pipe)
        report = session.report()
    full, reused, samples = 4 * len(computed), STEPS - len(computed), 2
    per_step = {"step": [0, 0, 0, 0], "branch": [2, 2, 2, 2], "block": [4, 0, 4, 4]}[alone]
    assert calls == [full + reused * number for number in per_step], f"{samples} samples, two branches"
    counts = {branch: dict(count.actions) for (_, branch, _, _), count in report.streams.items()}
    action = BLOCK if alone == "block" else OUTPUT
    assert counts["uncond"] == {COMPUTE: len(computed), action: reused}
    assert counts["cond"] == ({COMPUTE: STEPS} if alone == "branch" else counts["uncond"])
    assert report.waits == 2 * (len(computed) - 2)


def test_branches_that_share_a_call() -> None:
    """The half that does not lead is left out; all halves of a step do the same."""
    pipe = tiny.glyphs()
    impact = {"step": 1.0, "branch": 1e-6}
    policy = MixedGranularity(9.0, impact, "1/2", warmup=2, initial=5, longest=5)
    full, output = glyph(pipe), parse_point("output")
    schedule = Schedule(palette=(COMPUTE, OUTPUT), tables={EVERY: (0,) * STEPS, "1/2": (0,) * STEPS})
    plan = hand_plan(pipe, {"output": output}, lambda: glyph(pipe), lambda steps: schedule)
    width = plan.section.points["output"].num_channels
    held = alike("output", width, Hold()).model_copy(update={"against": {"2/2": "1/2"}})
    fields: dict[str, Any] = {"points": {"output": held}, "stacked": 2, "action_flops": None}
    with apply_plan(pipe, changed(plan, policy=policy.spec(), **fields), "error") as session:
        calls = counted(pipe.transformer)
        found = glyph(pipe)
        assert calls == [2 * 4 + 8] * 3
        assert torch.equal(glyph(pipe), found)
        assert {branch: c.computed for (_, branch, _, _), c in session.report().streams.items()} == {
            "1/2": 12,
            "2/2": 4,
        }
    with apply_plan(pipe, changed(plan, policy=replace(policy, threshold=0.0).spec(), **fields), "error"):
        assert torch.equal(glyph(pipe), full)


def test_runs_do_not_see_each_other_and_files_mean_the_same(pipe: EmojiPipeline) -> None:
    plan = mixed_plan(pipe.transformer, POLICY)
    with apply_plan(pipe, plan, "error") as session:
        found = draw(pipe)
        assert 2 < session.report().computed < STEPS
        alone = draw(pipe, 1.0)
        assert torch.equal(draw(pipe), found)
        assert torch.equal(draw(pipe, 1.0), alone)
        states = [s for _, lane in session._executors["transformer"].lanes_of(False) for s in lane.streams.values()]
        assert [state.nbytes for state in states] == [0], "the memory is given back"
    with apply_plan(pipe, Plan.model_validate_json(plan.model_dump_json()), "error"):
        assert torch.equal(draw(pipe), found)


def test_beyond_the_bound_blocks_are_reused(pipe: EmojiPipeline) -> None:
    policy = replace(POLICY, impact={**EVEN, "branch": 1e-6}, threshold=9.0)
    with apply_plan(pipe, mixed_plan(pipe.transformer, policy, most=4), "error") as session:
        assert draw(pipe).isfinite().all()
        counts = {branch: count.computed for (_, branch, _, _), count in session.report().streams.items()}
    assert counts == {"cond": 4, "uncond": 2}


def test_a_state_is_not_changed_by_what_is_told() -> None:
    state = Mixed(2, 1.0, "", "", (), {"step": 0.1})
    after = POLICY.learn(state, Moment(0, 1, 0, 4, "cond"), {"output": (0.3,), "block": (0.2, 0.5)})
    assert (dict(state.changes), dict(after.changes)) == ({"step": 0.1}, {"step": 0.3, "block": 0.5})
    leading = state._replace(reuses="branch")
    assert [POLICY.wants(s, Moment(0, 1, 0, 4, "cond")) for s in (state, leading)] == [True, False], "full steps count"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"threshold": -1.0}, "threshold must be 0 or more, got -1.0"),
        ({"threshold": 1.0, "impact": {"block": 1.0}}, "expected impacts of 'step'"),
        ({"threshold": 1.0, "impact": {"step": 1.0, "stpe": 1.0}}, "expected impacts of 'step'"),
        ({"threshold": 1.0, "impact": {"step": 0.0}}, "impacts must be positive"),
        ({"threshold": 1.0, "impact": {"step": 1.0, "branch": 1.0}}, "a branch that leads go together, got None"),
        ({"threshold": 1.0, "ratio": 2.0}, "ratio must be from 0 to 1"),
        ({"threshold": 1.0, "penalty": 0.5}, "penalty 1 or more"),
        ({"threshold": 1.0, "initial": 9}, "shortest <= initial <= longest"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        MixedGranularity(**settings)


def test_a_plan_with_other_points_or_actions_is_refused(pipe: EmojiPipeline) -> None:
    upside_down = Schedule(palette=(COMPUTE, OUTPUT, BLOCK), tables={EVERY: (0,) * STEPS})
    with pytest.raises(ValueError, match="needs to compute, then to forecast each of"):
        mixed_plan(pipe.transformer, POLICY, schedule=upside_down)
    with pytest.raises(ValueError, match=r"needs points .*, 'output' at 'output', got"):
        mixed_plan(pipe.transformer, MixedGranularity(0.1))
    led = Schedule(palette=(COMPUTE, OUTPUT), tables=dict.fromkeys((EVERY, "cond", "uncond"), (0,) * STEPS))
    with pytest.raises(
        ValueError, match=r"lead that has a table .*, \['cond', 'uncond'\], got 'con'; correct its name"
    ):
        MixedGranularity(0.1, {"step": 1.0, "branch": 1.0}, lead="con").check_points({"output": "output"}, led)
