"""What was measured is written down at once, so that an interrupted bench goes on where it stopped."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Notebook:
    """A line for every measurement; one that was made under other facts, or by other code, is made again.

    Several processes may write to one: a line is appended at once, and one that was cut off counts for nothing.

    Attributes:
        folder: None keeps nothing beyond the process.
        facts: what all measurements depend on.
    """

    folder: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    _held: dict[str, Tensor] = field(default_factory=dict)

    @cached_property
    def _known(self) -> dict[str, Any]:
        path = self.folder / MEASURED if self.folder else None
        known: dict[str, Any] = {}
        for line in path.read_text().splitlines() if path and path.exists() else ():
            try:
                note = json.loads(line)
                known[note["key"]] = note["found"]
            except (ValueError, KeyError, TypeError):
                continue  # cut off
        return known

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
