"""One folder of ``studies/``: everything a search wrote, and where to go on after an interruption."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from filelock import FileLock

from hyca_calib.records.atomic import write_json
from hyca_runtime.errors import StudyError

JOURNAL, REQUEST, CALIBRATION = "journal.log", "request.json", "calibration.json"
CONTENT = "content of traces"
"""Of what was asked, by what a trace that takes another's place is told from it."""
TOLD = ("effort", "prompts", "threads", "from")
"""Of what was asked, what a plan says, too."""
SHORT = 60
"""Letters that two values have at most where both are told."""


def holds_anything(folder: Path, beside: str | None = None) -> bool:
    """Whether anything lies in a folder.

    Args:
        beside: what a file's name begins with that does not count.

    Raises:
        StudyError: it is a file.
    """
    if folder.is_file():
        raise StudyError(f"{folder} is a file, expected a folder; choose another --out")
    return folder.exists() and any(beside is None or not each.name.startswith(beside) for each in folder.iterdir())


class StudyFolder:
    """A folder for one budget.

    ``request.json`` says what was asked, before anything ran; ``plan.json`` and ``result.json`` are
    written last, so a folder with a plan is complete. A calibration keeps its ``calibration.json`` and its trace beside
    them.

    Attributes:
        journal: where workers share trials and rollouts, unless a storage is given.
        refinement: state of a refinement, to go on from after an interruption.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.journal, self.refinement = folder, folder / JOURNAL, folder / "refine.safetensors"
        self.plan, self.report, self._result = folder / "plan.json", folder / "report.html", folder / "result.json"

    @classmethod
    def open(cls, folder: Path, request: dict[str, Any]) -> Self:
        """Make the folder, or go on in it if it was made for the same request.

        Raises:
            StudyError: it holds another study.
        """
        study = cls.at(folder, request)
        if not (folder / REQUEST).exists():
            write_json(folder / REQUEST, json.loads(json.dumps(request)))
        return study

    @classmethod
    def at(cls, folder: Path, request: dict[str, Any]) -> Self:
        """The study that `open` would give, of which nothing is written yet.

        Raises:
            StudyError: the folder holds another study.
        """
        kept, wanted = folder / REQUEST, json.loads(json.dumps(request))
        held = holds_anything(folder, beside=REQUEST)  # looked at first: another worker may begin the study now
        if not kept.exists():
            if held and not (folder / CALIBRATION).exists():
                raise StudyError(f"{folder} is not empty and holds no study; choose another --out")
            return cls(folder)
        try:
            found = json.loads(kept.read_text())
        except ValueError as error:
            raise StudyError(f"{kept}: not JSON; remove the folder or choose another --out") from error
        if differs := sorted(_differing(found, wanted)):
            raise StudyError(
                f"{folder} holds a study with another {', '.join(differs)}; choose another --out, or remove it"
            )
        return cls(folder)

    def last_word(self) -> FileLock:
        """One of several workers refines and writes the plan; the others wait, and take over if it dies."""
        return FileLock(self.folder / "plan.lock")

    @property
    def told(self) -> dict[str, Any]:
        """What a plan says of what was asked: its effort, where prompts are from, the threads that sums round by."""
        asked = json.loads((self.folder / REQUEST).read_text()) if (self.folder / REQUEST).exists() else {}
        return {name: asked[name] for name in TOLD if name in asked}

    @property
    def complete(self) -> bool:
        return self.plan.exists() and self._result.exists()

    def read_result(self) -> dict[str, Any]:
        """What the search found, for reports.

        Raises:
            StudyError: the study is not complete.
        """
        if not self.complete:
            raise StudyError(f"{self.folder}: no complete study here; run or resume: python -m hyca_calib search")
        return dict(json.loads(self._result.read_text()))

    def write_result(self, result: dict[str, Any]) -> None:
        write_json(self._result, result)


def _differing(found: Any, wanted: dict[str, Any]) -> Iterator[str]:
    """What is different in two requests, limit by limit, and how."""
    known = found if isinstance(found, dict) else {}
    for key in {*known, *wanted}:
        was, asked = known.get(key), wanted.get(key)
        if key == "limits" and isinstance(asked, dict):
            yield from _differing(was, asked)
        elif was != asked:
            yield f"{key} ({was}, not {asked})" if len(f"{was}{asked}") <= SHORT else key
