"""All chapters on the embedded models: recorded, computed, kept, and put on one page."""

import json
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from hyca_calib.pipelines.defaults import batch_of, prompts_of
from hyca_calib.pipelines.load import load_pipeline
from hyca_calib.pipelines.workload import Workload
from hyca_calib.records.atomic import write_json
from hyca_calib.records.provenance import provenance
from hyca_calib.search.error_damping import with_damping
from hyca_calib.search.options import SearchOptions
from hyca_calib.search.problem import Problem
from hyca_calib.trace.request import TRACE_VERSION
from hyca_calib.trace.run import trace
from hyca_calib.trace.store import Trace
from hyca_runtime.errors import StudyError
from hyca_runtime.point import CachePoint
from studies.paper.chapter import Context
from studies.paper.page import CHAPTERS, FIGURES, NUMBERS, ORDER, write_page

Tell = Callable[[str, float, str], None]
"""Told the chapter, the share of it that is done, and a line of news."""


@dataclass(frozen=True)
class Study:
    """One run of the study.

    Attributes:
        work: traces, plans, parts and finished chapters; what is there is not done again.
        out: where ``README.md``, ``numbers.json`` and their figures go.
        quick: a tenth of the work, to see that everything runs.
    """

    work: Path
    out: Path
    seed: int = 0
    samples: int = 112
    steps: int = 50
    quick: bool = False

    def make(self, only: Iterable[str], tell: Tell = lambda chapter, share, news: None) -> Path:
        """Do the chapters named in `only`, all if there are none, and put each on the page when it is done.

        Chapters that were on the page before stay, if they were made with the same settings.

        Raises:
            StudyError: no such chapter, or a work folder of other settings.
        """
        self._claim()
        context_of = cache(lambda model: self._context(model, lambda share, news: tell("trace", share, news)))
        for model, name in chapters_of(only):
            if not self._kept(model, name).exists():
                self._do(context_of(model), name, tell)
        return self._write()

    def _do(self, context: Context, name: str, tell: Tell) -> None:
        label, folder = f"{name}, {context.model}", context.folder / name
        clock, begun = folder / "seconds.json", time.monotonic()
        before = json.loads(clock.read_text()) if clock.exists() else 0.0  # of interrupted attempts

        def note(share: float, news: str) -> None:
            write_json(clock, round(before + time.monotonic() - begun, 1))
            tell(label, share, news)

        note(0.0, "")
        chapter = CHAPTERS[name].chapter(name, replace(context, folder=folder, tell=note))
        note(1.0, "done")
        facts = {"seconds": json.loads(clock.read_text()), "made": circumstances()}
        write_json(self._kept(context.model, name), chapter.model_copy(update=facts).model_dump())
        self._write()

    def _context(self, model: str, tell: Callable[[float, str], None]) -> Context:
        """The pipeline and its trace at the trunk, every token stored; traced if it is not there."""
        folder = self.work / model
        workload = Workload(prompts_of(model, None), self.samples, self.steps, self.seed)
        pipe, path = load_pipeline(model), folder / "trunk.zarr"
        done, batch = 0, batch_of(model, None)

        def count(more: int) -> None:
            nonlocal done
            done += more
            tell(done / len(workload.jobs), f"{model}: {done} of {len(workload.jobs)} samples")

        trace(pipe, workload, CachePoint(), path, model_name=model, batch=batch, tokens=10**6, on_samples=count)
        probes = 6 if self.quick else SearchOptions.probes
        problem = with_damping(pipe, Problem(Trace(path)), folder / "healing.log", probes)
        return Context(model, pipe, problem, workload, folder, self.seed, self.quick)

    def _claim(self) -> None:
        """Make the work folder, or go on in it if it was made with the same settings."""
        path = self.work / "settings.json"
        if path.exists() and (found := json.loads(path.read_text())) != self.settings:
            raise StudyError(
                f"{self.work} holds a study with {found}, asked was {self.settings}; choose another --work"
            )
        write_json(path, self.settings)

    @property
    def settings(self) -> dict[str, Any]:
        """What the chapters of one page have in common."""
        return {name: getattr(self, name) for name in ("seed", "samples", "steps", "quick")}

    def _kept(self, model: str, name: str) -> Path:
        return self.work / model / f"{name}.json"

    def _write(self) -> Path:
        """The page and the numbers: chapters of this work folder, and those that the page had before."""
        numbers, pictures = self._published(), self.out / FIGURES
        pictures.mkdir(parents=True, exist_ok=True)
        for model, name in ORDER:
            if (kept := self._kept(model, name)).exists():
                numbers[f"{model}/{name}"] = json.loads(kept.read_text())
                for figure, _ in numbers[f"{model}/{name}"]["figures"]:
                    shutil.copyfile(self.work / model / name / figure, pictures / f"{model}-{figure}")
        return write_page(self.out, self.settings, numbers)

    def _published(self) -> dict[str, dict[str, Any]]:
        """Chapters of the same settings that are on the page, from other machines perhaps."""
        path = self.out / NUMBERS
        facts = json.loads(path.read_text()) if path.exists() else {}
        return dict(facts["chapters"]) if facts.get("settings") == self.settings else {}


def chapters_of(only: Iterable[str]) -> list[tuple[str, str]]:
    """``(model, chapter)`` of the chapters in `only`, all if there are none, model by model.

    Args:
        only: ``chapter``, for all models that it is made on, or ``model/chapter``.

    Raises:
        StudyError: no such chapter.
    """
    names = list(only) or list(CHAPTERS)
    if unknown := [n for n in names if not any(n in (name, f"{model}/{name}") for model, name in ORDER)]:
        raise StudyError(f"no chapter {', '.join(unknown)}; there are {', '.join(CHAPTERS)}")
    return [(model, name) for model, name in ORDER if name in names or f"{model}/{name}" in names]


def circumstances() -> dict[str, Any]:
    """Of a chapter that is made now."""
    made = provenance("cpu").model_dump()
    threads = "a thread" if made["threads"] == 1 else f"{made['threads']} threads"
    return {**made, "device": f"{threads} of {made['processor']}", "trace": TRACE_VERSION}
