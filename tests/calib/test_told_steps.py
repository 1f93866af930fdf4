"""What reports and `hyca info` tell of plans that run a part of the network on some steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import streaming
import tiny
from plans import alike, changed, make_plan, parted_plan

from hyca_calib.commands.calibrate_options import CalibrateOptions
from hyca_calib.commands.describing import describe
from hyca_calib.commands.starting import Start
from hyca_calib.pipelines.load import TracedModel
from hyca_calib.report.steps import computed_at, told_policy, told_steps
from hyca_runtime import Plan, load_plan, save_plan
from hyca_runtime.errors import PlanMismatchError
from hyca_runtime.policies import MagnitudeRatio, PacedBySurprise, PolicySpec
from hyca_runtime.schedule import COMPUTE, EVERY, FEATURE, Action, Schedule
from hyca_runtime.solvers import Hold

NAMES = (FEATURE, "behind:1", "behind:2")


@pytest.fixture(scope="module")
def mixed() -> Plan:
    """Steps compute all, nothing, the first block or the first two."""
    module = tiny.pipeline().transformer
    plan, channels = make_plan(module), module.inner_dim
    palette = (COMPUTE, *(Action(forecast=(name,)) for name in NAMES))
    points = {name: alike(name.replace(FEATURE, "trunk"), channels, Hold()) for name in NAMES}
    table = (0, 1, 2, 3, 0, 3, 1, 1, 2, 1, 1, 2)
    return changed(plan, points=points, schedule=Schedule(palette=palette, tables={EVERY: table}), action_flops=None)


def test_the_first_blocks_are_told_on_the_steps_on_which_they_run(mixed: Plan) -> None:
    found = {
        name: [step for step, runs in enumerate(steps) if runs] for name, steps in computed_at(mixed.section).items()
    }
    assert found == {"network": [0, 4], "first block": [0, 2, 3, 4, 5, 8, 11], "first 2 blocks": [0, 3, 4, 5]}
    assert told_steps(mixed.section) == "2, first block on 7, first 2 blocks on 4 of 12 steps"


def test_info_tells_what_runs_in_part(mixed: Plan, tmp_path: Path) -> None:
    save_plan(mixed, tmp_path / "plan.json")
    assert describe(str(tmp_path / "plan.json"))["transformer: points"] == told_steps(mixed.section)


def test_branches_on_steps_of_their_own_are_told_apart() -> None:
    section = parted_plan(tiny.pipeline().transformer).section
    every, own = section.schedule.tables[EVERY], section.schedule.tables["1/2"]
    assert told_steps(section) == f"1/2 on {own.count(0)}, others on {every.count(0)} of 12 steps"
    alike_ = section.schedule.model_copy(update={"tables": {EVERY: every, "1/2": every}})
    assert told_steps(section.model_copy(update={"schedule": alike_})) == f"{every.count(0)} of 12 steps"


def test_a_policy_is_told_in_a_line_whatever_it_has_learnt(tmp_path: Path) -> None:
    steps = 50
    policy = PacedBySurprise(0.67271713220, (1.0, 0.5, *[1 / 3] * (steps - 2)), 0.4, (-3.15977168,) * steps)
    told = "threshold 0.6727, pace [1 0.5 0.3333 .. 0.3333, 50 in all], response 0.4, level [50 times -3.16], power 1"
    assert told_policy(policy.spec(9)) == f"paced_by_surprise: {told}, spread 1, at most 9 computed"
    ratios = MagnitudeRatio(0.1, {"cond": (1.0, 0.5), "*": (1.0,) * steps}).spec()
    assert "ratios (cond [1 0.5], * [50 times 1])" in told_policy(ratios)
    assert told_policy(PolicySpec(name="scheduled")) == "scheduled"
    plan = make_plan(tiny.pipeline().transformer)
    plan = changed(plan, policy=policy.spec())
    save_plan(plan, tmp_path / "plan.json")
    assert len(describe(str(tmp_path / "plan.json"))["transformer: policy"]) < 200


def test_sections_for_some_of_the_chunks_are_told_apart(tmp_path: Path) -> None:
    pipe = streaming.pipeline()
    first, later = (streaming.chunk_plan(pipe, computed).section for computed in ((0, 1, 3), (0, 4)))
    sections = first, later.model_copy(update={"from_chunk": 1})
    save_plan(Plan(name="by chunk", sections=sections), tmp_path / "plan.json")
    told = describe(str(tmp_path / "plan.json"))
    assert [told[f"transformer from chunk {start}: computed"] for start in (0, 1)] == ["0 1 3", "0 4"]
    assert told["transformer from chunk 1: chunks"] == "of 2 frames, kept of the past: all"
    model = TracedModel.of(pipe, "tiny", "transformer")
    model = model.model_copy(update={"config_digest": first.model.config_digest})  # as it is called
    with pytest.raises(PlanMismatchError, match="does otherwise in later chunks than in the first"):
        Start.of(load_plan(tmp_path / "plan.json"), model, CalibrateOptions.point)
