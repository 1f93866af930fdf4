"""Plans inside the real cache-dit: its steps are the plan's, its forecasts can be, and its settings become plans."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from commands import run
from plans import changed, joint_plan, layered_plan, make_plan

from hyca_calib.baselines.cache_dit import package
from hyca_calib.baselines.foreign_caches import untouched
from hyca_calib.pipelines.by_hand import hand_plan
from hyca_calib.search.step_caches.cache_dit_config import section_of
from hyca_runtime import Plan, PlanError, PlanMismatchError, apply_plan, save_plan
from hyca_runtime.attach.points import find_blocks
from hyca_runtime.forecast import Forecast
from hyca_runtime.integrations.cache_dit import options, steps_mask
from hyca_runtime.integrations.cache_dit_taps import PlanCalibrator, configs
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.point import parse_point
from hyca_runtime.policies import CarefulEnd, ChangeSinceComputed
from hyca_runtime.schedule import EVERY, FEATURE, Schedule
from hyca_runtime.solvers import DynamicMode, Fitted, Hold, Newton, Solver, Taylor

pytestmark = pytest.mark.skipif(importlib.util.find_spec("cache_dit") is None, reason="cache-dit is not installed")

STEPS = 12
COMPUTED = (0, 1, 2, 3, 4, 7, 9, 11)

PIPES: dict[str, tuple[Callable[[], Any], dict[str, Any], int]] = {
    "flux": (tiny.pipeline, {"prompt": "red cat"}, 1),
    "dit": (tiny.glyphs, {"class_labels": "A", "guidance_scale": 3.0}, 1),
    "wan": (tiny.motion, {"prompt": "red cat", "num_frames": 8}, 2),
}
"""Each with a call of it, and how many calls of its network a step makes."""


class Drawing:
    """A tiny pipeline, drawn with one seed."""

    def __init__(self, kind: str, **call: Any) -> None:
        make, usual, self.calls = PIPES[kind]
        self.kind, self.pipe, self.call = kind, make(), usual | call
        self.blocks = [place.module for place in find_blocks(self.pipe.transformer)]

    def latents(self) -> torch.Tensor:
        settings = {"num_inference_steps": STEPS, "output_type": "latent", "return_dict": False}
        drawn: torch.Tensor = self.pipe(**self.call, **settings, generator=torch.Generator().manual_seed(1))[0]
        return drawn

    def watched(self) -> tuple[torch.Tensor, dict[str, list[int]]]:
        """Latents, and the steps on which the first and the last block ran, once for each call."""
        ran: dict[str, list[int]] = {"first": [], "last": []}
        calls: list[int] = []
        handles = [self.pipe.transformer.register_forward_pre_hook(lambda *_: calls.append(1))]
        for name, block in (("first", self.blocks[0]), ("last", self.blocks[-1])):
            note = lambda *_, name=name: ran[name].append((len(calls) - 1) // self.calls)  # noqa: E731
            handles.append(block.register_forward_hook(note))
        try:
            return self.latents(), ran
        finally:
            for handle in handles:
                handle.remove()

    def plan(self, at: str, solver: Solver, computed: tuple[int, ...] = COMPUTED) -> Plan:
        found = hand_plan(self.pipe, parse_point(at), self.latents, lambda steps: computed)
        return with_solver(found, solver)

    @contextmanager
    def cached(self, **settings: Any) -> Iterator[None]:
        """With cache-dit, by its own adapter for the class."""
        with untouched(self.pipe):
            adapter = package().get_adapter(self.pipe.transformer)
            adapter.pipe = self.pipe
            package().enable_cache(adapter, **settings)
            yield


def with_solver(plan: Plan, solver: Solver) -> Plan:
    forecast = plan.section.forecast
    groups = {EVERY: (forecast.groups[EVERY][0].model_copy(update={"solver": solver.spec()}),)}
    fields = {name: getattr(forecast, name) for name in Forecast.model_fields} | {"groups": groups}
    return changed(plan, points={FEATURE: Forecast(**fields)})


def random_rows(channels: int, computed: tuple[int, ...] = COMPUTED) -> Fitted:
    """Rows by channel that no closed form has."""
    predicted = tuple(step for step in range(STEPS) if step not in computed)
    rows = np.random.default_rng(0).normal(0, 0.05, (len(predicted), 3, channels))
    rows[:, 0] += 1
    return Fitted(predicted, rows)


@pytest.fixture(scope="module", params=PIPES)
def drawing(request: pytest.FixtureRequest) -> Drawing:
    return Drawing(request.param)


@pytest.mark.parametrize(
    ("at", "computed"),
    [
        ("trunk", COMPUTED),
        ("trunk", (0,)),
        ("trunk", tuple(range(STEPS))),
        ("behind:1", (0, 5)),
        ("trunk:residual", (0, 1, 2, 4, 7, 9)),
        ("output", (0, 2, 4, 6, 8, 10)),
        ("blocks", (0, 1, 11)),
    ],
)
def test_a_mask_reproduces_the_schedule(drawing: Drawing, at: str, computed: tuple[int, ...]) -> None:
    plan = drawing.plan(at, Newton(1), computed)
    assert steps_mask(plan.section) == [int(step in computed) for step in range(STEPS)]
    with apply_plan(drawing.pipe, plan, "error"):
        ours = drawing.watched()[1]
    with drawing.cached(**package().load_configs(options(plan.section))):
        theirs = drawing.watched()[1]
    each = [step for step in computed for _ in range(drawing.calls)]
    assert ours["last"] == theirs["last"] == each, "the plan's steps and no others"
    assert theirs["first"] == sorted([*range(STEPS)] * drawing.calls), "cache-dit always runs the first block"


@pytest.mark.parametrize("solver", [Hold(), Taylor(1), Taylor(2)], ids=str)
def test_forecasts_that_cache_dit_has_are_the_same(drawing: Drawing, solver: Solver) -> None:
    """Its first differences begin on step 3, its second on step 4; so far this plan computes every one."""
    plan = drawing.plan("behind:1", solver)
    with apply_plan(drawing.pipe, plan, "error"):
        ours = drawing.latents()
    with drawing.cached(**package().load_configs(options(plan.section))):
        torch.testing.assert_close(drawing.latents(), ours, rtol=0, atol=2e-5)
    assert (ours - drawing.latents()).abs().max() > 1e-3, "a forecast that shows"


@pytest.mark.parametrize("at", ["trunk", "behind:1"])
@pytest.mark.parametrize("kind", ["fitted", "newton"])
def test_the_rows_of_a_plan_forecast_in_cache_dit(drawing: Drawing, at: str, kind: str) -> None:
    """Twice: a run leaves nothing behind. Then as ever with its own calibrators."""
    plan = drawing.plan(at, Newton(2), computed=(0, 1, 4, 5, 9))
    if kind == "fitted":
        rows = random_rows(plan.section.forecast.num_channels, plan.section.schedule.computed_steps)
        plan = with_solver(plan, rows)
    with apply_plan(drawing.pipe, plan, "error"):
        ours = drawing.latents()
    with drawing.cached(**configs(plan.section)):
        theirs = [drawing.watched() for _ in range(2)]
        assert package().summary(drawing.pipe, logging=False)
    for latents, ran in theirs:
        torch.testing.assert_close(latents, ours, rtol=0, atol=1e-6)
        assert sorted({*ran["last"]}) == [*plan.section.schedule.computed_steps]
    own = drawing.plan("behind:1", Taylor(1))
    with drawing.cached(**package().load_configs(options(own.section))):
        assert not torch.equal(drawing.latents(), ours)


def test_rows_meet_no_other_past() -> None:
    calibrator = PlanCalibrator(Drawing("dit").plan("behind:1", Newton(1)).section)
    calibrator.reset_cache()
    for _ in range(3):
        calibrator.mark_step_begin()
    calibrator.update(torch.zeros(1, 2, 32), name="x")
    calibrator.mark_step_begin()
    calibrator.mark_step_begin()
    with pytest.raises(PlanMismatchError, match=r"step 4 is to be forecast from the steps \(2,\)"):
        calibrator.approximate(name="x")


def flux_plan(**fields: Any) -> Plan:
    return changed(make_plan(tiny.pipeline().transformer), **fields)


def test_what_a_mask_cannot_say_is_refused() -> None:
    transformer = tiny.pipeline().transformer
    with pytest.raises(PlanError, match="'careful_end' decides in each run"):
        steps_mask(flux_plan(policy=CarefulEnd().spec()).section)
    plain = make_plan(transformer).section.schedule
    apart = Schedule(palette=plain.palette, tables=plain.tables | {"uncond": (0, *(1,) * 11)})
    with pytest.raises(PlanError, match="branches uncond are computed on steps of their own"):
        steps_mask(flux_plan(schedule=apart).section)
    with pytest.raises(PlanError, match="point 'attention' at 'attention': cache-dit computes a step or lets"):
        steps_mask(layered_plan(transformer).section)
    for plan, told in (
        (make_plan(transformer, point="output"), "expected a schedule at trunk or behind some blocks, got 'output'"),
        (flux_plan(policy=CarefulEnd().spec()), "under the policy 'careful_end'"),
        (joint_plan(transformer), "guidance branches apart"),
        (make_plan(transformer, solvers=(DynamicMode(),)), "read features"),
    ):
        with pytest.raises(PlanError, match=told):
            configs(plan.section)


def test_configurations_become_the_plans_that_they_came_from(drawing: Drawing) -> None:
    like = drawing.plan("trunk", Hold()).section
    for solver in (Hold(), Taylor(1), Taylor(3)):
        plan = drawing.plan("behind:1", solver)
        assert section_of(package().load_configs(options(plan.section)), like) == plan.section
    decides = changed(
        drawing.plan("behind:2", Taylor(1)),
        schedule=Schedule.from_steps(STEPS, [0]),
        policy=ChangeSinceComputed(0.07, 2, warmup=3, consecutive=4).spec(),
    )
    assert section_of(package().load_configs(options(decides.section)), like) == decides.section


def test_their_threshold_decides_in_a_plan_as_there(drawing: Drawing) -> None:
    """Samples of a batch and branches of one call decide alone with us, so each call has one here."""
    if drawing.kind == "dit":
        drawing = Drawing("dit", guidance_scale=1.0)
    threshold = {"flux": 0.3, "dit": 0.12, "wan": 0.12}[drawing.kind]
    settings = {"Fn_compute_blocks": 1, "max_warmup_steps": 4, "residual_diff_threshold": threshold}
    theirs = package().load_configs({"cache_config": settings | {"num_inference_steps": STEPS}})
    like = drawing.plan("trunk", Hold()).section
    with apply_plan(drawing.pipe, Plan(name="theirs", sections=(section_of(theirs, like),)), "error") as session:
        ours, own = drawing.watched()
        assert session.report().computed < STEPS
    with drawing.cached(**theirs):
        latents, ran = drawing.watched()
    assert ran["last"] == own["last"]
    torch.testing.assert_close(latents, ours, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"Bn_compute_blocks": 2}, "Bn_compute_blocks=2"),
        ({"max_cached_steps": 5}, "max_cached_steps=5"),
        ({"warmup_interval": 2}, "warmup_interval=2"),
        ({"max_continuous_cached_steps": 0}, "consecutive 1 or more"),
        ({"residual_diff_threshold": 1.5}, "residual_diff_threshold=1.5 computes nothing"),
        ({"num_inference_steps": 28}, "num_inference_steps=28, the plan to be like has 12"),
        ({"cache_type": "DBPrune"}, "DBPrune: plans have no word for it"),
        ({"steps_computation_mask": [1] * 12}, "'dynamic' with 12 entries, expected 'static' with 12"),
        ({"steps_computation_mask": [1, 0], "steps_computation_policy": "static"}, "'static' with 2 entries"),
        ({"enable_dmd": True}, "calibrator 'dmd' of 'residual'"),
        ({"enable_taylorseer": True, "taylorseer_order": 7}, "taylorseer_order: taylor: order must be 1 to 3"),
    ],
)
def test_settings_without_a_word_in_plans_are_refused(settings: dict[str, Any], told: str) -> None:
    like = make_plan(tiny.pipeline().transformer).section
    with pytest.raises(PlanError, match=told):
        section_of(package().load_configs({"cache_config": settings}), like)


def test_a_plan_to_be_like_has_their_channels() -> None:
    like = make_plan(tiny.pipeline().transformer, point="output").section
    with pytest.raises(PlanError, match="expected a section at trunk or behind some blocks"):
        section_of(package().load_configs({"cache_config": {}}), like)


def test_the_command_writes_what_both_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    section: NetworkPlan = make_plan(tiny.pipeline().transformer).section
    save_plan(Plan(name="x", sections=(section,)), "plan.json")
    done = run("export", "plan.json", "--to", "cache-dit", "--out", "cache.yaml")
    assert done.exit_code == 0, done.output
    read = package().load_configs("cache.yaml")
    assert read["cache_config"].steps_computation_mask == steps_mask(section)
    assert read["calibrator_config"].taylorseer_order == 1
    done = run("export", "plan.json", "--to", "sglang", "--out", "request.json")
    assert done.exit_code == 0, done.output
    request = json.loads(Path("request.json").read_text())
    bins = request["cache_dit_params"]["scm_compute_bins"], request["cache_dit_params"]["scm_cache_bins"]
    assert package().steps_mask(*bins, total_steps=section.schedule.num_steps) == steps_mask(section)
    save_plan(layered_plan(tiny.pipeline().transformer), "layers.json")
    assert "lets all blocks behind the first" in run("export", "layers.json", "--to", "cache-dit", "--out", "x").stderr
