"""Traces of the tiny model, and what two of them have in common."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny

from hyca_calib.pipelines.workload import Workload
from hyca_calib.trace.folder import Folder, Where
from hyca_calib.trace.run import trace
from hyca_runtime.point import CachePoint

VOLATILE = ("cost.json", "manifest.json", "runs/", ".locks/")
"""Measured seconds, the digest of their file, and who worked when."""


def record(out: Where, workload: Workload, pipe: Any = None, **options: Any) -> bool:
    settings = {"model_name": "tiny:pipeline", "batch": 4, "tokens": 5, **options}
    return trace(pipe or tiny.pipeline(), workload, settings.pop("point", CachePoint()), out, **settings)


def contents(where: Where) -> dict[str, bytes]:
    """All that must be the same in equal traces; every file, half-written ones too."""
    folder = Folder(where)
    if folder.local is None:
        found = {key: folder.read(key) for key in folder.listing()}
    else:
        path = Path(where)
        found = {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}
    return {key: content for key, content in found.items() if not key.startswith(VOLATILE)}


def listed(where: Where) -> dict[str, Any]:
    """What the manifest lists but for the file of measured seconds."""
    files = json.loads(Folder(where).read("manifest.json"))["files"]
    return {key: entry for key, entry in files.items() if key != "cost.json"}
