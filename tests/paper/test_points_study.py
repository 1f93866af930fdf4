"""The chapter on cache points, on the tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.pipelines.workload import Workload
from hyca_calib.search.problem import Problem
from hyca_calib.trace.store import Trace
from studies.paper.chapter import Chapter, Context
from studies.paper.points import LIVE_EMBEDDING, POINTS


@pytest.mark.slow
def test_every_point_meets_the_budget(recorded: Trace, workload: Workload, pipe: EmojiPipeline, tmp_path: Path) -> None:
    context = Context("tiny", pipe, Problem(recorded), workload, tmp_path, quick=True)
    chapter = POINTS.chapter("points", context)
    assert Chapter.model_validate(json.loads(json.dumps(chapter.model_dump()))).to_markdown() == chapter.to_markdown()
    found = chapter.numbers["points"]
    spans = [name for name in found if "live of" in name]
    assert {"trunk", LIVE_EMBEDDING, "output", "every block"} < set(found)
    for rows in found.values():
        for budget, row in rows.items():
            assert row["flops_ratio"] >= float(budget[:-1])
    assert spans
    assert set(found["trunk"]) == {"3x", "5x"}
    assert POINTS.chapter("points", context).numbers == chapter.numbers
