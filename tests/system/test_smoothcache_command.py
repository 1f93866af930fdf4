"""The preset smoothcache as a user types it: search, info, evaluate, export, and a schedule of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import MODEL, run

from hyca_calib.commands import plans
from hyca_calib.records.atomic import write_text
from hyca_calib.report import wall
from hyca_calib.report.wall import Tile, Wall
from hyca_calib.report.write import Summary
from hyca_calib.search.study import StudyFolder
from hyca_runtime import load_plan
from hyca_runtime.point import parse_point

STEPS = 8
PRESET = ("--preset", "smoothcache", *MODEL)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_budget_to_a_plan(traced_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wall, "_baselines", lambda *_: [])  # other ways take most of a report's time
    done = run("search", "--budget", "1.5x", *PRESET, "--out", "studies/s")
    assert done.exit_code == 0, done.output
    section, study = load_plan(done.stdout.strip()).section, traced_folder / "studies/s"
    assert section.places == {kind: parse_point(kind) for kind in ("attention", "mlp")}
    assert section.quality is not None
    for page in ("report.html", "report.md"):
        assert "cached at" in (study / page).read_text()
        assert "attention on" in (study / page).read_text()
    assert "Recipe: threshold 0." in (study / "report.md").read_text()
    assert "complete already" in run("search", "--budget", "1.5x", *PRESET, "--out", "studies/s").stderr

    told = run("info", study)
    assert told.exit_code == 0, told.output
    assert "attention on" in told.stdout
    assert "at mlp, 128 channels" in told.stdout, "two streams of two blocks"

    done = run("evaluate", *MODEL, "--plan", study, "--prompts", "prompts.txt", "--samples", 1, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["flops_ratio"] == pytest.approx(section.flops_ratio, rel=1e-3)


def test_several_budgets_and_a_schedule_elsewhere(traced_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two plans from one calibration; and what was exported makes the same plan again."""
    monkeypatch.setattr(plans, "write_report", without_pictures)
    done = run("search", "--budget", "1.2x,1.5x", *PRESET, "--out", "studies/two")
    assert done.exit_code == 0, done.output
    sections = [load_plan(line).section for line in done.stdout.split()]
    ratios = [section.flops_ratio or 0 for section in sections]
    assert 1.2 <= ratios[0] < 1.5 <= ratios[1]
    assert "| attention on" in (traced_folder / "studies/two/front.md").read_text()
    assert "| attention, mlp |" in (traced_folder / "studies/two/front.md").read_text()
    assert (traced_folder / "studies/two/layer_changes.json").is_file()

    done = run("export", "studies/two/1.5x", "--out", "own.json", "--names", "dit")
    assert done.exit_code == 0, done.output
    schedule = json.loads(Path("own.json").read_text())
    assert [*schedule] == ["attn", "mlp"]
    assert {len(steps) for steps in schedule.values()} == {STEPS}
    done = run("search", "--schedule", "own.json", *PRESET)
    assert done.exit_code == 0, done.output
    again = Path(done.stdout.strip())
    assert load_plan(again).section == sections[1]
    assert again.parent.name.endswith("-own-smoothcache")
    Path("own.json").write_text(json.dumps({"mlp": schedule["mlp"]}))
    assert "holds a study with another schedule" in run("search", "--schedule", "own.json", *PRESET).stderr


def without_pictures(pipe: object, study: StudyFolder, *_: object) -> Summary:
    """Stands in for a report; those take seconds."""
    write_text(study.report, "")
    full, plan = (Tile(name, "", 1.0, agreement_db=(1.0,), seconds=1.0) for name in ("full run", "plan"))
    return Summary(str(pipe), study.report, Wall((), full, plan, (), (), 0))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--budget", "3x", *PRESET], "x is the most; ask for less, or raise --lookahead"),
        (["--budget", "9 steps", *PRESET], "only 8 steps"),
        (PRESET, "give either --budget, such as 5x, or a --schedule"),
        (["--budget", "2x", "--schedule", "own.json", *PRESET], "give either --budget"),
        (
            ["--schedule", "own.json", *MODEL],
            "--schedule is for --preset smoothcache or learning-to-cache, got --preset best",
        ),
        (["--schedule", "none.json", *PRESET], "cannot read the schedule"),
        (["--schedule", "own.json", *PRESET], "expected 8 numbers, one for each step of the trace, got 2"),
        (["--schedule", "cross.json", *PRESET], "has no cross_attention that is a module of its own"),
    ],
)
def test_what_cannot_be_had_leaves_nothing_behind(traced_folder: Path, arguments: list[str], reason: str) -> None:
    (traced_folder / "own.json").write_text('{"ff": [1, 0]}')
    (traced_folder / "cross.json").write_text('{"attn2": [1, 0, 1, 0, 1, 0, 1, 1]}')
    done = run("search", *arguments)
    assert done.exit_code == 2, done.output
    assert reason in " ".join(done.stderr.split())
    assert not list(Path("studies").glob("*"))
