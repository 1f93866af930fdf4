"""Points that cannot meet a budget, places that cannot be written, and two calibrations that begin at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from processes import LEAST_EFFORT
from storage import record

from hyca_calib.commands.calibration import Settled
from hyca_calib.commands.options import SearchLimits
from hyca_calib.commands.reach import within_reach
from hyca_calib.commands.searching import search_with
from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.workload import Workload
from hyca_calib.records.console import one_line_errors
from hyca_calib.trace.store import Trace
from hyca_runtime.errors import BudgetError, StudyError
from hyca_runtime.point import parse_point


def test_points_that_cannot_meet_a_budget_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    points = [parse_point("behind:2"), parse_point("trunk")]
    record("t.zarr", Workload(tiny.prompts(), 7, 12, 0), point=points)
    recorded = [Trace("t.zarr", point) for point in points]
    assert within_reach([Budget.parse("1.2x")], recorded) == recorded
    assert within_reach([Budget.parse("1.2x"), Budget.parse("5x")], recorded) == recorded[1:]
    assert "behind:2 is left out, budget '5x' cannot be met" in capsys.readouterr().err.replace("\n", " ")
    with pytest.raises(BudgetError, match="cannot be met"):
        within_reach([Budget.parse("500x")], recorded)
    limits = SearchLimits(trials=1, confirm=0, probes=0, refine=0)
    search_with(lambda model: tiny.pipeline(), "1.2x", ["t.zarr"], limits, Path("study"))
    assert "latent PSNR of the best rollout" not in Path("study/report.md").read_text(), "there was none"


def test_files_that_cannot_be_used_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as found, one_line_errors():
        (tmp_path / "none" / "file").write_text("")
    assert found.value.code == 2
    assert "FileNotFoundError:" in capsys.readouterr().err
    with pytest.raises(ConnectionError), one_line_errors():
        raise ConnectionError("of no file")
    with pytest.raises(SystemExit) as found, one_line_errors():
        raise KeyboardInterrupt
    assert found.value.code == 130
    assert "the same command again goes on" in capsys.readouterr().err


def test_what_was_settled_first_counts(tmp_path: Path) -> None:
    first, second = (Settled({"model": "tiny"}, LEAST_EFFORT, threads) for threads in (1, 2))
    assert first.keep(tmp_path) is first
    assert second.keep(tmp_path) == first
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.json"]
    with pytest.raises(StudyError, match="a calibration with another model"):
        Settled({"model": "other"}, LEAST_EFFORT, 1).keep(tmp_path)
