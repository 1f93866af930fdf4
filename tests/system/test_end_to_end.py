"""Trace, search, evaluate, bench on the embedded model; work is counted, so the clock decides nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hyca_calib.cli import app
from hyca_calib.costs.budget import TOLERANCE


@pytest.mark.slow
@pytest.mark.usefixtures("unreported")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_embedded_model_gets_five_times_cheaper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    monkeypatch.setattr("hyca_calib.bench.stage.NUM_EXACT", 1)
    monkeypatch.setattr("hyca_calib.bench.stage.REPEATS", 1)  # of a clock that nothing here looks at
    run("trace", "--samples", "14", "--steps", "40", "--out", "t.zarr")
    limits = ["--trials", "6", "--probes", "4", "--confirm", "60", "--rollouts", "8"]
    limits += ["--refine", "60", "--iterations", "6"]
    plan = run("search", "--budget", "5x", "--trace", "t.zarr", *limits, "--out", "s").strip()
    figures = json.loads(run("evaluate", "--plan", plan, "--samples", "3", "--json"))
    assert figures["flops_ratio"] >= 5 / (1 + TOLERANCE)
    assert figures["wall_ratio"] > 3
    only = ["--only", "fewer steps", "--only", "TaylorSeer", "--only", "DPM-Solver++", "--only", "FirstBlockCache"]
    asked = ["--samples", "7", "--steps", "40", "--batch", "2", "--settings", "3"]
    run("bench", *asked, *only, "--out", "b", "--plan", plan)
    rows = {row["method"]: row["result"]["psnr_db"] for row in json.loads(Path("b/bench.json").read_text())["rows"]}
    ours = rows.pop("HyCa plan s")
    assert rows.pop("full run") > ours
    assert ours > max(rows.values()) + 4, rows
