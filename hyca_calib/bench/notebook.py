"""What was measured is written down at once, so that an interrupted bench goes on where it stopped."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor

from hyca_calib.records.atomic import replacing
from hyca_calib.records.provenance import code_of

T = TypeVar("T")
MEASURED = "measured.jsonl"
PICTURES = "pictures"


class Part(StrEnum):
    """What is measured of a method beside its row."""

    FEW = "few"
    REST = "rest"
    TIMED = "timed"
    JUDGED = "judged"
    LEARNT = "learnt"

    def of(self, method: str) -> str:
        """The name of that measurement."""
        return f"{method}, {self}"


@dataclass(frozen=True)
class Notebook:
    """A line for every measurement; one that was made under other facts, or by other code, is made again.

    Several processes may write to one: a line is appended at once, and one that was cut off counts for nothing.

    Attributes:
        folder: None keeps nothing beyond the process.
        facts: what all measurements depend on.
        earlier: measurements by name that are trusted whatever code they were made by, see `measured_earlier`.
    """

    folder: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    earlier: Mapping[str, Any] = field(default_factory=dict)
    _held: dict[str, Tensor] = field(default_factory=dict)

    @cached_property
    def _known(self) -> dict[str, Any]:
        return {note["key"]: note["found"] for note in self._notes()}

    def _notes(self) -> Iterator[dict[str, Any]]:
        path = self.folder / MEASURED if self.folder else None
        for line in path.read_text().splitlines() if path and path.exists() else ():
            with suppress(ValueError):  # cut off
                note = json.loads(line)
                if isinstance(note, dict) and {"key", "name", "found"} <= note.keys():
                    yield note

    def latest(self, names: Collection[str]) -> dict[str, Any]:
        """By name the measurements that were made last, by whatever code."""
        return {note["name"]: note["found"] for note in self._notes() if note["name"] in names}

    def recall(
        self, kind: type[T], name: str, make: Callable[[], T], modules: tuple[str, ...] = (), **settings: Any
    ) -> T:
        """The measurement of that name, made by `make` unless it is known.

        Args:
            modules: whose code, with all that it imports of ours, decides the result.
        """
        adapter = TypeAdapter(kind)
        asked = {**self.facts, "kind": str(kind), "name": name, "code": code_of(*modules), **settings}
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:20]
        if key not in self._known and name in self.earlier:
            return adapter.validate_python(self.earlier[name])
        if key not in self._known:
            self._known[key] = adapter.dump_python(make(), mode="json")
            self._append({"key": key, "name": name, "found": self._known[key]})
        return adapter.validate_python(self._known[key])

    def _append(self, note: dict[str, Any]) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / MEASURED
        with path.open("a+b") as file:
            whole = not file.tell() or (file.seek(-1, 2), file.read(1))[1] == b"\n"
            file.write((b"" if whole else b"\n") + json.dumps(note).encode() + b"\n")

    def keep_pictures(self, name: str, images: Tensor) -> None:
        """Keep the pictures of a measurement, ``(sample, 3, height, width)`` in [0, 1], to half precision."""
        if self.folder is None:
            self._held[name] = images
            return
        with replacing(_file(self.folder, name)) as partial, partial.open("wb") as file:
            np.save(file, images.half().numpy())

    def pictures(self, name: str) -> Tensor | None:
        """The pictures that were kept under that name, None if none were or they are gone."""
        if self.folder is None:
            return self._held.get(name)
        path = _file(self.folder, name)
        return torch.from_numpy(np.load(path)).float() if path.exists() else None


def _file(folder: Path, name: str) -> Path:
    return folder / PICTURES / f"{hashlib.sha256(name.encode()).hexdigest()[:20]}.npy"
