"""The study of videos in chunks, on a tiny model with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny

from hyca_calib.commands.options import SearchLimits
from hyca_calib.pipelines.workload import Workload
from hyca_calib.records.provenance import provenance
from hyca_calib.search.packcache import keeping
from hyca_calib.search.step_caches import search
from hyca_runtime import load_plan
from hyca_runtime.errors import StudyError
from hyca_runtime.streaming.retention import All, Packed
from studies.streaming import chapters
from studies.streaming.__main__ import published
from studies.streaming.draw import draw_study
from studies.streaming.notebook import Notebook
from studies.streaming.page import page
from studies.streaming.runs import Subject

STEPS = 6
OTHERS = ("window", "important")


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = tmp_path_factory.mktemp("study")
    return Subject(tiny.stream(), "tiny:stream", folder, Workload(tiny.prompts(), 7, STEPS), 2, folder)


@pytest.fixture
def book(tmp_path: Path) -> Notebook:
    return Notebook(tmp_path / "keys-2.json", {"model": "tiny"})


def test_numbers_are_measured_once(book: Notebook, tmp_path: Path) -> None:
    assert book.once("all", lambda: {"db": [1.0, 2.0]}) == {"db": [1.0, 2.0]}
    again = Notebook(tmp_path / "keys-2.json", {"model": "tiny"})
    assert again.once("all", lambda: pytest.fail("is known")) == {"db": [1.0, 2.0]}
    again.lead("lead", [3.0, 4.0], [1.0, 2.0], (0, 1))
    assert again.lines["lead"] == {"lead": [2.0, 2.0, 2.0]}
    with pytest.raises(ValueError, match="move it away"):
        Notebook(tmp_path / "keys-2.json", {"model": "other"})


def test_equal_shares_are_found() -> None:
    """Of runs whose share falls with the threshold as 1 / (1 + t)."""
    asked = list[float]()

    def runs(threshold: float) -> dict[str, Any]:
        asked.append(threshold)
        return {"forwards": 1 / (1 + threshold)}

    for share in (0.2, 0.5, 0.9):
        found = chapters._at_share(runs, share, 0.5)
        assert abs(found["forwards"] - share) <= chapters.EQUAL
    assert len(asked) < 30


def test_a_window_and_packed_keys_keep_as_much(subject: Subject) -> None:
    problem, kept = subject.problem("all"), set[int]()
    for name, way in chapters.retentions(2).items():
        grown = subject.growth(48, keeping(problem, way))["bytes"]
        assert grown[-1] == grown[-2], name
        kept.add(grown[-1])
    assert len(kept) <= 2, "what is important is thinned by the next chunk, one chunk later"


def test_chapters(subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chapters, "THRESHOLDS", (0.3,))
    monkeypatch.setattr(chapters, "HALVINGS", 2)
    monkeypatch.setattr(chapters, "KEPT", (2,))
    of = {"workload": subject.workload.describe().model_dump(), "samples": 2}
    made = {**provenance("cpu").model_dump(), "command": "python -m studies.streaming"}
    found = dict[str, Any]()
    for chapter in (chapters.decisions, chapters.keys, chapters.growth, chapters.drift):
        book = Notebook(tmp_path / f"{chapter.__name__}-2.json", {"model": "tiny"})
        chapter(subject, book)
        assert json.loads((tmp_path / f"{chapter.__name__}-2.json").read_text())["lines"] == book.lines
        found[chapter.__name__] = {**made, **of, "lines": book.lines}
    own, one = (found["decisions"]["lines"][f"{way} 0.3"] for way in ("by chunk", "one for all"))
    assert len(own["db"]) == len(one["db"]) == 2
    assert 0 < own["forwards"] <= 1
    keys = found["keys"]["lines"]
    assert {*keys} == {
        "packed 2",
        "window 2",
        "important 2",
        "lead of packed over window 2",
        "lead of packed over important 2",
    }
    assert keys["packed 2"]["forwards"] == 1
    growth = found["growth"]["lines"]
    assert len(growth["as it is"]["seconds"]) == 8
    assert growth["all"]["bytes"] == sorted(growth["all"]["bytes"])
    assert growth["packed"]["bytes"][-1] < growth["all"]["bytes"][-1]
    assert found["drift"]["lines"] == {"no judge": {}}
    told = page({"model": {"name": "tiny"}, "chapters": found})
    mean, low, high = keys["lead of packed over window 2"]["lead"]
    assert f"| lead of packed over window 2 | {mean:+.2f} ({low:+.2f} to {high:+.2f}) |" in told
    assert "## Drift" not in told
    draw_study(found, tmp_path / "study.png")
    assert (tmp_path / "study.png").stat().st_size > 10_000


def test_chapters_that_are_not_asked_for_stay_as_published(tmp_path: Path) -> None:
    known = {"model": {"name": "tiny"}, "chapters": {"keys": {"samples": 12}}}
    (tmp_path / "results.json").write_text(json.dumps(known))
    assert published(tmp_path / "results.json", {"name": "tiny"}) == known
    assert published(tmp_path / "none.json", {"name": "tiny"})["chapters"] == {}
    with pytest.raises(StudyError, match="choose another --out"):
        published(tmp_path / "results.json", {"name": "other"})


def test_the_committed_page_is_that_of_the_committed_numbers() -> None:
    folder = Path(chapters.__file__).parent / "results"
    assert (folder / "README.md").read_text() == page(json.loads((folder / "results.json").read_text()))


def test_what_is_all_kept_and_computed_is_the_full_run(subject: Subject) -> None:
    samples = subject.drawn()
    exact = subject.under(samples, keeping(subject.problem("all"), All()))
    less = subject.under(samples, keeping(subject.problem("all"), Packed(1, 1)))
    assert exact["mean_db"] > 90 > less["mean_db"]
    assert exact["forwards"] == 1


@pytest.mark.slow
@pytest.mark.usefixtures("unreported")
def test_plans_are_searched_and_compared(subject: Subject, book: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chapters, "BUDGETS", ("2x",))
    monkeypatch.setattr(search, "HALVINGS", 3)
    few = SearchLimits(model="tiny:stream", trials=1, groups=1, rollouts=1, iterations=1, confirm=1.0, refine=1.0)
    chapters.plans(subject, book, few)
    found = book.lines
    assert load_plan(subject.published / "ours-2x.plan.json").sections
    assert {"flowcache 2x", "alike 2x", "ours 2x", "lead over flowcache 2x", "lead over alike 2x"} == {*found}
    assert all(found[f"{name} 2x"]["forwards"] <= 0.55 for name in ("alike", "ours"))
