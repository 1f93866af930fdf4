"""Plans that say more than yes or no: several points, several actions, guidance branches of their own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.pipelines.by_hand import hand_plan
from hyca_runtime import AttachError, Plan, PlanError, apply_plan, load_plan, save_plan
from hyca_runtime.attach.layers import find_layers
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.point import parse_point
from hyca_runtime.schedule import COMPUTE, EVERY, Action, Schedule
from hyca_runtime.solvers import Hold

STEPS = 8
LAYERS = {"attention": parse_point("attention"), "mlp": parse_point("mlp")}
NESTED = {"all": parse_point("trunk"), "deep": parse_point("behind:2")}


def draw(pipe: EmojiPipeline, guidance: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    call: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "latent", "return_dict": False}
    latents: Tensor = pipe(["red heart"], generator=generator, true_cfg_scale=guidance, **call)[0]
    return latents


def plan_of(pipe: EmojiPipeline, points: dict[str, Any], palette: Sequence[Action], **tables: Sequence[int]) -> Plan:
    """A plan that holds; the table `every` is for branches without one."""
    by_branch = {EVERY if name == "every" else name: tuple(table) for name, table in tables.items()}
    schedule = Schedule(palette=tuple(palette), tables=by_branch)
    plan = hand_plan(pipe, points, lambda: draw(pipe), lambda steps: schedule)
    content = json.loads(plan.model_dump_json())
    for forecast in content["sections"][0]["points"].values():
        for groups in forecast["groups"].values():
            groups[0]["solver"] = {"name": Hold.name, "configuration": {}}
    return Plan.model_validate_json(json.dumps(content))


def calls_of(modules: Sequence[nn.Module]) -> list[int]:
    """How often each is called, from now on."""
    calls = [0] * len(modules)
    for i, module in enumerate(modules):
        module.register_forward_pre_hook(lambda *_, i=i: calls.__setitem__(i, calls[i] + 1))
    return calls


def layers(pipe: EmojiPipeline, kind: str) -> list[nn.Module]:
    return [place.module for place in find_layers(pipe.transformer, kind, "*")]


def held_by_hooks(modules: Sequence[nn.Module], fresh: Sequence[bool]) -> None:
    """Let modules that are called once a step answer with their latest fresh output; an oracle without our runtime."""

    def hold(module: nn.Module) -> None:
        state: dict[str, Any] = {"calls": 0, "kept": None}

        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            if fresh[state["calls"] % STEPS]:
                state["kept"] = output
            state["calls"] += 1
            return state["kept"]

        module.register_forward_hook(hook)

    for module in modules:
        hold(module)


BOTH = (COMPUTE, Action(forecast=("attention",)), Action(forecast=("mlp",)), Action(forecast=("attention", "mlp")))


def test_each_kind_of_layer_by_its_own_schedule(pipe: EmojiPipeline) -> None:
    """SmoothCache's shape: four actions over two points, each held from where it was computed last."""
    table = (0, 1, 2, 3, 0, 1, 3, 2)
    plan = plan_of(pipe, LAYERS, BOTH, every=table)
    full = draw(pipe)
    attention, mlp = calls_of(layers(pipe, "attention")), calls_of(layers(pipe, "mlp"))
    with apply_plan(pipe, plan, "error") as session:
        found = draw(pipe)
        assert (session.report().computed, session.report().partly, session.report().steps) == (2, 6, STEPS)
        assert str(session.report()).startswith("2 of 8 steps computed, 6 in part, ")
        assert attention == [4] * len(attention)
        assert mlp == [4] * len(mlp)
        assert torch.equal(draw(pipe), found)
    assert torch.equal(draw(pipe), full)
    held_by_hooks(layers(pipe, "attention"), ["attention" not in BOTH[i].forecast for i in table])
    held_by_hooks(layers(pipe, "mlp"), ["mlp" not in BOTH[i].forecast for i in table])
    assert torch.equal(draw(pipe), found)
    assert not torch.equal(found, full)


def test_a_step_may_run_a_few_blocks(pipe: EmojiPipeline) -> None:
    """DBCache's shape beside a whole forecast; a point is remembered from the steps that make it."""
    palette = (COMPUTE, Action(forecast=("all",)), Action(forecast=("deep",)))
    plan = plan_of(pipe, NESTED, palette, every=(0, 2, 1, 2, 0, 1, 2, 0))
    section = plan.section
    assert {step: taps.history for step, taps in section.taps("all").items()} == {2: (0,), 5: (4,)}
    assert {step: taps.history for step, taps in section.taps("deep").items()} == {1: (0,), 3: (0,), 6: (4,)}
    network = pipe.transformer
    lead, rest = calls_of([*network.transformer_blocks]), calls_of([*network.single_transformer_blocks])
    full = draw(pipe)
    lead[:], rest[:] = [0] * len(lead), [0] * len(rest)
    with apply_plan(pipe, plan, "error") as session:
        found = draw(pipe)
        assert (session.report().computed, session.report().partly) == (3, 3)
    assert (lead, rest) == ([6] * 2, [3] * len(rest))
    assert found.isfinite().all()
    assert not torch.equal(found, full)
    assert torch.equal(draw(pipe), full)
    ends: list[Tensor] = []
    network.norm_out.register_forward_pre_hook(lambda _, args: ends.append(args[0]))
    with apply_plan(pipe, plan, "error"):
        draw(pipe)
    assert torch.equal(ends[2], ends[0]), "the trunk of a step that forecasts what it ends with is not remembered"


def test_points_in_one_place_are_stacked(pipe: EmojiPipeline) -> None:
    """Two points that end at the final norm, both recorded on every step: nothing changes."""
    palette = (COMPUTE, Action(forecast=("all",)), Action(forecast=("deep",)))
    plan = plan_of(pipe, NESTED, palette, every=[0] * STEPS)
    full = draw(pipe)
    with apply_plan(pipe, plan, "error") as session:
        assert torch.equal(draw(pipe), full)
        assert session.report().cache_bytes > 0


def test_branches_by_tables_of_their_own(pipe: EmojiPipeline) -> None:
    plan = plan_of(pipe, {"all": NESTED["all"]}, (COMPUTE, Action(forecast=("all",))), every=ALL, uncond=HALF)
    with apply_plan(pipe, plan, "error") as session:
        found = draw(pipe, guidance=3.0)
        counts = {branch: count.computed for (_, branch, _, _), count in session.report().streams.items()}
    assert counts == {"cond": STEPS, "uncond": 4}
    assert plan.section.schedule.computed_steps == (0, 2, 4, 6)
    content = json.loads(plan.model_dump_json())
    forecast = content["sections"][0]["points"]["all"]
    linear = [{**forecast["groups"]["*"][0], "solver": {"name": "newton", "configuration": {"order": 1}}}]
    forecast["groups"]["uncond"] = linear
    with apply_plan(pipe, Plan.model_validate_json(json.dumps(content))):
        other = draw(pipe, guidance=3.0)
    forecast["groups"] = {"*": linear}
    with apply_plan(pipe, Plan.model_validate_json(json.dumps(content))):
        assert torch.equal(draw(pipe, guidance=3.0), other)
    assert not torch.equal(other, found)


ALL, HALF = (0,) * STEPS, (0, 1) * (STEPS // 2)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("schedule.palette.1.forecast", ["al"], "forecasts 'al', the points are"),
        ("schedule.palette.1.forecast", [], "points.all: no action of the palette forecasts it"),
        ("schedule.palette.1.forecast", ["all", "all"], "a point is named twice"),
        ("schedule.tables", {"cond": HALF}, "expected one for '\\*'"),
        ("schedule.tables.cond", (1, *HALF[1:]), "step 0 must be computed"),
        ("schedule.tables.cond", HALF[1:], "expected 8 steps as in the others, got 7"),
        ("action_flops", [1.0], "expected 2 numbers, one per action, got 1"),
        ("action_flops", [0.0, 1.0], "expected positive numbers"),
        ("points.all.num_channels", 1 << 40, "num_channels"),
        ("points.all.groups", {}, "expected those of '\\*'"),
    ],
)
def test_what_does_not_fit_is_refused(pipe: EmojiPipeline, tmp_path: Path, path: str, value: Any, reason: str) -> None:
    plan = plan_of(pipe, {"all": NESTED["all"]}, (COMPUTE, Action(forecast=("all",))), every=HALF)
    content = json.loads(plan.model_dump_json())
    *parents, last = path.split(".")
    inner = content["sections"][0]
    for parent in parents:
        inner = inner[int(parent) if parent.isdigit() else parent]
    inner[last] = value
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(PlanError, match=reason):
        load_plan(tmp_path / "plan.json")


def test_points_that_hold_one_module_are_refused(pipe: EmojiPipeline) -> None:
    points = {"attention": LAYERS["attention"], "first": parse_point("modules:transformer_blocks.0.attn")}
    with pytest.raises(AttachError, match=r"both hold the output of transformer_blocks\.0\.attn"):
        hand_plan(pipe, points, lambda: draw(pipe), lambda steps: [0])
    points = {"blocks": parse_point("blocks"), "attention": LAYERS["attention"]}
    with pytest.raises(AttachError, match="'attention' lies inside 'blocks'"):
        hand_plan(pipe, points, lambda: draw(pipe), lambda steps: [0])
    palette = (COMPUTE, Action(forecast=("all", "deep")))
    with pytest.raises(ValueError, match="'all' and 'deep' are forecast together, one holds the other"):
        plan_of(pipe, NESTED, palette, every=[0] * STEPS)
    with pytest.raises(AttachError, match="'behind:4' needs blocks behind, the network has 4"):
        hand_plan(pipe, parse_point("behind:4"), lambda: draw(pipe), lambda steps: [0])


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("output", "trunk", True),
        ("trunk", "output", False),
        ("trunk", "behind:2", True),
        ("behind:2", "trunk", False),
        ("behind:2", "attention", True),
        ("attention", "behind:2", False),
        ("attention", "mlp", False),
        ("mlp", "mlp", True),
        ("span:blocks.0..blocks.3", "span:blocks.3..blocks.5", True),
        ("span:blocks.0..blocks.3", "span:blocks.4..blocks.5", False),
        ("span:blocks.0..blocks.3", "span:single.0..single.3", False),
        ("span:blocks.0..blocks.3", "mlp", True),
    ],
)
def test_what_may_not_run_while_a_point_is_forecast(one: str, other: str, expected: bool) -> None:
    assert parse_point(one).stands_for(parse_point(other)) == expected


BENCH = Path(__file__).parents[2] / "studies/bench"


VERSION_2 = sorted(path for path in BENCH.glob("*/*.plan.json") if json.loads(path.read_text())["version"] == 2)


def test_some_files_are_of_version_2() -> None:
    assert VERSION_2, "renewed plans are of today's version: keep one of these as a fixture"


@pytest.mark.parametrize("file", VERSION_2, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_version_2_means_the_same(file: Path, tmp_path: Path) -> None:
    """Schedule and weights are those of the file, and the plan is no larger once it is written anew."""
    old = json.loads(file.read_text())["sections"][0]
    plan = load_plan(file)
    section: NetworkPlan = plan.section
    kinds = [action["kind"] for action in old["schedule"]["palette"]]
    assert section.schedule.computed_steps == tuple(
        step for step, i in enumerate(old["schedule"]["table"]) if kinds[i] == "compute"
    )
    assert section.flops_ratio == pytest.approx(old["cost"]["flops_ratio"])
    for group, was in zip(section.forecast.groups_of(), old["groups"], strict=True):
        assert group.model_dump(mode="json") == was
    save_plan(plan, tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == plan
    assert (tmp_path / "plan.json").stat().st_size <= file.stat().st_size
