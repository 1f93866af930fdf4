"""JSON files of a trace, which may come from anywhere: limited in size and depth before they are believed."""

from __future__ import annotations

import json
from typing import Any

from hyca_calib.trace.folder import Folder
from hyca_runtime.errors import TraceError

__all__ = ["Document", "read_json", "write_json"]

Document = dict[str, Any]
MAX_BYTES = 64 * 1024**2


def read_json(folder: Folder, key: str) -> Document:
    """An object.

    Raises:
        TraceError: not there, too large, or no JSON object.
    """
    try:
        content = folder.read(key)
    except FileNotFoundError as error:
        raise TraceError(f"{folder}: {key} is missing") from error
    if len(content) > MAX_BYTES:
        raise TraceError(f"{folder}: {key} has {len(content)} bytes, more than {MAX_BYTES}")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{folder}: {key} is damaged or truncated, it is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise TraceError(f"{folder}: {key} is no JSON object")
    return document


def write_json(folder: Folder, key: str, document: Document) -> None:
    """The same object gives the same bytes."""
    folder.write(key, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())
