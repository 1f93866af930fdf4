"""``hyca check`` as a user types it: verdicts, exit codes, advice, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from commands import MODEL, run, write_prompts
from plans import make_plan
from typer.testing import CliRunner, Result

from hyca_calib.cli import app
from hyca_calib.commands.checking import CheckResult, show_check
from hyca_calib.search.check_plan import Check, Costs
from hyca_runtime import load_plan, save_plan


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts, traces of 12 and 20 steps, and a plan searched on the first."""
    folder: Path = tmp_path_factory.mktemp("check")
    shared = [*MODEL, "--prompts", write_prompts(folder), "--samples", 7, "--seed", 1]
    for steps in (12, 20):
        done = run("trace", *shared, "--steps", steps, "--out", folder / f"{steps}.zarr")
        assert done.exit_code == 0, done.output
    limits = [*MODEL, "--trials", 1, "--confirm", 0, "--refine", 0]
    where = ["--trace", folder / "12.zarr", "--out", folder / "study"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hyca_calib.commands.searching.report", lambda *_: None)
        done = run("search", "--budget", "4 steps", *where, *limits)
    assert done.exit_code == 0, done.output
    return folder


def check(folder: Path, steps: int, *more: object) -> Result:
    return run("check", "--plan", folder / "study" / "plan.json", "--trace", folder / f"{steps}.zarr", *more)


def as_json(done: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout, parse_constant=pytest.fail)
    return found


def test_a_plan_holds_on_its_own_trace(folder: Path) -> None:
    done = check(folder, 12)
    assert done.exit_code == 0
    assert "\nholds: making it again would gain nothing" in done.stdout
    assert "differs" not in done.stdout
    found = as_json(check(folder, 12, "--json"))
    assert found["verdict"] == found["check"]["verdict"] == "holds"
    assert found["measured"] is None
    assert found["check"]["here"] == found["check"]["home"]


def test_other_steps_need_other_taps(folder: Path) -> None:
    done = check(folder, 20, "--json")
    found = as_json(done)
    assert done.exit_code == 1
    assert found["verdict"] in ("refit", "redo")
    assert found["check"]["adapted"]
    assert found["check"]["changes"] == ["12 steps -> 20"]
    assert found["check"]["here"]["plan"] > found["check"]["here"]["refit"]

    shown = check(folder, 20)
    assert shown.exit_code == 1
    assert "differs from what it was made on: 12 steps -> 20" in shown.stdout
    assert "plan, closed forms" in shown.stdout
    assert f"python -m hyca_calib search --trace {folder / '20.zarr'} --budget '4 steps'" in shown.stdout


def test_rollouts_decide(folder: Path) -> None:
    rolled = ["--model", "tiny:pipeline", "--samples", 2]
    done = check(folder, 20, *rolled, "--json")
    found = as_json(done)
    assert len(found["measured"]["plan_db"]) == 2
    assert found["verdict"] == found["measured"]["verdict"]
    assert done.exit_code == (0 if found["verdict"] == "holds" else 1)
    shown = check(folder, 20, *rolled).stdout
    assert "PSNR, dB (95 %)" in shown
    assert "rollouts: " in shown


def test_a_plan_without_its_trace(folder: Path) -> None:
    plan = load_plan(folder / "study" / "plan.json")
    save_plan(plan.model_copy(update={"provenance": {}}), folder / "bare.json")
    done = run("check", "--plan", folder / "bare.json", "--trace", folder / "12.zarr")
    assert done.exit_code == 0
    assert "the plan does not say which trace it was made on" in done.stdout
    assert "-" in done.stdout


def test_another_model(folder: Path) -> None:
    save_plan(make_plan(tiny.pipeline(heads=4).transformer), folder / "wide.json")
    done = run("check", "--plan", folder / "wide.json", "--trace", folder / "12.zarr")
    assert done.exit_code == 1
    assert "other model: the runtime would refuse it" in done.stdout
    assert "64 channels, the trace has 32" in done.stdout


def test_bad_input(folder: Path) -> None:
    save_plan(make_plan(tiny.pipeline().transformer, point="output"), folder / "output.json")
    trace = ["--trace", folder / "12.zarr"]
    for arguments, message in (
        (["--plan", folder / "no.json", *trace], "cannot read the plan"),
        (["--plan", folder / "study" / "plan.json", "--trace", folder / "no.zarr"], "no such trace"),
        (["--plan", folder / "output.json", *trace], "trace with --point output"),
        (
            ["--plan", folder / "study" / "plan.json", *trace, "--model", "demo"],
            "not the one that was traced: its weights differ",
        ),
    ):
        done = run("check", *arguments)
        assert done.exit_code == 2
        assert message in done.stderr
        assert done.stdout == ""


def test_help_says_the_exit_code() -> None:
    done = CliRunner().invoke(app, ["check", "--help"], env={"COLUMNS": "300", "TERM": "dumb"})
    told = " ".join(done.output.split())
    assert "The exit code is 0 for holds, 1 for the others, 2 for bad input" in told
    assert "Example: python -m hyca_calib check" in told


def test_every_row_says_which_way_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the best closed form is to hold features."""
    costs = Costs(plan=1.0, refit=1.0, redo=1.0, hold=2.0, closed=2.0, closed_form="hold")
    check = Check(verdict="holds", reason="", num_steps=12, computed=(0, 4), redo_computed=(0, 4), here=costs)
    show_check(CheckResult(plan="plan.json", trace="t.zarr", verdict="holds", own_trace="", check=check))
    rows = [line.split("│")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert rows == ["plan", "new taps", "new schedule and taps", "best closed form: hold", "features held"]
