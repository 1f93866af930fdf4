"""The page of the study: tables, verdicts, and why some have none; all from numbers that are kept, nothing sampled."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hyca_calib.records.atomic import write_json, write_text
from hyca_runtime.errors import StudyError
from studies.paper import formulas, groups, planning, points, refining, searching, transfer
from studies.paper.chapter import Chapter

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

RULES = (
    "Verdicts follow from the numbers below by fixed rules, which `python -m studies.paper --render` applies again. A "
    "condition is met, or surely not met, if its whole 95 % interval lies on one side of the threshold that the claim "
    "names; otherwise it is open. A claim *holds* if all its conditions are met, holds *partly* if some are, *fails* "
    "if none is and one surely is not, and is *not decided* if all are open, or if the numbers were kept without an "
    "interval. Where one of several tries would do, their intervals are wider (Bonferroni). Intervals are bootstraps "
    "over prompts (samples of one prompt are drawn together) with expanded percentiles, unless they say otherwise."
)
DROPPED = {
    "Dynamic programming finds the optimum (it equals complete enumeration, and no rival is cheaper).": (
        "true by construction: it could fail only by a fault of the code, for which there are tests"
    ),
    "At least 20,000 schedules are scored per second and core from Gram statistics.": (
        "the threshold was more than a hundred times below what is measured; the table has the rates"
    ),
    "Offline search for a Gram of 3072 channels takes under 5 minutes of processor time and 4 GiB.": (
        "one run, and thresholds several times above it; the table has its time and memory"
    ),
    "A plan holds on other seeds and on unseen prompts (making it again gains at most 1 dB).": (
        "what is made again is fitted on a third of the samples, so it could hardly gain 1 dB; replaced by the "
        "plan's own PSNR on unseen prompts"
    ),
    "Recursive one-step use amplifies errors as the gap grows.": (
        "growth was judged by two means without an interval; replaced by the cost at the longest interval"
    ),
    "The chapter on results: our plans at least 6, 9 or 10 dB above every peer, and nearer to the exact run.": (
        "wrongly measured: the best setting of a peer lay at the edge of its sweep, one damaged the next, DBCache, "
        "SeaCache and FasterCache were disabled. Two verdicts (on FirstBlockCache and MagCache, and on 6 dB over "
        "all that cost more) were false. The comparison is `hyca bench`'s alone"
    ),
}
"""Why, by claim."""
SOME_TOLD = f"`{NUMBERS}` has all numbers."
FIT_GAINS = 4
"""The first version of traces whose gains are of the fit split alone."""
OLDER = (
    "its trace is of an older version, in which gains of the network's tail were measured on half of all samples, "
    "those of the test split included"
)


def decided(key: str, facts: dict[str, Any]) -> Chapter:
    """A chapter as it was kept, with today's verdicts.

    Args:
        key: ``model/chapter``.
    """
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
    page = out / "README.md"
    write_text(page, "\n".join(_page(settings, found)))
    return page


def _page(settings: dict[str, Any], found: dict[str, Chapter]) -> list[str]:
    minutes = sum(chapter.seconds for chapter in found.values()) / 60
    verdicts = [(c.text, key.partition("/")[0], c.verdict) for key, chapter in found.items() for c in chapter.claims]
    parts = [
        "# Science: what feature caching claims, and what the data say\n",
        (
            f"Made by `python -m studies.paper`, seed {settings['seed']}, {settings['samples']} samples of "
            f"{settings['steps']} steps, in {minutes:.0f} minutes. {SOME_TOLD} How plans compare with other caches is "
            "no part of it: `hyca bench` measures that.\n"
        ),
        f"{RULES}\n",
        _table(("claim", "model", "verdict"), verdicts),
        "## Dropped verdicts\n",
        "Claims that were on this page, and why they have no verdict any more.\n",
        _table(("claim", "why it was dropped"), DROPPED.items()),
    ]
    return parts + [part for key, chapter in found.items() for part in _shown(key, chapter)]


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(row)} |\n" for row in (head, *rows)]
    return "".join([lines[0], "|---" * len(head), "|\n", *lines[1:]])


def _shown(key: str, chapter: Chapter) -> list[str]:
    model, _, name = key.partition("/")
    text = chapter.to_markdown()
    if len(CHAPTERS[name].models) > 1:
        text = text.replace("## ", f"## {model}: ", 1)
    for figure, _ in chapter.figures:
        text = text.replace(f"]({figure})", f"]({FIGURES}/{model}-{figure})")
    if not (made := chapter.made):
        return [text]
    libraries = ", ".join(f"{library} {version}" for library, version in made["versions"].items())
    facts = [f"Made in {chapter.seconds / 60:.0f} minutes on {made['device']}, {made['date']}"]
    if "commit" in made:
        facts.append(f"commit {made['commit']}")
    if made.get("trace", 0) < FIT_GAINS:
        facts.append(OLDER)
    return [text, f"*{'; '.join(facts)}. {libraries}.*\n"]
