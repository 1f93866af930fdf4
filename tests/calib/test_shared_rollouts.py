"""Workers that die while they hold a rollout: whoever waits for its score gets it."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import optuna
import pytest
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.trial import TrialState

from hyca_calib.search import storage
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.problem import Problem
from hyca_calib.search.settings import Settings
from hyca_calib.search.shared_rollouts import BEAT, SharedRollouts, task_of
from hyca_runtime.schedule import Schedule

pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage:UserWarning")  # a trial that is only taken
CANDIDATE = Candidate(cast(Problem, None), Settings(), Schedule.from_steps(12, (0, 4, 8)))


def held(where: str, worker: list[Any] | None) -> optuna.Study:
    """A study in which a worker has taken the rollout of `CANDIDATE`, and perhaps signed for it."""
    study = storage.open_study(where, "rollouts")
    study.enqueue_trial({}, user_attrs={storage.TASK: task_of(CANDIDATE), BEAT: []})
    trial = study.ask()
    if worker:
        trial.set_user_attr(storage.WORKER, worker)
    if isinstance(study._storage, BaseHeartbeat):
        study._storage.record_heartbeat(trial._trial_id)
    return study


def score(where: str) -> tuple[list[float], int]:
    """Of `CANDIDATE`, and how often it was rolled out for it."""
    rolled: list[Candidate] = []

    def rollout(candidate: Candidate, beat: Sequence[float]) -> Sequence[float]:
        rolled.append(candidate)
        return [7.0]

    return [rolled.score for rolled in SharedRollouts(where, "rollouts", rollout).score([CANDIDATE])], len(rolled)


def states(study: optuna.Study) -> list[TrialState]:
    return [trial.state for trial in study.get_trials(deepcopy=False)]


@pytest.fixture(params=["journal", "database"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "shared.log") if request.param == "journal" else f"sqlite:///{tmp_path}/shared.db"


def ended() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_dead_process_of_this_machine_is_known_at_once(where: str) -> None:
    study = held(where, [socket.gethostname(), ended()])
    assert score(where) == ([7.0], 1)
    assert states(study) == [TrialState.FAIL, TrialState.COMPLETE]


def test_a_worker_that_died_before_it_signed(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "UNSIGNED", timedelta(hours=1))
    study = held(where, None)
    storage.give_back(study)
    assert states(study) == [TrialState.RUNNING]
    monkeypatch.setattr(storage, "UNSIGNED", timedelta(0))
    assert score(where) == ([7.0], 1)
    assert states(study) == [TrialState.FAIL, TrialState.COMPLETE]


def test_a_silent_worker_of_another_machine_in_a_database(tmp_path: Path) -> None:
    where = f"sqlite:///{tmp_path}/shared.db"
    study = held(where, ["elsewhere", os.getpid()])
    with closing(sqlite3.connect(tmp_path / "shared.db")) as database, database:
        database.execute("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 hour')")
    assert score(where) == ([7.0], 1)
    assert states(study) == [TrialState.FAIL, TrialState.COMPLETE]


def test_a_living_worker_keeps_its_rollout(where: str) -> None:
    study = held(where, [socket.gethostname(), os.getppid()])
    storage.give_back(study)
    assert states(study) == [TrialState.RUNNING]


def test_what_another_worker_asked_for_is_rolled_out_here(where: str) -> None:
    other = replace(CANDIDATE, settings=Settings(groups=2), schedule=Schedule.from_steps(12, (0, 3, 6, 9)))
    study, rolled = storage.open_study(where, "rollouts"), list[Candidate]()
    study.enqueue_trial({}, user_attrs={storage.TASK: task_of(other), BEAT: []})

    def rollout(candidate: Candidate, beat: Sequence[float]) -> Sequence[float]:
        rolled.append(candidate)
        return [float(len(candidate.schedule.computed_steps))]

    shared = SharedRollouts(where, "rollouts", rollout)
    assert [rolled.score for rolled in shared.score([CANDIDATE])] == [3.0]
    assert rolled == [other, CANDIDATE]
    told = ((other, 4.0), (CANDIDATE, 3.0))
    assert shared.history() == [{**c.choices, "psnr_db": score, "share": 1.0} for c, score in told]
