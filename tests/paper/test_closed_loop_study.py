"""Ways of searching by rollouts, on the tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hyca_calib.costs.budget import Budget
from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.pipelines.workload import Workload
from hyca_calib.search.problem import Problem
from hyca_calib.search.settings import Settings
from hyca_calib.search.tune import solve
from hyca_calib.trace.store import Trace
from studies.paper.chapter import Chapter, Context
from studies.paper.searching import CLOSED_LOOP
from studies.paper.searching.races import RACERS, RolloutRace, raced


@pytest.fixture
def race(recorded: Trace, pipe: EmojiPipeline) -> RolloutRace:
    problem = Problem(recorded)
    start = solve(problem, Settings(groups=2), (Budget.parse("3x"),), 0)[0]
    return RolloutRace(pipe, start, problem.samples("select"), 6.0)


@pytest.mark.parametrize("name", RACERS)
def test_nobody_spends_more_or_ends_below_the_start(race: RolloutRace, name: str) -> None:
    raced(race, name, 0)
    assert 4 <= race.spent <= 6.5
    start = race.start.schedule
    assert next(iter(race.known)) == start
    assert race.known[race.best] <= race.known[start]
    assert {len(s.computed_steps) for s in race.known} == {len(start.computed_steps)}
    assert [best for _, best in race.curve] == sorted((best for _, best in race.curve), reverse=True)


def test_parts_of_a_rollout_are_its_samples(race: RolloutRace) -> None:
    start = race.start.schedule
    half = race.part(start, 1)
    assert race.spent == 0.5
    whole = race.part(start, 2)
    assert race.spent == 1.0
    np.testing.assert_array_equal(half, whole[:1])
    assert race.score(start) == pytest.approx(whole.mean())
    assert race.spent == 1.0


def test_the_chapter_resumes(recorded: Trace, workload: Workload, pipe: EmojiPipeline, tmp_path: Path) -> None:
    context = Context("tiny", pipe, Problem(recorded), workload, tmp_path, quick=True)
    chapter = CLOSED_LOOP.chapter("closed-loop", context)
    assert Chapter.model_validate(json.loads(json.dumps(chapter.model_dump()))).to_markdown() == chapter.to_markdown()
    assert {row[0] for row in chapter.tables[0].rows} == set(RACERS)
    assert (tmp_path / "closed-loop.png").exists()
    kept = tmp_path / "races" / "TPE 0.json"
    course = json.loads(kept.read_text())
    course["curve"][-1][1] -= np.log(10)  # what is kept is not rolled out again
    kept.write_text(json.dumps(course))
    changed = CLOSED_LOOP.measure(context).numbers["gains_db"]["TPE"][0]
    assert changed == pytest.approx(chapter.numbers["gains_db"]["TPE"][0] + 10)
