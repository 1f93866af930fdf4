"""The preset learning-to-cache as a user types it: a budget, a released router, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commands import MODEL, run

from hyca_calib.report import wall
from hyca_runtime import load_plan
from hyca_runtime.point import LAYERS

STEPS = 8
PRESET = ("--preset", "learning-to-cache", *MODEL)


@pytest.fixture(autouse=True)
def _few_baselines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wall, "_baselines", lambda *_: [])  # other ways take most of a report's time


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_budget_and_a_router_to_plans(traced_folder: Path) -> None:
    done = run("search", "--budget", "1.3x", *PRESET, "--iterations", 2, "--refine", 60, "--out", "studies/s")
    assert done.exit_code == 0, done.output
    section, study = load_plan(done.stdout.strip()).section, traced_folder / "studies/s"
    assert {point.kind for point in section.places.values()} <= {*LAYERS}
    assert section.flops_ratio is not None
    assert 1.27 <= section.flops_ratio < 1.5
    assert {0, 2, 4, 6} <= {*section.schedule.computed_steps}
    account = json.loads((study / "result.json").read_text())
    assert account["preset"] == "learning-to-cache"
    assert account["settings"]["iterations"] == 2
    assert "regulariser" in (study / "report.md").read_text()
    assert run("info", study).exit_code == 0

    numbers = {f"{index}.prob": torch.full((6,), 5.0 if index else -5.0) for index in range(STEPS)}
    torch.save({"routers": numbers}, "released.pt")
    done = run("search", "--schedule", "released.pt", *PRESET)
    assert done.exit_code == 0, done.output
    section = load_plan(done.stdout.strip()).section
    assert [action.forecast for action in section.schedule.actions()] == [()] * 7 + [("attention", "mlp")]
    torch.save({"routers": numbers | {"2.prob": torch.zeros(6)}}, "released.pt")
    assert "holds a study with another schedule" in run("search", "--schedule", "released.pt", *PRESET).stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--budget", "3x", *PRESET], "x is the most; ask for less, or let it choose the steps with --free"),
        (["--schedule", "none.pt", *PRESET], "none.pt: cannot read the router"),
        (["--schedule", "prompts.txt", *PRESET], "prompts.txt: not a checkpoint of torch"),
        (["--schedule", "prompts.txt", "--free", *PRESET], "--free trains a router for any step"),
        (["--budget", "1.3x", "--threshold", "0.9", *PRESET], "--threshold is for a released router"),
        (["--budget", "2x", "--free", *MODEL], "--free is for --preset learning-to-cache, got --preset best"),
    ],
)
def test_what_cannot_be_had_leaves_nothing_behind(traced_folder: Path, arguments: list[str], reason: str) -> None:
    assert traced_folder.exists()
    done = run("search", *arguments)
    assert done.exit_code == 2, done.output
    assert reason in " ".join(done.stderr.split())
    assert not list(Path("studies").glob("*"))
