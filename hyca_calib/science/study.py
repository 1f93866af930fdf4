"""All chapters on the embedded models: recorded, computed, kept, and put on one page."""

from __future__ import annotations

import importlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyca_calib.defaults import batch_of, prompts_of
from hyca_calib.models import load_pipeline
from hyca_calib.provenance import versions
from hyca_calib.science.chapter import Chapter, Context
from hyca_calib.search.healing import PROBES, healed
from hyca_calib.search.problem import Problem
from hyca_calib.trace.run import trace
from hyca_calib.trace.store import Trace
from hyca_calib.workload import Workload
from hyca_runtime.errors import StudyError
from hyca_runtime.point import CachePoint

__all__ = ["CHAPTERS", "Study", "chapters_of"]

CHAPTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "solvers": ("solving.solvers", ("demo",)),
    "grouping": ("grouping.grouping", ("demo", "demo-class")),
    "schedules": ("schedules.schedules", ("demo",)),
    "closed-loop": ("closed_loop.closed_loop", ("demo",)),
    "refinement": ("refinement.refinement", ("demo",)),
    "points": ("points.points", ("demo", "demo-class")),
    "transfer": ("transfer.transfer", ("demo",)),
    "results": ("results.results", ("demo", "demo-class")),
}
"""Where each chapter's function is, and the models it is made on."""

Tell = Callable[[str, float, str], None]
"""Told the chapter, the share of it that is done, and a line of news."""


@dataclass(frozen=True)
class Study:
    """One run of the study.

    Attributes:
        work: traces, plans, parts and finished chapters; what is there is not done again.
        out: where ``science.md``, ``science.json`` and their pictures go.
        quick: a tenth of the work, to see that everything runs.
    """

    work: Path
    out: Path
    seed: int = 0
    samples: int = 112
    steps: int = 50
    quick: bool = False

    def make(self, only: Iterable[str], tell: Tell = lambda chapter, share, news: None) -> Path:
        """Do the chapters named in `only`, all if there are none, and write the page with all that are done.

        Raises:
            StudyError: no such chapter, or a work folder of other settings.
        """
        self._claim()
        wanted = chapters_of(only)
        for model in dict.fromkeys(model for model, _ in wanted):
            names = [name for of, name in wanted if of == model and not self._kept(model, name).exists()]
            if not names:
                continue
            context = self._context(model, lambda share, news: tell("trace", share, news))
            for name in names:
                self._do(context, name, tell)
        return self._write()

    def _do(self, context: Context, name: str, tell: Tell) -> None:
        module, function = CHAPTERS[name][0].split(".")
        work: Callable[[Context], Chapter] = getattr(importlib.import_module(f"hyca_calib.science.{module}"), function)
        label = f"{name}, {context.model}"
        folder = context.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        fields = {key: getattr(context, key) for key in ("model", "pipe", "problem", "workload", "seed", "quick")}
        chapter = work(Context(**fields, folder=folder, tell=lambda share, news: tell(label, share, news)))
        tell(label, 1.0, f"{chapter.seconds:.0f} s")
        _write_json(self._kept(context.model, name), chapter.to_json())

    def _context(self, model: str, tell: Callable[[float, str], None]) -> Context:
        """The pipeline and its trace at the trunk, every token stored; traced if it is not there."""
        folder = self.work / model
        workload = Workload(prompts_of(model, None), self.samples, self.steps, self.seed)
        pipe, path = load_pipeline(model), folder / "trunk.zarr"
        if not path.exists():
            done = 0

            def count(more: int) -> None:
                nonlocal done
                done += more
                tell(done / len(workload.jobs), f"{model}: {done} of {len(workload.jobs)} samples")

            batch = batch_of(model, None)
            trace(pipe, workload, CachePoint(), path, model_name=model, batch=batch, tokens=10**6, on_samples=count)
        probes = 6 if self.quick else PROBES
        problem = healed(pipe, Problem(Trace(path)), workload.of("fit"), folder / "healing.log", probes)
        return Context(model, pipe, problem, workload, folder, self.seed, self.quick)

    def _claim(self) -> None:
        """Make the work folder, or go on in it if it was made with the same settings."""
        settings = {"seed": self.seed, "samples": self.samples, "steps": self.steps, "quick": self.quick}
        path = self.work / "settings.json"
        if path.exists() and (found := json.loads(path.read_text())) != settings:
            raise StudyError(f"{self.work} holds a study with {found}, asked was {settings}; choose another --work")
        _write_json(path, settings)

    def _kept(self, model: str, name: str) -> Path:
        return self.work / model / f"{name}.json"

    def _write(self) -> Path:
        """The page and the numbers of all chapters that are done, pictures beside them."""
        done = [(m, n) for m, n in chapters_of(()) if self._kept(m, n).exists()]
        found = {(m, n): Chapter.from_json(json.loads(self._kept(m, n).read_text())) for m, n in done}
        pictures = self.out / "science"
        pictures.mkdir(parents=True, exist_ok=True)
        parts = [_head(self, found)]
        for (model, name), chapter in found.items():
            text = chapter.to_markdown().replace("## ", f"## {model}: ", 1) if len(CHAPTERS[name][1]) > 1 else None
            text = text or chapter.to_markdown()
            for figure, _ in chapter.figures:
                shutil.copyfile(self.work / model / name / figure, pictures / f"{model}-{figure}")
                text = text.replace(f"]({figure})", f"](science/{model}-{figure})")
            parts.append(text)
        page = self.out / "science.md"
        page.write_text("\n".join(parts))
        numbers = {f"{model}/{name}": chapter.to_json() for (model, name), chapter in found.items()}
        _write_json(self.out / "science.json", {"about": _about(self), "chapters": numbers})
        return page


def chapters_of(only: Iterable[str]) -> list[tuple[str, str]]:
    """``(model, chapter)`` of the chapters in `only`, all if there are none, model by model.

    Raises:
        StudyError: no such chapter.
    """
    names = list(only) or list(CHAPTERS)
    if unknown := [name for name in names if name not in CHAPTERS]:
        raise StudyError(f"no chapter {', '.join(unknown)}; there are {', '.join(CHAPTERS)}")
    models = dict.fromkeys(model for _, models in CHAPTERS.values() for model in models)
    return [(model, name) for model in models for name in CHAPTERS if name in names and model in CHAPTERS[name][1]]


def _head(study: Study, found: dict[tuple[str, str], Chapter]) -> str:
    about = _about(study)
    minutes = sum(chapter.seconds for chapter in found.values()) / 60
    lines = [
        "# Science: what feature caching claims, and what the data say",
        f"Made by `python -m hyca_calib reproduce` on {about['device']}, seed {study.seed}, {study.samples} samples of "
        f"{study.steps} steps, in {minutes:.0f} minutes of chapters. "
        + ", ".join(f"{name} {version}" for name, version in about["versions"].items())
        + ". Verdicts are computed by fixed rules from the numbers below; `science.json` has all of them.",
        "| claim | model | verdict |\n|---|---|---|\n"
        + "\n".join(
            f"| {claim.text} | {model} | {claim.verdict} |"
            for (model, _), chapter in found.items()
            for claim in chapter.claims
        ),
    ]
    return "\n\n".join(lines) + "\n"


def _about(study: Study) -> dict[str, Any]:
    return {
        "device": f"{os.cpu_count()} CPU cores ({platform.machine()})",
        "python": platform.python_version(),
        "versions": versions(),
        "seed": study.seed,
        "samples": study.samples,
        "steps": study.steps,
        "quick": study.quick,
    }


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)
