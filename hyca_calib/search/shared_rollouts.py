"""Rollouts that workers share: each is run once, by whoever is free, and all see its score."""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Self

import optuna
from optuna.trial import Trial, TrialState

from hyca_calib.search.candidate import Candidate
from hyca_calib.search.settings import Settings
from hyca_calib.search.storage import TASK, Storage, give_back, open_study, run_trial
from hyca_runtime.schedule import Schedule

POLL_S = 0.2
BEAT, ROLLED = "beat", "rolled"
"""What trials know of the candidate that was to be beaten, and what they found."""

Rollout = Callable[[Candidate, Sequence[float]], Sequence[float]]
"""The agreement of a candidate with the full run, sample by sample; perhaps only of the first ones, where these show
that it is no better than another one, whose agreement is given."""


class Rolled(NamedTuple):
    """What a rollout was worth.

    Attributes:
        score: mean agreement; of a rollout that was broken off, guessed by how far it was behind.
        each: of the samples that were run.
        share: of the samples.
    """

    score: float
    each: Sequence[float]
    share: float

    @classmethod
    def compared(cls, each: Sequence[float], beat: Sequence[float]) -> Self:
        """Of the first samples at least, with a candidate that has `beat`."""
        if len(each) >= len(beat):
            return cls(statistics.fmean(each), [*each], 1.0)
        behind = statistics.fmean(other - one for one, other in zip(each, beat, strict=False))
        return cls(statistics.fmean(beat) - behind, [*each], len(each) / len(beat))

    @property
    def whole(self) -> bool:
        return self.share == 1

    def says(self, beat: Sequence[float]) -> bool:
        """Whether it is known that it does not beat these, or what it is worth: it may be another search's."""
        return self.whole or (bool(beat) and self.score <= statistics.fmean(beat))


class SharedRollouts:
    """Scores of candidates, kept in an Optuna study; a trial is one rollout.

    Args:
        rollout: the same for all workers.
    """

    def __init__(self, storage: Storage, name: str, rollout: Rollout) -> None:
        self._study = open_study(storage, name, optuna.samplers.RandomSampler(seed=0))
        self._rollout = rollout
        self._asked: dict[str, Candidate] = {}

    def score(self, candidates: Sequence[Candidate], beat: Sequence[float] = ()) -> list[Rolled]:
        """What each candidate is worth; those that other workers are at are waited for.

        Args:
            beat: agreement by sample of the candidate that they are compared with.
        """
        tasks = [task_of(candidate) for candidate in candidates]
        self._asked.update(zip(tasks, candidates, strict=True))
        while not set(tasks) <= (known := self._known(beat)).keys():
            give_back(self._study)
            taken = self._tasks(TrialState.WAITING, TrialState.RUNNING) | known.keys()
            for task in dict.fromkeys(task for task in tasks if task not in taken):
                self._study.enqueue_trial({}, user_attrs={TASK: task, BEAT: [*beat]})
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
        """Every rollout there was, for reports: settings, schedule, PSNR, and the share of the samples it is of."""
        known = self._all().items()
        return [{**json.loads(task), "psnr_db": rolled.score, "share": rolled.share} for task, rolled in known]

    def _objective(self, trial: Trial) -> float:
        task = trial.user_attrs.get(TASK)
        if task is None:  # another worker was faster, and Optuna made up a trial
            raise optuna.TrialPruned
        beat = trial.user_attrs[BEAT]
        known = self._known(beat).get(task)
        rolled = known or Rolled.compared(self._rollout(self._candidate(task), beat), beat)
        trial.set_user_attr(ROLLED, rolled)
        return rolled.score

    def _known(self, beat: Sequence[float]) -> dict[str, Rolled]:
        """What is known of candidates that are compared with one of that agreement."""
        return {task: rolled for task, rolled in self._all().items() if rolled.says(beat)}

    def _all(self) -> dict[str, Rolled]:
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return {trial.user_attrs[TASK]: Rolled(*trial.user_attrs[ROLLED]) for trial in trials}

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
