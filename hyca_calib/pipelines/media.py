"""Pictures and videos among the arguments of a call: found in files that lie on this machine, loaded for each call."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageSequence

from hyca_runtime.errors import WorkloadError

KEY = re.compile(r"(?:^|_)(?:image|mask|video|frame)s?(?:_|$)")
"""Words of the arguments whose strings may name files."""
MOVES = re.compile(r"video|frames")
"""In the arguments that take all frames of a GIF; others take its first."""
MOVING = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})
"""Endings of films."""
ELSEWHERE = re.compile(r"\w\w+:/|//|\\\\")
"""How URLs and shared folders begin."""
FILE, DIGEST = "file", "sha256"


def with_media(call: Mapping[str, Any], folder: Path, where: str) -> dict[str, Any]:
    """The arguments of a call, names of files in them replaced by where they lie and what they hold.

    Args:
        folder: what the names are relative to.
        where: the call was found, for messages.

    Raises:
        WorkloadError: there is no such file, or no picture or video in it.
    """
    return {key: _found(key, value, folder, where) if KEY.search(key) else value for key, value in call.items()}


def load_media(call: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call with its pictures and videos, as `load_image` and `load_video` of diffusers read them.

    Raises:
        WorkloadError: a file is gone, or holds something else by now.
    """
    return {key: _loaded(key, value) for key, value in call.items()}


def contents(value: Any) -> Any:
    """Arguments without the places of their files, which do not decide what is sampled."""
    if _is_entry(value):
        return {DIGEST: value[DIGEST]}
    if isinstance(value, Mapping):
        return {key: contents(inner) for key, inner in value.items()}
    return [contents(inner) for inner in value] if isinstance(value, list | tuple) else value


def named(value: Any) -> str:
    """An argument in a few characters, for messages; a file by its name."""
    return Path(str(value[FILE])).name if _is_entry(value) else str(value)[:40]


def _found(key: str, value: Any, folder: Path, where: str) -> Any:
    if isinstance(value, list):
        return [_found(key, inner, folder, where) for inner in value]
    if not isinstance(value, str) or not (ELSEWHERE.match(value) or _names_file(value)):
        return value
    try:
        if ELSEWHERE.match(value):
            raise _elsewhere(value)
        path = folder / value
        entry = {FILE: str(path), DIGEST: _digest(path)}
        _loaded(key, entry)
    except WorkloadError as error:
        raise WorkloadError(f"{where}: {key}: {error}") from error
    return entry


def _names_file(text: str) -> bool:
    return Path(text).suffix.lower() in MOVING | Image.registered_extensions().keys()


def _is_entry(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() == {FILE, DIGEST}


def _loaded(key: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_loaded(key, inner) for inner in value]
    if not _is_entry(value):
        return value
    path = Path(str(value[FILE]))
    if _digest(path) != value[DIGEST]:
        raise WorkloadError(f"{path} is not the file it was when the prompts were read; put it back, or trace again")
    try:
        return _decoded(key, path)
    except Exception as error:  # decoders raise anything
        first = next(iter(str(error).splitlines()), "")[:160]
        raise WorkloadError(f"{path}: cannot load it: {type(error).__name__}: {first}") from error


def _decoded(key: str, path: Path) -> Any:
    from diffusers.utils import load_image, load_video

    if path.suffix.lower() in MOVING:
        return load_video(str(path), lambda frames: [frame.convert("RGB") for frame in frames])
    with Image.open(path) as image:
        if path.suffix.lower() == ".gif" and MOVES.search(key):
            return [frame.convert("RGB") for frame in ImageSequence.Iterator(image)]
        return load_image(image)


def _elsewhere(name: str) -> WorkloadError:
    return WorkloadError(f"{name[:80]} is a URL or is on another machine; copy it, and name the copy")


def _digest(path: Path) -> str:
    if ELSEWHERE.match(str(path)):
        raise _elsewhere(str(path))
    if not path.is_file():  # nor a device, which has no end
        raise WorkloadError(f"{path}: no such file; names are relative to the file of prompts")
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WorkloadError(f"{path}: cannot read it: {error.strerror}") from error
