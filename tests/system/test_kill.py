"""kill -9 at any moment: the same call again ends with the same bytes."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from jobs import NAMES, trace_and_search
from storage import contents

KILLS = 30
CONTEXT: Any = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["jobs"])


def begin(folder: Path, begun: Any) -> None:
    begun.set()
    trace_and_search(folder)


def run(folder: Path, seconds: float | None = None) -> bool:
    """Whether the work was done before `seconds` were over; if not, its process was killed."""
    begun = CONTEXT.Event()
    process = CONTEXT.Process(target=begin, args=(folder, begun))
    process.start()
    begun.wait()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        return False
    assert process.exitcode == 0
    return True


def ended(folder: Path) -> dict[str, bytes]:
    trace, study = (folder / name for name in NAMES)
    return {**contents(trace), "plan.json": (study / "plan.json").read_bytes()}


@pytest.mark.slow
def test_thirty_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after random times again and again, in several folders until there were thirty kills."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # for the server that processes are forked from
    whole = tmp_path / "whole"
    whole.mkdir()
    assert run(whole)
    shutil.rmtree(whole)
    whole.mkdir()
    begun = time.monotonic()
    assert run(whole)
    lasts = time.monotonic() - begun
    expected, rng = ended(whole), random.Random(11)
    kills, reached = 0, set[str]()
    for attempt in range(KILLS):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        while not run(folder, rng.uniform(0.1, 0.7) * lasts if kills < KILLS else None):
            kills += 1
            reached |= {p.relative_to(folder).parts[0] for p in folder.rglob("*")}
        assert ended(folder) == expected
        if kills >= KILLS:
            break
    assert kills >= KILLS
    assert reached == set(NAMES), "kills fell into the trace and into the search"
