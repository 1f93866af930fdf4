"""Decisions inside a call, on what its leading blocks make: the rule of DiCache, worked out again here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from spies import Witness
from torch import Tensor

from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.pipelines.by_hand import hand_plan
from hyca_runtime import AttachError, Plan, PlanError, apply_plan
from hyca_runtime.combine import forecast
from hyca_runtime.errors import ForecastWarning
from hyca_runtime.feature import Feature
from hyca_runtime.history import History
from hyca_runtime.plan import parse_plan
from hyca_runtime.point import parse_point

STEPS, DELTA = 12, 0.15


def draw(
    pipe: EmojiPipeline, prompts: tuple[str, ...] = ("red heart",), guidance: float = 1.0, steps: int = STEPS
) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    call: dict[str, Any] = {"num_inference_steps": steps, "output_type": "latent", "return_dict": False}
    latents: Tensor = pipe(list(prompts), generator=generator, true_cfg_scale=guidance, **call)[0]
    return latents


def probing_plan(pipe: EmojiPipeline, point: str = "trunk:residual", most: int | None = None, **settings: Any) -> Plan:
    plan = hand_plan(pipe, parse_point(point), lambda: draw(pipe), lambda steps: [0])
    content = json.loads(plan.model_dump_json())
    section = content["sections"][0]
    section["policy"] = {"name": "probed_change", "configuration": settings, "max_computed": most}
    for groups in section["points"]["feature"]["groups"].values():
        groups[0]["solver"] = {"name": "aligned", "configuration": {"limit": 1.5}}
    return parse_plan(content, "test")


def published(seen: Witness, threshold: float, retained: float, whole: bool) -> tuple[list[int], list[Tensor]]:
    """The computed steps, and what reaches the final norm on each step, by the rule of the paper on one sample."""
    computed, ended, total = list[int](), list[Tensor](), 0.0
    features, probes = list[Tensor](), list[Tensor]()
    for step in range(STEPS):
        x, y = seen.entered[step], seen.reached[step]
        base, full = (x if whole else y), seen.ended[step]
        forced = step <= int(retained * STEPS) or step == STEPS - 1
        change = float((y - seen.reached[step - 1]).abs().mean() / seen.reached[step - 1].abs().mean()) if step else 0.0
        total = 0.0 if forced else total + change
        if forced or total >= threshold:
            computed.append(step)
            features, probes, total = [full - base, *features[:1]], [y - x, *probes[:1]], 0.0
            ended.append(full)
        else:
            gamma = (y - x - probes[1]).abs().mean() / (probes[0] - probes[1]).abs().mean()
            ended.append(base + features[1] + gamma.clamp(1, 1.5) * (features[0] - features[1]))
    return computed, ended


@pytest.mark.parametrize(("point", "blocks"), [("trunk:residual", 1), ("behind:1", 1), ("trunk:residual", 3)])
def test_the_published_rule(pipe: EmojiPipeline, point: str, blocks: int) -> None:
    plan = probing_plan(pipe, point, threshold=DELTA, blocks=blocks, retained=0.2)
    with apply_plan(pipe, plan, "error") as session:
        seen = Witness(pipe.transformer, blocks)
        draw(pipe)
        report = session.report()
    computed, ended = published(seen, DELTA, 0.2, point == "trunk:residual")
    assert 4 < len(computed) < STEPS - 2, "neither all nor only what is forced"
    assert (report.computed, report.steps, report.waits) == (len(computed), STEPS, STEPS)
    for got, expected in zip(seen.ended, ended, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    lead, rest = seen.calls[:blocks], seen.calls[blocks:]
    assert lead == [STEPS] * blocks, "the probe is computed once in every call, and gone on from"
    assert rest == [len(computed)] * len(rest)
    assert "12 decisions waited for the device" in str(report)


@pytest.mark.parametrize("point", ["trunk:residual", "behind:1"])
def test_a_threshold_of_nothing_changes_no_bit(pipe: EmojiPipeline, point: str) -> None:
    full = draw(pipe, ("red heart", "blue cat"), 3.0)
    with apply_plan(pipe, probing_plan(pipe, point, threshold=0.0), "error") as session:
        assert torch.equal(draw(pipe, ("red heart", "blue cat"), 3.0), full)
        assert session.report().computed == STEPS
    assert torch.equal(draw(pipe, ("red heart", "blue cat"), 3.0), full)


def test_a_batch_follows_its_most_demanding_sample(pipe: EmojiPipeline) -> None:
    plan = probing_plan(pipe, threshold=DELTA)
    alone = []
    with apply_plan(pipe, plan, "error") as session:
        for prompt in ("red heart", "blue cat"):
            draw(pipe, (prompt,))
            alone.append(session.report().computed)
        together = draw(pipe, ("red heart", "blue cat"))
        assert session.report().computed >= max(alone)
        assert torch.equal(draw(pipe, ("red heart", "blue cat")), together)


def test_branches_decide_on_their_own_and_memory_is_given_back(pipe: EmojiPipeline) -> None:
    plan = probing_plan(pipe, threshold=DELTA)
    with apply_plan(pipe, plan, "error") as session:
        found = draw(pipe, guidance=3.0)
        assert set(session.report().streams) == {("", "cond", 0, 0), ("", "uncond", 0, 0)}
        assert session.report().cache_bytes > 0
        held = [
            s.nbytes for _, lane in session._executors["transformer"].lanes_of(False) for s in lane.streams.values()
        ]
        assert held == [0, 0]
        draw(pipe, ("blue cat",))
        assert torch.equal(draw(pipe, guidance=3.0), found)


def test_networks_that_cannot_be_probed_so_are_refused_at_once(pipe: EmojiPipeline) -> None:
    full = draw(pipe)
    with pytest.raises(AttachError, match="'behind:9' needs blocks behind, the network has 4"):
        apply_plan(pipe, probing_plan(pipe, threshold=DELTA, blocks=9))
    assert torch.equal(draw(pipe), full)
    with pytest.raises(PlanError, match="blocks: Input should be a valid integer, got '1"):
        probing_plan(pipe, threshold=DELTA, blocks=1.5)


def test_other_plans_probe_with_blocks_of_their_own(pipe: EmojiPipeline) -> None:
    plans = [probing_plan(pipe, threshold=DELTA, blocks=blocks) for blocks in (1, 3)]
    alone = []
    for plan in plans:
        with apply_plan(pipe, plan):
            alone.append(draw(pipe))
    with apply_plan(pipe, plans[0]) as session, session.following(plans[1]):
        assert torch.equal(draw(pipe), alone[1])


def test_a_forecast_that_is_no_number_is_told(pipe: EmojiPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [0]

    def spoilt(history: History, weights: Sequence[Tensor]) -> Feature:
        calls[0] += 1
        found = forecast(history, weights)
        return Feature([part * float("nan") for part in found], found.form) if calls[0] == 1 else found

    monkeypatch.setattr("hyca_runtime.forecasting.forecast", spoilt)
    with apply_plan(pipe, probing_plan(pipe, threshold=DELTA)), pytest.warns(ForecastWarning):
        assert draw(pipe).isfinite().all()


def test_no_run_computes_more_than_the_plan_says(pipe: EmojiPipeline) -> None:
    with apply_plan(pipe, probing_plan(pipe, threshold=0.0, most=5), "error") as session:
        assert draw(pipe).isfinite().all()
        assert session.report().computed == 5


def test_a_run_of_more_steps_may_compute_as_large_a_share_of_them(pipe: EmojiPipeline) -> None:
    with apply_plan(pipe, probing_plan(pipe, threshold=0.0, most=STEPS // 2), "adapt") as session:
        draw(pipe, steps=2 * STEPS)
        assert abs(session.report().computed - STEPS) <= 1
        draw(pipe, steps=STEPS - 2)
        assert session.report().computed == STEPS // 2


@pytest.mark.parametrize(
    ("point", "change", "reason"),
    [
        ("trunk", {}, r"needs one point, one of \('trunk:residual', 'behind:1'\), got \['trunk'\]"),
        ("behind:2", {}, r"needs one point, one of \('trunk:residual', 'behind:1'\), got \['behind:2'\]"),
        ("behind:1", {"policy": {"name": "scheduled"}}, "'aligned' forecasts all channels, under a policy that probes"),
        (
            "behind:1",
            {"policy": {"name": "probed_change", "configuration": {"threshold": -1.0}}},
            "threshold must be 0",
        ),
        ("behind:1", {"policy": {"name": "probed_chang"}}, 'did you mean "probed_change"'),
        ("behind:1", {"policy": {"name": "probed_change"}}, "does not take"),
    ],
)
def test_what_does_not_fit_is_refused(pipe: EmojiPipeline, point: str, change: dict[str, Any], reason: str) -> None:
    content = json.loads(probing_plan(pipe, threshold=DELTA).model_dump_json())
    content["sections"][0] |= change
    content["sections"][0]["points"]["feature"]["at"] = json.loads(parse_point(point).model_dump_json())
    with pytest.raises(PlanError, match=reason):
        parse_plan(content, "test")
