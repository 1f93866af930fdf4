"""The driver of the study: what is done is kept, and the page has what is done."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hyca_calib.cli import app
from hyca_runtime.errors import StudyError
from studies.paper.chapter import NO_INTERVAL, Context, Numbers, Outline, Part, Rulings
from studies.paper.page import CHAPTERS, decided, render
from studies.paper.study import Study, chapters_of
from studies.paper.words import TEXTS


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Chapters that only say who they are, on no model at all."""
    calls: list[str] = []

    def measure(context: Context) -> Part:
        calls.append(f"{context.model} {context.folder.name}")
        (context.folder / "a.png").write_bytes(b"picture")
        return Part({"x": 1.5}, text=("Text.",))

    def rulings(numbers: Numbers) -> Rulings:
        return {"Water is wet.": ("holds" if numbers["x"] > 1 else "fails", "it was touched.")}

    nothing: Any = None
    monkeypatch.setattr(
        Study, "_context", lambda self, model, tell: Context(model, None, nothing, nothing, self.work / model)
    )
    for name, outline in CHAPTERS.items():
        monkeypatch.setitem(CHAPTERS, name, Outline("Title", outline.models, measure, rulings, {"a.png": "A picture"}))
    return calls


def test_seconds_count_over_interruptions(tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("studies.paper.study.time.monotonic", lambda: now)

    def killed(context: Context) -> Part:
        nonlocal now
        now += 30
        context.tell(0.5, "half of it")
        now += 400  # of which nothing is known
        raise KeyboardInterrupt

    outline, study = CHAPTERS["schedules"], Study(tmp_path / "work", tmp_path / "out")
    monkeypatch.setitem(CHAPTERS, "schedules", replace(outline, measure=killed))
    with pytest.raises(KeyboardInterrupt):
        study.make(["schedules"])
    monkeypatch.setitem(CHAPTERS, "schedules", outline)
    study.make(["schedules"])
    numbers = json.loads((tmp_path / "out" / "numbers.json").read_text())
    assert numbers["chapters"]["demo/schedules"]["seconds"] == 30


def test_the_page_has_what_is_done_and_nothing_is_done_twice(tmp_path: Path, made: list[str]) -> None:
    study = Study(tmp_path / "work", tmp_path / "out")
    page = study.make(["grouping"])
    assert made == ["demo grouping", "demo-class grouping"]
    text = page.read_text()
    assert "| Water is wet. | demo-class | holds |" in text
    assert "## demo-class: Title" in text
    assert "(figures/demo-a.png)" in text
    assert (tmp_path / "out" / "figures" / "demo-a.png").read_bytes() == b"picture"
    study.make(["grouping", "schedules"])
    assert made[2:] == ["demo schedules"]
    numbers = json.loads((tmp_path / "out" / "numbers.json").read_text())
    assert set(numbers["chapters"]) == {"demo/grouping", "demo-class/grouping", "demo/schedules"}
    assert numbers["chapters"]["demo/schedules"]["numbers"] == {"x": 1.5}
    assert numbers["settings"]["seed"] == 0
    assert "torch" in numbers["chapters"]["demo/schedules"]["made"]["versions"]


def test_chapters_of_other_machines_stay_on_the_page(tmp_path: Path, made: list[str]) -> None:
    Study(tmp_path / "here", tmp_path / "out").make(["demo/grouping"])
    page = Study(tmp_path / "there", tmp_path / "out").make(["schedules"])
    assert page.read_text().count("*Made in 0 minutes on") == 2
    Study(tmp_path / "quick", tmp_path / "out", quick=True).make(["solvers"])
    assert page.read_text().count("*Made in 0 minutes on") == 1, "other settings, another page"


def test_other_settings_need_another_folder(tmp_path: Path, made: list[str]) -> None:
    Study(tmp_path / "work", tmp_path / "out").make(["schedules"])
    with pytest.raises(StudyError, match="choose another --work"):
        Study(tmp_path / "work", tmp_path / "out", seed=1).make(["schedules"])
    assert len(made) == 1


def test_unknown_chapters_are_refused() -> None:
    with pytest.raises(StudyError, match="no chapter astrology; there are solvers"):
        chapters_of(["astrology"])
    assert chapters_of(["demo-class/grouping", "solvers"]) == [("demo", "solvers"), ("demo-class", "grouping")]
    assert chapters_of(["grouping"]) == [("demo", "grouping"), ("demo-class", "grouping")]
    with pytest.raises(StudyError, match="no chapter results"):
        chapters_of(["results"])


def test_verdicts_follow_from_the_numbers_that_are_kept(tmp_path: Path, made: list[str]) -> None:
    """Without sampling: another number, another verdict; a chapter that is no more is left out."""
    out = tmp_path / "out"
    Study(tmp_path / "work", out).make(["schedules"])
    kept = json.loads((out / "numbers.json").read_text())
    kept["chapters"]["demo/schedules"]["numbers"]["x"] = 0.5
    kept["chapters"]["demo/results"] = kept["chapters"]["demo/schedules"]
    (out / "numbers.json").write_text(json.dumps(kept))
    text = render(out).read_text()
    assert len(made) == 1
    assert "| Water is wet. | demo | fails |" in text
    assert list(json.loads((out / "numbers.json").read_text())["chapters"]) == ["demo/schedules"]
    assert "Dropped verdicts" in text
    with pytest.raises(StudyError, match="make the study first"):
        render(tmp_path / "nowhere")


COMMITTED = Path(__file__).parents[2] / "studies" / "paper" / "results"


def test_the_committed_page_is_what_today_s_rules_make_of_the_committed_numbers(tmp_path: Path) -> None:
    shutil.copyfile(COMMITTED / "numbers.json", tmp_path / "numbers.json")
    assert render(tmp_path).read_text() == (COMMITTED / "README.md").read_text()
    assert (tmp_path / "numbers.json").read_text() == (COMMITTED / "numbers.json").read_text()
    pictures = {path.name for path in (COMMITTED / "figures").iterdir()}
    kept = json.loads((COMMITTED / "numbers.json").read_text())["chapters"]
    shown = {f"{key.partition('/')[0]}-{name}" for key, facts in kept.items() for name, _ in facts["figures"]}
    assert pictures == shown


def test_every_block_of_the_documents_is_told_somewhere() -> None:
    study = COMMITTED.parent
    code = "".join(path.read_text() for path in study.rglob("*.py"))
    names = {name for path in (study / "texts").glob("*.md") for name in TEXTS.get_template(path.name).blocks}
    assert len(names) > 60
    assert [name for name in names if f'"{name}"' not in code] == []


def test_the_installed_command_only_says_where_the_study_is() -> None:
    found = CliRunner().invoke(app, ["reproduce", "--only", "grouping"])
    assert found.exit_code == 2
    assert "python -m studies.paper" in found.output


def test_numbers_of_before_decide_nothing() -> None:
    """A chapter that lacks what a rule reads."""
    facts = json.loads((COMMITTED / "numbers.json").read_text())["chapters"]["demo/closed-loop"]
    facts["numbers"].pop("climbed", None)
    claim = next(claim for claim in decided("demo/closed-loop", facts).claims if "Rollouts find" in claim.text)
    assert (claim.verdict, claim.evidence) == ("not decided", NO_INTERVAL)
