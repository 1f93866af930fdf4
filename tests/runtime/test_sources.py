"""Forecasts that weigh more than a branch's own past: another branch's, a constant, parts of one call."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.demo.glyphs.pipeline import GlyphPipeline
from hyca_calib.pipelines.by_hand import hand_plan
from hyca_runtime import Plan, PlanError, PlanMismatchError, apply_plan, load_plan, save_plan
from hyca_runtime.compiled_plan import CompiledPlan
from hyca_runtime.errors import MissingHistoryWarning
from hyca_runtime.history import Past
from hyca_runtime.plan import parse_plan
from hyca_runtime.point import parse_point
from hyca_runtime.solvers import Fitted

STEPS, COMPUTED, PREDICTED = 6, (0, 1, 4), (2, 3, 5)
GENERATOR = np.random.default_rng(0)


def emoji(pipe: EmojiPipeline, guidance: float = 3.0, **more: Any) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    call: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "latent", "return_dict": False, **more}
    latents: Tensor = pipe(["red heart"], generator=generator, true_cfg_scale=guidance, **call)[0]
    return latents


def glyph(pipe: GlyphPipeline, guidance: float = 3.0) -> Tensor:
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    call: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "latent", "return_dict": False}
    latents: Tensor = pipe(["A", "7"], generator=generators, guidance_scale=guidance, **call)[0]
    return latents


def table(taps: int, width: int) -> dict[str, Any]:
    weights = GENERATOR.normal(0, 0.3, (len(PREDICTED), taps, width))
    return Fitted(PREDICTED, weights).spec().model_dump(mode="json")


def joint_plan(pipe: Any, draw: Callable[[Any], Tensor], names: tuple[str, str], stacked: int = 1) -> Plan:
    """Each branch is forecast from two features of its own, one of the other, and a constant."""
    plan = hand_plan(pipe, parse_point("trunk"), lambda: draw(pipe), lambda steps: COMPUTED)
    content = json.loads(plan.model_dump_json())
    (section,) = content["sections"]
    section["stacked"] = stacked
    forecast = section["points"]["feature"]
    width, (group,) = forecast["num_channels"], forecast["groups"]["*"]
    for name, other in (names, names[::-1]):
        forecast["groups"][name] = [{**group, "solver": table(2, width)}]
        forecast["sources"][name] = [{"branch": other, "solver": table(1, width)}, {"solver": table(1, width)}]
    return parse_plan(content, "joint")


def finals(norm: Any) -> list[Tensor]:
    """What the module behind the trunk is given, call by call from now on."""
    found: list[Tensor] = []
    norm.register_forward_pre_hook(lambda _, args: found.append(args[0].clone()))
    return found


def expected(plan: Plan, name: str, other: str, step: int, own: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """The forecast, written out."""
    section = plan.section
    taps = section.taps("feature", name)[step]
    total = sum(torch.from_numpy(w) * own[s] for s, w in zip(taps.history, taps.weights, strict=True))
    (source, beside), (_, constant) = section.sources("feature", name)
    assert source.branch == other
    for s, w in zip(beside[step].history, beside[step].weights, strict=True):
        total = total + torch.from_numpy(w) * theirs[s]
    return total + torch.from_numpy(constant[step].weights[0])


def test_a_forecast_weighs_another_branch_and_a_constant(pipe: EmojiPipeline) -> None:
    plan = joint_plan(pipe, emoji, ("cond", "uncond"))
    full, seen = emoji(pipe), finals(pipe.transformer.norm_out)
    with apply_plan(pipe, plan, "error") as session:
        found = emoji(pipe)
        assert session.report().computed == len(COMPUTED)
        assert torch.equal(emoji(pipe), found)
    branches = {"cond": seen[0 : 2 * STEPS : 2], "uncond": seen[1 : 2 * STEPS : 2]}
    for name, other in (("cond", "uncond"), ("uncond", "cond")):
        for step in PREDICTED:
            wanted = expected(plan, name, other, step, branches[name], branches[other])
            torch.testing.assert_close(branches[name][step], wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(emoji(pipe), full)


def test_parts_of_one_call_are_forecast_each_in_its_own_way() -> None:
    pipe = tiny.glyphs()
    names = ("1/2", "2/2")
    plan = joint_plan(pipe, glyph, names, stacked=2)
    seen = finals(pipe.transformer.norm_out)
    with apply_plan(pipe, plan, "error"):
        glyph(pipe)
    parts = {name: [feature.chunk(2)[i] for feature in seen] for i, name in enumerate(names)}
    for name, other in (names, names[::-1]):
        for step in PREDICTED:
            wanted = expected(plan, name, other, step, parts[name], parts[other])
            torch.testing.assert_close(parts[name][step], wanted, rtol=1e-5, atol=1e-5)


def test_without_the_branches_every_step_is_computed(pipe: EmojiPipeline) -> None:
    """Guidance switched off: what a forecast would weigh is not there, and that is told."""
    plan, full = joint_plan(pipe, emoji, ("cond", "uncond")), emoji(pipe, guidance=1.0)
    with apply_plan(pipe, plan), pytest.warns(MissingHistoryWarning, match="a branch that its forecast weighs"):
        assert torch.equal(emoji(pipe, guidance=1.0), full)
    with apply_plan(pipe, plan, "error"), pytest.raises(PlanMismatchError, match="a branch that its forecast weighs"):
        emoji(pipe, guidance=1.0)
    other = tiny.glyphs()
    stacked, alone = joint_plan(other, glyph, ("1/2", "2/2"), stacked=2), glyph(other, guidance=1.0)
    with apply_plan(other, stacked), pytest.warns(MissingHistoryWarning, match="do not hold the guidance branches"):
        assert torch.equal(glyph(other, guidance=1.0), alone)


def test_the_guidance_difference_of_a_step_ago(pipe: EmojiPipeline) -> None:
    """One branch computed on every step, the other on half of them and else that one plus the latest difference."""
    plan = hand_plan(pipe, parse_point("trunk"), lambda: emoji(pipe), lambda steps: (0, 2, 4))
    content = json.loads(plan.model_dump_json())
    (section,) = content["sections"]
    section["schedule"]["tables"]["cond"] = [0] * STEPS
    forecast = section["points"]["feature"]
    hold = {"name": "hold", "configuration": {}}
    forecast["groups"]["*"][0]["solver"] = hold
    difference = Fitted((1, 3, 5), np.array([[[1.0], [-1.0]]] * 3)).spec().model_dump(mode="json")
    forecast["sources"]["uncond"] = [{"branch": "cond", "live": True, "solver": difference}]
    section["action_flops"] = [10.0, 1.0]
    plan = parse_plan(content, "difference")
    assert plan.section.flops_ratio is None, "who is computed how often is the run's to say"
    seen = finals(pipe.transformer.norm_out)
    with apply_plan(pipe, plan, "error"):
        emoji(pipe)
    cond, uncond = seen[0 : 2 * STEPS : 2], seen[1 : 2 * STEPS : 2]
    for step in (1, 3, 5):
        wanted = uncond[step - 1] + cond[step] - cond[step - 1]
        torch.testing.assert_close(uncond[step], wanted, rtol=1e-5, atol=1e-5)


def test_half_precision_is_rounded_once(pipe: EmojiPipeline) -> None:
    plan = joint_plan(pipe, emoji, ("cond", "uncond"))
    pipe.transformer.to(torch.bfloat16)
    seen = finals(pipe.transformer.norm_out)
    with apply_plan(pipe, plan):
        emoji(pipe)
    cond, uncond = seen[0 : 2 * STEPS : 2], seen[1 : 2 * STEPS : 2]
    for step in PREDICTED:
        own, theirs = ([feature.float() for feature in of] for of in (cond, uncond))
        wanted = expected(plan, "cond", "uncond", step, own, theirs).bfloat16()
        assert torch.equal(cond[step], wanted)


def test_a_joint_plan_survives_its_file(pipe: EmojiPipeline, tmp_path: Any) -> None:
    plan = joint_plan(pipe, emoji, ("cond", "uncond"))
    save_plan(plan, tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == plan


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ({"branch": "cond", "solver": table(1, 1)}, "its own past is weighed by its groups"),
        ({"live": True, "solver": table(1, 1)}, "a constant has one weight"),
        ({"solver": table(2, 1)}, "a constant has one weight"),
        ({"branch": "uncond", "solver": table(1, 7)}, "rows for 7 channels in a group of 32"),
        ({"branch": "uncond", "solver": {"name": "fited"}}, "did you mean"),
        (
            {"solver": {"name": "fitted", "configuration": {"steps": [3, 2], "weights": [[[1]], [[1]]]}}},
            "ascending steps",
        ),
        ({"branch": "*", "solver": table(1, 1)}, r"expected the name of a branch, or none for a constant, got '\*'$"),
        ({"branch": "uncond", "solver": {"name": "dynamic_mode"}}, "'dynamic_mode' reads features"),
        ({"branch": "uncond", "solver": Fitted((2,), np.ones((1, 1, 1))).spec().model_dump()}, "no taps for step 3"),
    ],
)
def test_what_does_not_fit_is_refused(pipe: EmojiPipeline, source: dict[str, Any], reason: str) -> None:
    content = json.loads(joint_plan(pipe, emoji, ("cond", "uncond")).model_dump_json())
    content["sections"][0]["points"]["feature"]["sources"]["cond"] = [source]
    with pytest.raises(PlanError, match=reason) as told:
        parse_plan(content, "plan")
    assert "more fault" not in str(told.value), "there is one"


def test_solvers_that_read_features_are_refused(pipe: EmojiPipeline) -> None:
    content = json.loads(joint_plan(pipe, emoji, ("cond", "uncond")).model_dump_json())
    forecast = content["sections"][0]["points"]["feature"]
    forecast["groups"]["cond"][0] |= {"solver": {"name": "dynamic_mode"}, "fallback": None}
    with pytest.raises(PlanError, match="weigh the own past of a whole call alone"):
        parse_plan(content, "plan")


def test_a_branch_without_a_name_is_a_source_like_others(pipe: EmojiPipeline) -> None:
    """Features of other steps of it are not weighed."""
    section = joint_plan(pipe, emoji, ("", "#1")).section
    compiled = CompiledPlan("joint", [section], "compute")
    track: Any = SimpleNamespace(at=0, off_grid="", position=2.0, undecided=False)
    buffers = (torch.randn(2, 1, 4, section.forecast.num_channels),)
    past, older = Past((1.0, 0.0), buffers, [0, 1]), Past((0.0,), buffers, [1])
    own = {("feature", "#1"): past}
    assert compiled.weights_beside(track, "feature", "#1", {**own, ("feature", ""): older}) is None
    found = compiled.weights_beside(track, "feature", "#1", {**own, ("feature", ""): past})
    assert found is not None
    assert [of is None for of, _ in found] == [False, True]


def test_sources_of_all_branches(pipe: EmojiPipeline) -> None:
    content = json.loads(joint_plan(pipe, emoji, ("cond", "uncond")).model_dump_json())
    forecast = content["sections"][0]["points"]["feature"]
    constant = forecast["sources"]["cond"][1:]
    found = []
    for sources in ({"*": constant}, {"cond": constant, "uncond": constant}, {}):
        forecast["sources"] = sources
        with apply_plan(pipe, parse_plan(content, "plan"), "error"):
            found.append(emoji(pipe))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_sources_of_all_branches_serve_tables_of_their_own(pipe: EmojiPipeline) -> None:
    plan = hand_plan(pipe, parse_point("trunk"), lambda: emoji(pipe), lambda steps: COMPUTED)
    content = json.loads(plan.model_dump_json())
    content["sections"][0]["schedule"]["tables"]["uncond"] = [0, 1, 0, 1, 1, 1]
    content["sections"][0]["points"]["feature"]["sources"] = {"*": [{"solver": {"name": "hold"}}]}
    with apply_plan(pipe, parse_plan(content, "plan"), "error") as session:
        emoji(pipe)
        assert [count.computed for count in session.report().streams.values()] == [3, 2]


def test_branches_that_are_never_called_are_told(pipe: EmojiPipeline) -> None:
    content = json.loads(joint_plan(pipe, emoji, ("cond", "uncond")).model_dump_json())
    sources = content["sections"][0]["points"]["feature"]["sources"]
    sources["uncnd"] = sources.pop("uncond")
    with apply_plan(pipe, parse_plan(content, "plan")) as session:
        assert "no call of" not in str(session.report())
        emoji(pipe)
        assert "no call of the branches that the plan names 'uncnd'" in str(session.report())


def test_a_run_on_other_steps_goes_on_to_its_end(pipe: EmojiPipeline) -> None:
    """Closed forms serve there, on the last step of every branch, too."""
    plan = joint_plan(pipe, emoji, ("cond", "uncond"))
    for steps in (7, 12, 13, 16, 20, 24):
        with apply_plan(pipe, plan, "adapt") as session:
            emoji(pipe, num_inference_steps=steps)
            counts = [count.computed for count in session.report().streams.values()]
        assert counts[0] == counts[1] < steps
