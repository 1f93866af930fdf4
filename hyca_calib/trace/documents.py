"""JSON files of a trace, which may come from anywhere: limited in size and depth before they are believed."""

import json
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from hyca_calib.trace.folder import Folder
from hyca_runtime.errors import TraceError

Document = dict[str, Any]
Value = TypeVar("Value")
MAX_BYTES = 64 * 1024**2

REQUEST = "request.json"
"""The one file that a repair cannot make again: it says of what."""


def read_as(kind: type[Value], folder: Folder, key: str) -> Value:
    """The value of type `kind`, a model or a dataclass, in the file `key`.

    Raises:
        TraceError: the file is not there, too large, or does not hold one.
    """
    return checked(kind, read_json(folder, key), folder, key)


def checked(kind: type[Value], content: object, folder: Folder, key: str) -> Value:
    """The value of type `kind` that `content`, found at `key`, stands for.

    Raises:
        TraceError: it stands for none; the message names the first field that is wrong.
    """
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"])) or "content"
        raise damaged(folder, key, f"is not as written ({place[:60]}: {fault['msg'][:120]})") from error


def read_json(folder: Folder, key: str) -> Document:
    """The JSON object in the file `key`.

    Raises:
        TraceError: the file is not there, too large, or holds no JSON object.
    """
    try:
        content = folder.read(key)
    except FileNotFoundError as error:
        raise damaged(folder, key, "is missing") from error
    if len(content) > MAX_BYTES:
        raise damaged(folder, key, f"has {len(content)} bytes, expected at most {MAX_BYTES}")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise damaged(folder, key, f"is damaged or truncated, it is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise damaged(folder, key, f"holds a JSON {type(document).__name__}, expected an object")
    return document


def write_json(folder: Folder, key: str, document: Document) -> None:
    """Write `document` to the file `key`; the same object gives the same bytes."""
    folder.write(key, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())


def damaged(folder: Folder, key: str, fault: str) -> TraceError:
    """The error that says what is wrong with a file of a trace, and how to mend it."""
    mend = (
        "trace again with --overwrite" if key == REQUEST else f"mend it: python -m hyca_calib verify {folder} --repair"
    )
    return TraceError(f"{folder}: {key} {fault}; {mend}")
