"""Files that are there whole or not at all, whenever the process is killed."""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

PARTIAL = ".partial"
"""How names of half-written files end."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to be written, which takes its place in the end; after an exception `path` is as it was.

    Folders are made. Several processes may write to one path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        yield partial
        with partial.open("r+b") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(OSError):  # the first error is told
            partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write `text` whole or not at all; folders are made."""
    with replacing(path) as partial:
        partial.write_text(text)


def write_json(path: Path, content: Any) -> None:
    """Write `content`, models and dataclasses included, as indented JSON, whole or not at all; folders are made."""
    write_text(path, json.dumps(to_jsonable_python(content), indent=1) + "\n")


def create_json(path: Path, content: Any) -> bool:
    """As `write_json` unless the file is there already, perhaps of another process; whether it was written."""
    own = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    write_json(own, content)
    try:
        os.link(own, path)
    except FileExistsError:
        return False
    finally:
        own.unlink()
    return True
