"""Several points in one trace: each as a trace of it alone has it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
from storage import record

from hyca_calib.commands.options import SearchLimits
from hyca_calib.commands.searching import _request, _traces
from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.workload import Workload
from hyca_calib.search.problem import Problem
from hyca_calib.trace.preflight import Preflight
from hyca_calib.trace.request import Request, point_key
from hyca_calib.trace.store import Trace
from hyca_calib.trace.verify import verify
from hyca_runtime.errors import TraceError
from hyca_runtime.point import CachePoint, parse_point

POINTS = tuple(map(parse_point, ("trunk", "trunk:residual", "behind:2", "blocks", "attention")))


Made = dict[tuple[CachePoint, ...], tuple[Trace, Preflight]]
BATCHES, LATENTS = 3, 3 * 4 * 16 * 48


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A trace of all points, and of each alone, with what each needs."""
    workload, folder = Workload(tiny.prompts(), num_samples=7, num_steps=4, seed=3), tmp_path_factory.mktemp("points")
    found = Made()
    for number, points in enumerate((POINTS, *((point,) for point in POINTS))):
        told: list[Preflight] = []
        assert record(folder / f"{number}.zarr", workload, point=points, on_preflight=told.append)
        (needs,) = told
        found[points] = Trace(folder / f"{number}.zarr"), needs
    return found


@pytest.fixture
def several(made: Made) -> Trace:
    return made[POINTS][0]


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_each_is_as_in_a_trace_of_it_alone(made: Made, several: Trace, point: CachePoint) -> None:
    alone, found = made[point,][0], several.at(point)
    assert found.points == POINTS
    assert (found.point, found.key, found.of_point) == (alone.point, alone.key, alone.of_point)
    for split in ("fit", "select", "test"):
        np.testing.assert_array_equal(found.joint_gram(split), alone.joint_gram(split))
        np.testing.assert_array_equal(found.values(split), alone.values(split))
    np.testing.assert_array_equal(found.gain, alone.gain)
    costs = ("full_flops", "tail_flops", "feature_numel")
    assert [getattr(found.cost, name) for name in costs] == [getattr(alone.cost, name) for name in costs]
    assert Problem(found).identity == Problem(alone).identity


def test_the_first_is_read_unless_another_is_asked_for(several: Trace, tmp_path: Path) -> None:
    assert several.point == Trace(several.where).point == POINTS[0]
    assert several.at(POINTS[0]) is several
    assert Trace(several.where, POINTS[2]).name == f"{several.where} at behind:2"
    with pytest.raises(
        TraceError, match=r"is of trunk, trunk:residual, behind:2, blocks, attention, not of output; trace with"
    ):
        several.at(CachePoint(kind="output"))
    assert verify(several.where) == []
    path = tmp_path / "t.zarr"
    shutil.copytree(several.where, path)
    costs = json.loads((path / "cost.json").read_text())
    assert {cost["full_flops"] for cost in costs.values()} == {several.cost.full_flops}
    (path / "cost.json").write_text(json.dumps({"trunk": costs["trunk"]}))
    with pytest.raises(TraceError, match=r"cost.json has nothing of behind-2; mend it"):
        Trace(path, POINTS[2])


def test_memory_is_told_for_all_together(made: Made) -> None:
    whole, *each = (needs for _, needs in made.values())
    assert whole.disk == sum(needs.disk - BATCHES * LATENTS for needs in each) + BATCHES * LATENTS
    assert whole.device > max(needs.device for needs in each)


def test_all_are_contenders_of_a_search_with_names_of_their_own(several: Trace) -> None:
    found = _traces([several.where], SearchLimits())
    assert [trace.point for trace in found] == list(POINTS)
    names = _request(found, Budget.parse("2x"), SearchLimits())["traces"]
    assert names == [f"{several.where} at {point}" for point in POINTS]
    assert [trace.point for trace in _traces([several.where], SearchLimits(preset="hyca"))] == list(POINTS)
    (first,) = _traces([several.where], SearchLimits(preset="dbcache"))
    assert first.point == POINTS[0]
    with pytest.raises(TraceError, match="each at another point"):
        _traces([several.where, several.where], SearchLimits())


def test_keys_are_names_of_folders(several: Trace) -> None:
    assert [point_key(point) for point in POINTS] == ["trunk", "trunk-residual", "behind-2", "blocks", "attention"]
    assert point_key(parse_point("modules:a.*.b")) == "modules-a.-.b"
    request = Request.read(several.folder)
    alike = [parse_point(text) for text in ("modules:a.*.b", "modules:a.?.b")]
    for points in ([], [POINTS[0]] * 2, alike):
        with pytest.raises(ValueError, match="expected one or more, each once"):
            Request.model_validate({**request.model_dump(), "points": points})


def test_points_that_no_trace_can_have_are_told_in_a_line(several: Trace) -> None:
    content = dict(Request.read(several.folder))
    with pytest.raises(TraceError, match=r"^across: expected several points to multiply with each other, got trunk$"):
        Request.asked(**{**content, "points": POINTS[:1], "across": True})


def test_the_command_for_a_missing_point_has_no_blanks_in_it(several: Trace) -> None:
    there = ",".join(map(str, POINTS))
    with pytest.raises(TraceError, match=f"not of output; trace with --point {re.escape(there)},output$"):
        several.at(parse_point("output"))
