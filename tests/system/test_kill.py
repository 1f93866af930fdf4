"""kill -9 at any moment: the same call again ends with the same bytes."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path

import pytest
from jobs import NAMES, killed_after
from processes import forked
from storage import contents

KILLS = 30


def run(folder: Path, seconds: float = 0.0) -> float:
    """The processor time of the whole work; 0 if its process was killed after `seconds` of it."""
    spent = forked().Value("d")
    process = forked().Process(target=killed_after, args=(seconds, folder, spent))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGPROF)
    return float(spent.value)


def ended(folder: Path) -> dict[str, bytes]:
    """All files but for measured seconds, of which every trace has its own."""
    trace, study = (folder / name for name in NAMES)
    plan = json.loads((study / "plan.json").read_text())
    assert len(plan["sections"][0].pop("timing")["seconds"]) == 2
    return {**contents(trace), "plan.json": json.dumps(plan).encode()}


@pytest.mark.slow
def test_thirty_kills(tmp_path: Path) -> None:
    """Killed at random moments again and again, in several folders until there were thirty kills."""
    whole, again = tmp_path / "whole", tmp_path / "again"
    whole.mkdir()
    again.mkdir()
    lasts = min(run(whole), run(again))  # the first may also read libraries that nobody has read before
    expected, rng = ended(whole), random.Random(11)
    kills, reached = 0, set[str]()
    for attempt in range(3 * KILLS):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        while not run(folder, rng.uniform(0.1, 0.7) * lasts if kills < KILLS else 0.0):
            kills += 1
            reached |= {p.relative_to(folder).parts[0] for p in folder.rglob("*")}
        assert ended(folder) == expected
        if kills >= KILLS:
            break
    assert kills >= KILLS
    assert reached == set(NAMES), "kills fell into the trace and into the search"
