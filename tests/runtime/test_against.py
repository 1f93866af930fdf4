"""A guidance branch that remembers its difference to another one."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tiny
import torch
from plans import alike, changed, make_plan
from torch import Tensor

from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.pipelines.by_hand import hand_plan
from hyca_runtime import Plan, PlanError, apply_plan
from hyca_runtime.errors import MissingHistoryWarning
from hyca_runtime.plan import parse_plan
from hyca_runtime.point import parse_point
from hyca_runtime.schedule import COMPUTE, EVERY, FEATURE, Action, Schedule
from hyca_runtime.solvers import Hold, Newton

STEPS = 6
LEAD, OTHER = (0, 0, 0, 1, 0, 1), (0, 1, 1, 1, 0, 1)
PALETTE = (COMPUTE, Action(forecast=(FEATURE,)))


def draw(pipe: EmojiPipeline, guidance: float = 3.0, steps: int = STEPS) -> Tensor:
    call: dict[str, Any] = {"num_inference_steps": steps, "output_type": "latent", "return_dict": False}
    generator = torch.Generator().manual_seed(1)
    latents: Tensor = pipe(["red heart"], generator=generator, true_cfg_scale=guidance, **call)[0]
    return latents


def against_plan(pipe: EmojiPipeline, point: str, channels: int, solver: Any = None, **fields: Any) -> Plan:
    forecast = alike(point, channels, solver or Hold()).model_copy(update={"against": {"uncond": "cond"}})
    schedule = Schedule(palette=PALETTE, tables={EVERY: OTHER, "cond": LEAD, "uncond": OTHER})
    plan = make_plan(pipe.transformer, computed=[0], steps=STEPS)
    return changed(plan, points={FEATURE: forecast}, schedule=schedule, **fields)


def heard(module: Any) -> list[Tensor]:
    """What a network returns, call by call."""
    found = list[Tensor]()
    module.register_forward_hook(lambda *call: found.append(call[2][0].clone()))
    return found


def test_the_latest_difference_is_added_to_the_newest_of_the_other(pipe: EmojiPipeline) -> None:
    full, plan = draw(pipe), against_plan(pipe, "output", 48)
    with apply_plan(pipe, plan, "error") as session:
        outputs = heard(pipe.transformer)
        found = draw(pipe)
        report = session.report()
        assert torch.equal(draw(pipe), found)
        states = [s for _, lane in session._executors["transformer"].lanes_of(False) for s in lane.streams.values()]
        assert [state.nbytes for state in states] == [0, 0], "the memory is given back"
    assert {branch: c.computed for (_, branch, _, _), c in report.streams.items()} == {"cond": 4, "uncond": 2}
    cond, uncond = outputs[0 : 2 * STEPS : 2], outputs[1 : 2 * STEPS : 2]
    for step, latest in ((1, 0), (2, 0), (3, 0), (5, 4)):
        torch.testing.assert_close(uncond[step], cond[step] + uncond[latest] - cond[latest], rtol=1e-5, atol=1e-5)
    assert torch.equal(cond[3], cond[2]), "held"
    assert torch.equal(draw(pipe), full)


def test_a_forecast_of_the_other_is_what_it_has_now(pipe: EmojiPipeline) -> None:
    plan = against_plan(pipe, "output", 48, Newton(1))
    with apply_plan(pipe, plan, "error"):
        outputs = heard(pipe.transformer)
        draw(pipe)
    cond, uncond = outputs[0 : 2 * STEPS : 2], outputs[1 : 2 * STEPS : 2]
    times = plan.section.grid.axis_times
    ahead = (times[3] - times[2]) / (times[2] - times[1])
    torch.testing.assert_close(cond[3], cond[2] + ahead * (cond[2] - cond[1]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(uncond[3], cond[3] + uncond[0] - cond[0], rtol=1e-5, atol=1e-5)
    first, latest = (uncond[step] - cond[step] for step in (0, 4))
    ahead = (times[5] - times[4]) / (times[4] - times[0])
    torch.testing.assert_close(uncond[5], cond[5] + latest + ahead * (latest - first), rtol=1e-5, atol=1e-5)


def test_a_difference_is_extrapolated_like_any_feature(pipe: EmojiPipeline) -> None:
    """Also where the run leaves the plan's steps, and where a policy does."""
    plan = against_plan(pipe, "trunk:residual", pipe.transformer.inner_dim, Newton(1))
    for steps in (STEPS, 9):
        with apply_plan(pipe, plan, "adapt") as session:
            assert draw(pipe, steps=steps).isfinite().all()
            assert session.report().computed < steps


@pytest.mark.parametrize("lead", ["1/2", "2/2"])
def test_halves_of_one_call_whichever_comes_first(lead: str) -> None:
    pipe = tiny.glyphs()
    other = {"1/2": "2/2", "2/2": "1/2"}[lead]

    def glyphs() -> Tensor:
        call: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "latent", "return_dict": False}
        latents: Tensor = pipe(["A"], generator=torch.Generator().manual_seed(1), guidance_scale=3.0, **call)[0]
        return latents

    content = json.loads(hand_plan(pipe, parse_point("output"), glyphs, lambda steps: (0, 4)).model_dump_json())
    (section,) = content["sections"]
    section |= {"stacked": 2}
    section["schedule"]["tables"] = {"*": OTHER, lead: LEAD, other: OTHER}
    section["points"]["feature"]["against"] = {other: lead}
    section["points"]["feature"]["groups"]["*"][0] |= {"solver": {"name": "hold"}, "fallback": None}
    with apply_plan(pipe, parse_plan(content, "plan"), "error"):
        outputs = heard(pipe.transformer)
        glyphs()
    halves = {name: [output.chunk(2)[name == "2/2"] for output in outputs] for name in (lead, other)}
    for step, latest in ((1, 0), (2, 0), (3, 0), (5, 4)):
        wanted = halves[lead][step] + halves[other][latest] - halves[lead][latest]
        torch.testing.assert_close(halves[other][step], wanted, rtol=1e-5, atol=1e-5)


def test_without_the_other_branch_it_is_computed_and_told(pipe: EmojiPipeline) -> None:
    forecast = alike("output", 48, Hold()).model_copy(update={"against": {"cond": "uncond"}})
    plan = changed(against_plan(pipe, "output", 48), points={FEATURE: forecast})
    full = draw(pipe, guidance=1.0)
    with apply_plan(pipe, plan), pytest.warns(MissingHistoryWarning, match="lacks earlier features"):
        assert torch.equal(draw(pipe, guidance=1.0), full)


@pytest.mark.parametrize(
    ("against", "stacked", "reason"),
    [
        ({"uncond": "cond", "cond": "uncond"}, 1, "expected a branch that is itself against none, got 'cond'"),
        ({"uncond": "*"}, 1, r"expected a branch that is itself against none, got '\*'"),
        ({"uncond": "cond"}, 2, "branches of one call are told apart only where tables name them"),
        ({"uncond": "con"}, 1, r"branches that have a table .*, \['cond', 'uncond'\], got 'con'; correct its name, or"),
        ({"uncod": "cond"}, 1, "got 'uncod'; correct its name, or add its table"),
    ],
)
def test_what_does_not_fit_is_refused(pipe: EmojiPipeline, against: dict[str, str], stacked: int, reason: str) -> None:
    content = json.loads(against_plan(pipe, "output", 48).model_dump_json())
    content["sections"][0]["points"]["feature"]["against"] = against
    content["sections"][0]["stacked"] = stacked
    with pytest.raises(PlanError, match=reason):
        parse_plan(content, "plan")
