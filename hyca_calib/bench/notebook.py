"""What was measured is written down at once, so that an interrupted bench goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

__all__ = ["Notebook"]

T = TypeVar("T")


@dataclass(frozen=True)
class Notebook:
    """A file for every measurement; one that was made under other facts is made again.

    Attributes:
        folder: None keeps nothing.
        facts: what all measurements depend on.
    """

    folder: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def recall(self, kind: type[T], name: str, make: Callable[[], T], **settings: Any) -> T:
        """The measurement of that name, by `make` unless it is known.

        Args:
            kind: a dataclass.
            settings: what decides this one besides its name.
        """
        if self.folder is None:
            return make()
        asked = json.loads(json.dumps({**self.facts, "kind": kind.__name__, "name": name, **settings}))
        digest = hashlib.sha256(json.dumps([kind.__name__, name]).encode()).hexdigest()[:8]
        path = self.folder / f"{''.join(c if c.isalnum() or c in '.-=' else '_' for c in name)}-{digest}.json"
        adapter = TypeAdapter(kind)
        if path.exists():
            try:
                kept = json.loads(path.read_text())
                if kept["asked"] == asked:
                    return adapter.validate_python(kept["found"])
            except (ValueError, KeyError, TypeError):
                pass  # cut off, or of an older version
        found = make()
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text(json.dumps({"asked": asked, "found": adapter.dump_python(found)}) + "\n")
        partial.replace(path)
        return found
