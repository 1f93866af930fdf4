"""Ways of searching by rollouts, on the tiny model."""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path

import numpy as np
import pytest

from hyca_calib.budget import Budget
from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.search.candidate import Settings
from hyca_calib.search.problem import Problem
from hyca_calib.search.tune import solve
from hyca_calib.trace.store import Trace
from hyca_calib.workload import Workload
from studies.paper.chapter import Chapter, Context
from studies.paper.closed_loop import closed_loop
from studies.paper.loop.contest import Contest, Spent, samples_of
from studies.paper.loop.contestants import CONTESTANTS


@pytest.fixture
def contest(recorded: Trace, workload: Workload, pipe: EmojiPipeline) -> Contest:
    problem, settings = Problem(recorded), Settings(groups=2)
    start = solve(problem, settings, (Budget.parse("3x"),), 0)[0].schedule
    return Contest(pipe, problem, settings, samples_of(problem, workload, "select"), start, 6.0, 0)


@pytest.mark.parametrize("name", CONTESTANTS)
def test_nobody_spends_more_or_ends_below_the_start(contest: Contest, name: str) -> None:
    with contextlib.suppress(Spent):  # a climb may end on a summit before
        CONTESTANTS[name](contest, random.Random(0))
    assert 4 <= contest.spent <= 6.5
    assert next(iter(contest.known)) == contest.start
    assert contest.known[contest.best] <= contest.known[contest.start]
    assert {len(s.computed_steps) for s in contest.known} == {len(contest.start.computed_steps)}
    assert [best for _, best in contest.curve] == sorted((best for _, best in contest.curve), reverse=True)


def test_parts_of_a_rollout_are_its_samples(contest: Contest) -> None:
    half = contest.part(contest.start, 1)
    assert contest.spent == 0.5
    whole = contest.part(contest.start, 2)
    assert contest.spent == 1.0
    np.testing.assert_array_equal(half, whole[:1])
    assert contest.score(contest.start) == pytest.approx(whole.mean())
    assert contest.spent == 1.0


def test_the_chapter_resumes(recorded: Trace, workload: Workload, pipe: EmojiPipeline, tmp_path: Path) -> None:
    context = Context("tiny", pipe, Problem(recorded), workload, tmp_path, quick=True)
    chapter = closed_loop(context)
    assert Chapter.from_json(json.loads(json.dumps(chapter.to_json()))).to_markdown() == chapter.to_markdown()
    assert {row[0] for row in chapter.tables[0].rows} == set(CONTESTANTS)
    assert (tmp_path / "closed-loop.png").exists()
    kept = tmp_path / "closed-loop.parts.json"
    parts = json.loads(kept.read_text())
    parts["TPE/0"]["curve"][-1][1] -= np.log(10)  # what is kept is not rolled out again
    kept.write_text(json.dumps(parts))
    changed = closed_loop(context).numbers["gains_db"]["TPE"][0]
    assert changed == pytest.approx(chapter.numbers["gains_db"]["TPE"][0] + 10)
