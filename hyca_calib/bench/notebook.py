"""What was measured is written down at once, so that an interrupted bench goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor

from hyca_calib.atomic import write_text
from hyca_calib.provenance import code_of

__all__ = ["Notebook"]

T = TypeVar("T")


@dataclass(frozen=True)
class Notebook:
    """A file for every measurement; one that was made under other facts, or by other code, is made again.

    Attributes:
        folder: None keeps nothing.
        facts: what all measurements depend on.
    """

    folder: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    _held: dict[str, Tensor] = field(default_factory=dict)

    def recall(
        self, kind: type[T], name: str, make: Callable[[], T], modules: tuple[str, ...] = (), **settings: Any
    ) -> T:
        """The measurement of that name, by `make` unless it is known.

        Args:
            kind: what pydantic can read back.
            modules: whose code, with all that it imports of ours, decides the result.
            settings: what else decides this one besides its name.
        """
        if self.folder is None:
            return make()
        adapter = TypeAdapter(kind)
        named = getattr(kind, "__name__", str(kind))
        what = {**self.facts, "kind": named, "name": name, "code": code_of(*modules), **settings}
        asked = json.loads(json.dumps(what))
        path = self.folder / _file(named, name, "json")
        if path.exists():
            try:
                kept = json.loads(path.read_text())
                if kept["asked"] == asked:
                    return adapter.validate_python(kept["found"])
            except (ValueError, KeyError, TypeError):
                pass  # cut off, or of an older version
        found = make()
        write_text(path, json.dumps({"asked": asked, "found": adapter.dump_python(found, mode="json")}) + "\n")
        return found

    def keep_pictures(self, name: str, images: Tensor) -> None:
        """Keep the pictures of a measurement, ``(sample, 3, height, width)`` in [0, 1], to half precision."""
        if self.folder is None:
            self._held[name] = images
            return
        path = self.folder / _file("pictures", name, "npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, images.half().numpy())

    def pictures(self, name: str) -> Tensor:
        """What was kept of that name."""
        if self.folder is None:
            return self._held[name]
        return torch.from_numpy(np.load(self.folder / _file("pictures", name, "npy"))).float()


def _file(kind: str, name: str, ending: str) -> str:
    digest = hashlib.sha256(json.dumps([kind, name]).encode()).hexdigest()[:8]
    short = "".join(c if c.isalnum() or c in ".-=" else "_" for c in name)[:100]
    return f"{short}-{digest}.{ending}"
