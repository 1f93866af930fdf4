from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_runtime import Plan, PlanCache, PlanError, apply_plan, load_plan, save_plan
from hyca_runtime.group import decode_channels, encode_channels
from hyca_runtime.schedule import Schedule


def test_round_trip(plan: Plan, tmp_path: Path) -> None:
    save_plan(plan, tmp_path / "plan.json")
    again = load_plan(tmp_path / "plan.json")
    assert again == plan
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]
    for step, taps in plan.section.taps().items():
        assert (again.section.taps()[step].weights == taps.weights).all()


def test_taps_follow_the_groups(plan: Plan) -> None:
    half = plan.section.forecast.num_channels // 2
    taps = plan.section.taps()[5]
    assert taps.history == (4, 1)
    assert taps.weights[:, 0] == pytest.approx([1 + 1 / 3, -1 / 3], rel=1e-5)  # one step after a gap of three
    assert taps.weights[:, half].tolist() == [1, 0]


FITTED = {"name": "fitted", "configuration": {"steps": [1], "weights": [[[1.0]]]}}


def _edit(content: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    inner: Any = content
    for parent in parents:
        inner = inner[int(parent) if parent.isdigit() else parent]
    inner[last] = value


def _with(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: _edit(content, path, value)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_with("sections", []), "sections"),
        (lambda content: content["sections"][0].pop("schedule"), "sections.0.schedule: this field is missing"),
        (_with("sections.0.schedul", 1), 'unknown field; did you mean "schedule"'),
        (_with("section", 1), 'unknown field; did you mean "sections"'),
        (_with("sections.0.grid.timestep", 1), 'unknown field; did you mean "timesteps"'),
        (_with("version", 1), "search again"),
        (_with("version", 4), "newer than this hyca"),
        (_with("version", "1"), "older hyca.* search again .*expected 3, got '1'"),
        (lambda content: content.pop("version"), "older hyca.* search again .*expected 3, got 'None'"),
        (_with("format", "other"), "not a HyCa plan"),
        (_with("sections.0.points.feature.groups.*.0.channels", "0-20"), "covered twice"),
        (_with("sections.0.points.feature.groups.*.0.channels", "0-3"), "covered by no group"),
        (_with("sections.0.points.feature.groups.*.0.channels", "0-99"), "names channel 99"),
        (_with("sections.0.points.feature.groups.*.0.channels", "5-1"), "must ascend"),
        (_with("sections.0.points.feature.groups.*.0.channels", "zero"), "expected runs"),
        (_with("sections.0.points.feature.groups.*.0.axis", "token"), r"sections.0.points.feature.groups.\*.0.axis"),
        (_with("sections.0.points.feature.groups.*.0.solver.name", "newtn"), 'did you mean "newton"'),
        (_with("sections.0.points.feature.groups.*.0.solver.configuration", {"ordr": 1}), "does not take"),
        (_with("sections.0.points.feature.groups.*.0.solver.configuration", {"order": 9}), "order must be"),
        (
            _with(
                "sections.0.points.feature.groups.*.0.solver",
                {
                    "name": "fitted",
                    "configuration": {"steps": [2, 3, 5, 6, 7, 9, 10, 11], "weights": [[[1.0, 2.0]]] * 8},
                },
            ),
            "rows for 2 channels in a group of 16",
        ),
        (_with("sections.0.schedule.tables.*", [1] + [0] * 11), "step 0 must be computed"),
        (_with("sections.0.schedule.tables.*", [7] * 12), "outside the palette"),
        (_with("sections.0.schedule.tables.*", [0] * 11), "expected 11 values"),
        (_with("sections.0.schedule.palette.1.variant", "int8"), "sections.0: schedule.palette.1.variant: .*'default'"),
        (_with("sections.0.grid.timesteps", ["a"] * 12), "sections.0.grid.timesteps.0"),
        (
            _with(
                "sections.0.points.feature.groups.*.0.fallback",
                {"name": "fitted", "configuration": {"steps": [], "weights": []}},
            ),
            "fitted",
        ),
        (_with("sections.0.grid.scheduler_timesteps", [1.0]), "scheduler_timesteps: expected 12"),
        (_with("sections.0.points.feature.at", {"kind": "span"}), "path: a point of kind"),
        (_with("sections.0.grid.axis_times", [1.0] * 12), "share one time"),
        (_with("sections.0.points.feature.num_channels", 0), "sections.0.points.feature.num_channels"),
    ],
)
def test_faults_are_named(plan: Plan, tmp_path: Path, damage: Callable[[dict[str, Any]], None], reason: str) -> None:
    content = plan.model_dump(mode="json")
    damage(content)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(content))
    with pytest.raises(PlanError, match=reason) as caught:
        load_plan(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity", "1e999", "-2.5E+400"])
def test_not_a_number(plan: Plan, tmp_path: Path, constant: str) -> None:
    path = tmp_path / "plan.json"
    save_plan(plan, path)
    text = path.read_text()
    path.write_text(text.replace("1000.0", constant))
    assert path.read_text() != text
    with pytest.raises(PlanError, match="not a number"):
        load_plan(path)


def test_truncated_and_missing(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    save_plan(plan, path)
    path.write_text(path.read_text()[:200])
    with pytest.raises(PlanError, match="truncated"):
        load_plan(path)
    with pytest.raises(PlanError, match="cannot read"):
        load_plan(tmp_path / "none.json")
    path.write_text("[" * 100_000)
    with pytest.raises(PlanError, match="not valid JSON"):
        load_plan(path)


def test_a_path_will_do(pipe: EmojiPipeline, plan: Plan, tmp_path: Path) -> None:
    """Of a file or of its study's folder, wherever a plan is read; what is neither is told what is wanted."""
    study = tmp_path / "study-5x"
    study.mkdir()
    save_plan(plan, study / "plan.json")
    (study / "plan.json").write_bytes(b"\xef\xbb\xbf" + (study / "plan.json").read_bytes())  # as Windows saves it
    for path in (study / "plan.json", study, str(study)):
        assert load_plan(path) == plan
        assert PlanCache().get(path) == plan
        with apply_plan(pipe, path) as session:
            assert session.plan == plan
    for read in (load_plan, PlanCache().get, partial(apply_plan, pipe)):
        with pytest.raises(PlanError, match=r"a folder without a plan.json; name one of study-5x/plan.json"):
            read(tmp_path)
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(PlanError, match=r"a folder without a plan.json; expected a plan's file, or a study"):
            read(tmp_path / "empty")
    with pytest.raises(PlanError, match="expected a Plan, or the path of its file or folder, got dict"):
        apply_plan(pipe, plan.model_dump())  # type: ignore[arg-type]
    with (
        apply_plan(pipe, plan) as session,
        pytest.raises(PlanError, match="expected a Plan, got str; keep plans of files in a PlanCache"),
        session.following(str(study)),  # type: ignore[arg-type]
    ):
        pass


def test_channel_codec() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        indices = sorted(rng.choice(200, rng.integers(1, 200), replace=False).tolist())
        assert decode_channels(encode_channels(indices)) == indices
    assert encode_channels([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"


def test_schedules() -> None:
    assert Schedule.every(12, 4, warmup=2).computed_steps == (0, 1, 5, 9)
    schedule = Schedule.from_steps(10, (0, 1, 4, 7))
    assert schedule.history(6, 3) == (4, 1, 0)
    assert schedule.history(1, 3) == (0,)
    assert schedule.predicted_steps == (2, 3, 5, 6, 8, 9)
    with pytest.raises(PlanError, match="must contain 0"):
        Schedule.from_steps(10, (1, 4))
