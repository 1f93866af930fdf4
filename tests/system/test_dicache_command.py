"""The preset dicache as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import MODEL, run

from hyca_calib.records import console
from hyca_calib.report import wall
from hyca_runtime import load_plan
from hyca_runtime.point import parse_point
from hyca_runtime.policies import ProbedChange

STEPS = 12
PRESET = ("--preset", "dicache", *MODEL)


@pytest.fixture(autouse=True)
def _few_baselines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_json", False)  # a run may ask for the log for machines
    monkeypatch.setattr(wall, "_baselines", lambda *_: [])  # other ways take most of a report's time


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_budget_to_a_plan(traced_folder: Path) -> None:
    done = run("--log-json", "search", "--budget", "1.5x", *PRESET, "--out", "studies/s")
    assert done.exit_code == 0, done.output
    events = [json.loads(line) for line in done.stderr.splitlines()]
    shares = {event["stage"]: event["share"] for event in events if event["event"] == "progress"}
    assert shares["calibrate"] == shares["threshold"] == 1, "bars end where the work does"
    section, study = load_plan(done.stdout.strip()).section, traced_folder / "studies/s"
    assert section.places == {"stack": parse_point("trunk:residual")}
    assert isinstance(section.decider, ProbedChange)
    assert section.decider.last, "as the release has it for FLUX"
    assert section.policy is not None
    account = json.loads((study / "result.json").read_text())
    ratios = account["flops_ratios"]
    assert len(ratios) / sum(1 / ratio for ratio in ratios) >= 1.5, "mean cost over samples"
    assert section.policy.max_computed is not None
    assert len(section.schedule.computed_steps) <= section.policy.max_computed < STEPS
    assert account["settings"]["threshold"] == section.decider.threshold > 0
    assert section.quality is not None
    assert section.quality.split == "select"
    assert "stack" in (study / "report.md").read_text()
    told = run("info", study).stdout
    assert "fitted False" in told
    assert "rollouts " not in told, "there are none"
    assert "complete already" in run("search", "--budget", "1.5x", *PRESET, "--out", "studies/s").stderr

    tried = json.loads((study / "thresholds.json").read_text())
    (study / "plan.json").unlink()
    again = run("search", "--budget", "1.5x", *PRESET, "--out", "studies/s")
    assert again.exit_code == 0, again.output
    assert json.loads((study / "thresholds.json").read_text()) == tried, "nothing is run twice"
    assert load_plan(again.stdout.strip()).section == section

    done = run("evaluate", *MODEL, "--plan", study, "--prompts", "prompts.txt", "--samples", 1, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["flops_ratio"] > 1


def test_a_budget_that_cannot_be_met(traced_folder: Path) -> None:
    done = run("search", "--budget", "11x", *PRESET, "--out", "studies/s")
    assert done.exit_code == 2
    assert "cannot be met by dicache" in done.output
    assert "is the most" in done.output
    assert not (traced_folder / "studies/s/plan.json").exists()
