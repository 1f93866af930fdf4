"""Spoilt JSON: what bit rot, careless editing and malice make of a document."""

from __future__ import annotations

import copy
import json
import random
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["mutant", "watched"]

WORDS: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**70), 10**300, 1e308, -0.0, 1e-320, "", "0", "NaN", "Infinity",
    "../../etc/passwd", "\x00", "\ud800", "a" * 70_000, "fitted", "hold", "0-1048575", "0-99999999999", [], {}, [[]],
    [0] * 10_000, {"name": "os.system"}, {"__class__": "x"}, "s3://x", "file:///etc/passwd",
)  # fmt: skip


def mutant(text: str, rng: random.Random) -> bytes:
    """`text`, a JSON document, with one to four faults."""
    content: Any = json.loads(text)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        content = _edited(content, rng)
    spoilt = json.dumps(content, ensure_ascii=True).encode()
    kind = rng.random()
    if kind < 0.1:
        spoilt = spoilt[: rng.randrange(len(spoilt))]
    elif kind < 0.25:
        place = rng.randrange(len(spoilt))
        spoilt = spoilt[:place] + bytes([rng.randrange(256)]) + spoilt[place + 1 :]
    elif kind < 0.28:
        depth = rng.choice((100, 5_000, 200_000))
        spoilt = spoilt[:-1] + b', "deep": ' + b"[" * depth + b"]" * depth + b"}"
    return spoilt


def _edited(content: Any, rng: random.Random) -> Any:
    """One value somewhere below is removed, replaced, doubled, scaled, or moved."""
    places = list(_places(content))
    if not places:
        return copy.deepcopy(rng.choice(WORDS))
    owner, key = rng.choice(places)
    act = rng.randrange(6)
    value = owner[key]
    if act == 0:
        del owner[key]
    elif act == 1 and isinstance(owner, list):
        owner.insert(key, value)
    elif act == 2 and isinstance(value, int | float) and not isinstance(value, bool):
        owner[key] = rng.choice((-value, value + 1, value * 1e6, value / 3, 10**20))
    elif act == 3 and isinstance(owner, dict):
        owner[rng.choice((f"{key}s", key[:-1] or "x", "name", "configuration"))] = value
    elif act == 4:
        other, name = rng.choice(places)
        owner[key] = (
            json.loads(json.dumps(other[name]))
            if (name in other if isinstance(other, dict) else name < len(other))
            else None
        )
    else:
        owner[key] = copy.deepcopy(rng.choice(WORDS))
    return content


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(items):
        yield content, key
        yield from _places(value)


_opened: list[str] | None = None
MAX_SECONDS, MAX_BYTES = 2.0, 1024**3


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event == "open" and isinstance(arguments[0], str):
        _opened.append(arguments[0])


@cache
def _install() -> None:
    """Once: an audit hook cannot be taken away."""
    sys.addaudithook(_audit)


@contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Asserts that what is done here is done within 2 s and 1 GiB, and opens no file but below `folder` and code."""
    global _opened  # noqa: PLW0603  (the audit hook stays)
    _install()
    allowed = (str(folder), sys.prefix, sys.base_prefix, "/proc", "/usr/lib/python", str(Path(__file__).parents[1]))
    begun, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _opened = []
    try:
        yield
    finally:
        opened, _opened = _opened, None
    spent, grown = time.process_time() - begun, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
    assert spent < MAX_SECONDS, f"took {spent:.1f} s"
    assert grown < MAX_BYTES, f"took {grown} bytes"
    strange = [path for path in opened if not path.startswith(allowed) and Path(path).exists()]
    assert not strange, f"opened {strange}"
