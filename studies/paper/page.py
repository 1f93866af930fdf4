"""The page of the study: tables, verdicts, and why some have none; all from numbers that are kept, nothing sampled."""

import json
from pathlib import Path
from typing import Any

from hyca_calib.records.atomic import write_json, write_text
from hyca_runtime.errors import StudyError
from studies.paper import formulas, groups, planning, points, refining, searching, transfer
from studies.paper.chapter import Chapter
from studies.paper.words import TEXTS

NUMBERS, FIGURES = "numbers.json", "figures"

CHAPTERS = {
    "solvers": formulas.SOLVERS,
    "grouping": groups.GROUPING,
    "schedules": planning.SCHEDULES,
    "closed-loop": searching.CLOSED_LOOP,
    "refinement": refining.REFINEMENT,
    "points": points.POINTS,
    "transfer": transfer.TRANSFER,
}
MODELS = tuple(dict.fromkeys(model for outline in CHAPTERS.values() for model in outline.models))
ORDER = [(model, name) for model in MODELS for name, outline in CHAPTERS.items() if model in outline.models]
"""All chapters ``(model, name)`` as they come on the page."""
FIT_GAINS = 4
"""The first version of traces whose gains are of the fit split alone."""


def decided(key: str, facts: dict[str, Any]) -> Chapter:
    """A chapter, named ``model/chapter``, as it was kept, with today's verdicts."""
    return CHAPTERS[key.partition("/")[2]].decided(Chapter.model_validate(facts))


def render(out: Path) -> Path:
    """Decide again what ``numbers.json`` holds, and write it and the page; returns the page.

    Raises:
        StudyError: there is no study in `out`.
    """
    path = out / NUMBERS
    if not path.exists():
        raise StudyError(f"{path} does not exist; make the study first: python -m studies.paper --out {out}")
    facts = json.loads(path.read_text())
    return write_page(out, facts["settings"], facts["chapters"])


def write_page(out: Path, settings: dict[str, Any], kept: dict[str, dict[str, Any]]) -> Path:
    """``numbers.json`` and ``README.md`` of the chapters that are still part of the study; returns the page."""
    keys = [f"{model}/{name}" for model, name in ORDER]
    found = {key: decided(key, kept[key]) for key in keys if key in kept}
    write_json(out / NUMBERS, {"settings": settings, "chapters": {k: c.model_dump() for k, c in found.items()}})
    shown = [(key.partition("/")[0], chapter) for key, chapter in found.items()]
    parts = [{"model": model, "chapter": chapter, "text": _shown(model, chapter)} for model, chapter in shown]
    minutes = sum(chapter.seconds for chapter in found.values()) / 60
    page = TEXTS.get_template("page.md").render(settings=settings, minutes=minutes, parts=parts, fit_gains=FIT_GAINS)
    write_text(out / "README.md", page)
    return out / "README.md"


def _shown(model: str, chapter: Chapter) -> str:
    """The chapter's text on a page with those of other models."""
    text = chapter.to_markdown()
    if len(CHAPTERS[chapter.name].models) > 1:
        text = text.replace("## ", f"## {model}: ", 1)
    for figure, _ in chapter.figures:
        text = text.replace(f"]({figure})", f"]({FIGURES}/{model}-{figure})")
    return text
