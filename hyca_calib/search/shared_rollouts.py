"""Rollouts that workers share: each is run once, by whoever is free, and all see its score."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from hyca_calib.search.candidate import Candidate
from hyca_calib.search.settings import Settings
from hyca_calib.search.storage import TASK, Storage, give_back, open_study, run_trial
from hyca_runtime.schedule import Schedule

POLL_S = 0.2


class SharedRollouts:
    """Scores of candidates, kept in an Optuna study; a trial is one rollout.

    Args:
        rollout: a candidate's score; the same for all workers.
    """

    def __init__(self, storage: Storage, name: str, rollout: Callable[[Candidate], float]) -> None:
        self._study = open_study(storage, name, optuna.samplers.RandomSampler(seed=0))
        self._rollout = rollout
        self._asked: dict[str, Candidate] = {}

    def score(self, candidates: Sequence[Candidate]) -> list[float]:
        """The score of each candidate; those that other workers are at are waited for."""
        tasks = [task_of(candidate) for candidate in candidates]
        self._asked.update(zip(tasks, candidates, strict=True))
        while not set(tasks) <= (known := self._known()).keys():
            give_back(self._study)
            taken = self._tasks(TrialState.WAITING, TrialState.RUNNING) | known.keys()
            for task in dict.fromkeys(task for task in tasks if task not in taken):
                self._study.enqueue_trial({}, user_attrs={TASK: task})
            if self._tasks(TrialState.WAITING):
                run_trial(self._study, self._objective)
            else:
                time.sleep(POLL_S)
        return [known[task] for task in tasks]

    def finish(self) -> None:
        """Do what dead workers left undone, though nobody waits for it."""
        give_back(self._study)
        while self._tasks(TrialState.WAITING):
            run_trial(self._study, self._objective)

    def history(self) -> list[dict[str, Any]]:
        """Every rollout there was, for reports: settings, schedule, PSNR."""
        return [{**json.loads(task), "psnr_db": psnr} for task, psnr in self._known().items()]

    def _objective(self, trial: Trial) -> float:
        task = trial.user_attrs.get(TASK)
        if task is None:  # another worker was faster, and Optuna made up a trial
            raise optuna.TrialPruned
        known = self._known()
        return known[task] if task in known else self._rollout(self._candidate(task))

    def _known(self) -> dict[str, float]:
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return {trial.user_attrs[TASK]: trial.values[0] for trial in trials}

    def _tasks(self, *states: TrialState) -> set[str]:
        return {t.user_attrs.get(TASK, "") for t in self._study.get_trials(deepcopy=False, states=states)}

    def _candidate(self, task: str) -> Candidate:
        """What was asked for as `task`, here or by another worker on the same problem."""
        if task in self._asked:
            return self._asked[task]
        chosen, like = json.loads(task), next(iter(self._asked.values()))
        schedule = Schedule.model_validate(chosen["schedule"], strict=False)
        return replace(like, settings=Settings(**chosen["settings"]), schedule=schedule)


def task_of(candidate: Candidate) -> str:
    """What workers know a candidate by."""
    return json.dumps(candidate.choices, sort_keys=True)
