"""Prompt files, as people write them on any system."""

import codecs
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hyca_calib.pipelines.contract import refuse_reserved
from hyca_calib.pipelines.media import contents, with_media
from hyca_calib.records.console import say
from hyca_runtime.errors import WorkloadError

MAX_PROMPT_BYTES = 64 * 1024**2
LINE_ENDS = re.compile("\r\n|\n|\r")
"""Of all systems; other separators (form feed, U+2028) are a part of the text."""
BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
UNSEEN = frozenset({"Cc", "Cf", "Zl", "Zp", "Zs"})
"""Unicode categories of what nobody sees: control and format characters, separators."""
TAGS = 0xE0000
"""From here on format characters belong to the emoji before them, such as flags."""


def read_prompts(path: Path) -> tuple[dict[str, Any], ...]:
    """Pipeline arguments, one line each: plain text is a prompt, ``*.jsonl`` holds objects.

    Names of pictures and videos in an object become entries that `hyca_calib.pipelines.media.load_media` loads.

    Raises:
        WorkloadError: unreadable, empty, JSON by another name, a line that is no JSON object, an argument that HyCa
            itself gives, or a file that is not there.
    """
    lines = list(_lines(path))
    if not lines:
        raise WorkloadError(f"{path}: no prompts in it; expected one a line")
    if path.suffix.lower() != ".jsonl":
        if path.suffix.lower() == ".json" or _is_object(lines[0][1]):
            raise WorkloadError(
                f"{path}: there is JSON in it; expected a name that ends in .jsonl, and an object a line"
            )
        return distinct([{"prompt": line} for _, line in lines])
    return distinct([_call(line, f"{path}, line {number}", path.parent) for number, line in lines])


def distinct(calls: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Each once, and says so: what plans are judged by must be prompts that they were not made with."""
    found = dict[str, dict[str, Any]]()
    for call in calls:
        found.setdefault(json.dumps(contents(call), sort_keys=True), call)
    if len(found) < len(calls):
        say(f"{len(calls) - len(found)} of {len(calls)} prompts are there already, and left out")
    return tuple(found.values())


def _call(line: str, where: str, folder: Path) -> dict[str, Any]:
    try:
        call = json.loads(line, object_pairs_hook=_object, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise WorkloadError(f"{where}: not JSON: {error}") from error
    if not isinstance(call, dict):
        raise WorkloadError(f"{where}: expected an object of pipeline arguments, got {line[:40]!r}")
    refuse_reserved(call, where)
    return with_media(call, folder.resolve(), where)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} is there twice")
    return found


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of every line on which anything is to be seen."""
    for number, line in enumerate(LINE_ENDS.split(_text(path)), 1):
        if seen := _without_unseen_ends(line):
            yield number, seen


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_PROMPT_BYTES:
            raise WorkloadError(f"{path}: {path.stat().st_size} bytes is more than prompts can have")
        content = path.read_bytes()
    except OSError as error:
        raise WorkloadError(f"{path}: cannot read the prompts: {error}") from error
    mark = next((mark for mark in BYTE_ORDER_MARKS if content.startswith(mark)), b"")
    try:
        text = content.removeprefix(mark).decode(BYTE_ORDER_MARKS.get(mark, "utf-8"))
    except UnicodeDecodeError as error:
        raise WorkloadError(f"{path}: cannot read the prompts: {error}; save the file as UTF-8") from error
    if "\0" in text:
        raise WorkloadError(f"{path}: cannot read the prompts: there are zero bytes in it; save the file as UTF-8")
    return text


def _without_unseen_ends(line: str) -> str:
    begin, end = 0, len(line)
    while begin < end and _is_unseen(line[begin]):
        begin += 1
    while begin < end and _is_unseen(line[end - 1]):
        end -= 1
    return line[begin:end]


def _is_unseen(character: str) -> bool:
    return ord(character) < TAGS and unicodedata.category(character) in UNSEEN
