"""Optuna's storages: where workers share their trials, and what becomes of those of dead workers."""

import os
import random
import socket
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import optuna
from filelock import FileLock
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.pool import NullPool

from hyca_runtime.errors import StudyError

Storage = str | Path
"""A journal file; or the URL of a database (``postgresql://...``) or of Optuna's gRPC proxy (``grpc://host:port``)."""

HEARTBEAT_S, GRACE_S = 10, 30
RACES = 5
"""Optuna makes the tables of a database in several transactions, and can lose each to a worker that began with us."""
WORKER, TASK = "worker", "task"
FORGOTTEN = timedelta(minutes=15)
"""After that a trial of another machine in a journal, which has no heartbeats, counts as dead."""
UNSIGNED = timedelta(minutes=1)
"""After that a trial that names no worker counts as dead: its worker was killed before it could sign."""


def open_study(storage: Storage, name: str, sampler: optuna.samplers.BaseSampler | None = None) -> optuna.Study:
    """The study called `name`, made if it is not there; the lower a value, the better.

    Raises:
        StudyError: the storage cannot be reached.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it warns of failed trials, whose errors go on
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats
            return optuna.create_study(storage=_opened(storage), study_name=name, load_if_exists=True, sampler=sampler)
    except Exception as error:  # SQLAlchemy, gRPC and drivers have their own kinds
        told = " ".join(str(error).split())[:200]
        raise StudyError(f"storage {public(storage)}: {type(error).__name__}: {told}") from error


def announce_trial(study: optuna.Study) -> None:
    """A trial for `run_trial` that bears this worker's name from its first moment: whenever the worker is killed, it is
    known to be dead, and the trial counts for nothing."""
    if not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.enqueue_trial({}, user_attrs={WORKER: _own_name()})


def _own_name() -> list[Any]:
    return [socket.gethostname(), os.getpid()]


def run_trial(study: optuna.Study, objective: Callable[[Trial], float]) -> None:
    """One trial, a waiting one first. If the objective raises, the trial has failed and the error goes on."""

    def signed(trial: Trial) -> float:
        trial.set_user_attr(WORKER, _own_name())
        return objective(trial)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study.optimize(signed, n_trials=1)


def give_back(study: optuna.Study) -> None:
    """Trials of dead workers fail; what they were at, if they had a task, waits for the next one."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if not _is_dead(trial):
            continue
        with suppress(optuna.exceptions.UpdateFinishedTrialError, ValueError):  # another worker was faster
            study.tell(trial.number, state=TrialState.FAIL)
            _queue_again(study, trial)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)  # of other machines, where there are heartbeats


def _queue_again(study: optuna.Study, trial: FrozenTrial) -> None:
    if TASK in trial.user_attrs:
        study.enqueue_trial({}, user_attrs={name: told for name, told in trial.user_attrs.items() if name != WORKER})


def _is_dead(trial: FrozenTrial) -> bool:
    """Whether the trial's worker is gone: of processes of this machine we know, of others only that they are late."""
    worker = trial.user_attrs.get(WORKER)
    if worker and worker[0] == socket.gethostname():
        return not _runs(worker[1]) or worker[1] == os.getpid()
    patience = FORGOTTEN if worker else UNSIGNED
    return trial.datetime_start is not None and datetime.now() - trial.datetime_start > patience


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def _opened(storage: Storage) -> BaseStorage:
    text = str(storage)
    scheme, found, rest = text.partition("://")
    if not found:
        Path(text).parent.mkdir(parents=True, exist_ok=True)
        # Optuna's own locks wait half a minute for a dead process; this one the system frees when a process ends
        return JournalStorage(JournalFileBackend(text, lock_obj=cast(Any, FileLock(f"{text}.flock"))))
    if scheme == "grpc":
        host, _, port = rest.partition(":")
        return GrpcStorageProxy(host=host, port=int(port or 13000))
    for _ in range(RACES):
        with suppress(IntegrityError, OperationalError, ProgrammingError):
            return _database(text)
        time.sleep(random.uniform(0, 0.2))
    return _database(text)


def _database(url: str) -> RDBStorage:
    return RDBStorage(
        url,
        engine_kwargs={"poolclass": NullPool},  # between rollouts of minutes a server would drop idle connections
        heartbeat_interval=HEARTBEAT_S,
        grace_period=GRACE_S,
        heartbeat_stale_trial_callback=_queue_again,
    )


def public(storage: Storage) -> str:
    """How a storage may be named in files and messages: without the password."""
    scheme, found, rest = str(storage).partition("://")
    return f"{scheme}{found}{rest.rpartition('@')[2]}"
