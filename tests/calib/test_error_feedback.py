from __future__ import annotations

import numpy as np
import pytest

from hyca_calib.search.error_feedback import with_feedback
from hyca_calib.search.rows import Row, places_of
from hyca_calib.search.taps import fit_solver
from hyca_runtime.schedule import EVERY, FEATURE, Schedule
from studies.paper.planning.synthetic import smooth_gram

STEPS = 24
WEIGHTS = np.full(STEPS, -1 / STEPS)


@pytest.fixture(scope="module")
def gram() -> np.ndarray:
    return smooth_gram(6, STEPS, np.random.default_rng(0))


def fitted(gram: np.ndarray, schedule: Schedule) -> np.ndarray:
    """``(predicted step, depth, channel)``."""
    return fit_solver(gram, schedule, np.linspace(1, 0, STEPS, endpoint=False), 3, 1e-6).weights


def repaid(
    taps: np.ndarray, schedule: Schedule, gram: np.ndarray, step_weights: np.ndarray, share: float
) -> np.ndarray:
    """With feedback, all guidance branches alike."""
    histories = [schedule.history(step, taps.shape[1]) for step in schedule.predicted_steps]
    rows = [
        Row(FEATURE, EVERY, step, tuple((EVERY, past) for past in history), len(history))
        for step, history in zip(schedule.predicted_steps, histories, strict=True)
    ]
    return with_feedback(
        taps, rows, places_of(rows, [FEATURE], [EVERY], STEPS), gram, step_weights, share, {EVERY: 1.0}
    )


def final_error(taps: np.ndarray, schedule: Schedule, gram: np.ndarray, step_weights: np.ndarray) -> np.ndarray:
    """Squared error in the end, ``(channel,)``, of a network that never looks at the latent."""
    error = np.zeros((len(gram), STEPS))  # a row over the features of all steps
    for rows, step in zip(taps, schedule.predicted_steps, strict=True):
        history = list(schedule.history(step, len(rows)))
        error[:, history] += step_weights[step] * rows[: len(history)].T
        error[:, step] -= step_weights[step]
    return np.asarray(np.einsum("cs,cst,ct->c", error, gram, error))


@pytest.mark.parametrize("computed", [(0, 4, 9, 15, 20), (0, 1, 6, 13), (0, 5, 6, 7, 14)])
def test_feedback_leaves_less_error(gram: np.ndarray, computed: tuple[int, ...]) -> None:
    schedule = Schedule.from_steps(STEPS, computed)
    taps = fitted(gram, schedule)
    before = final_error(taps, schedule, gram, WEIGHTS).sum()
    left = [
        final_error(repaid(taps, schedule, gram, WEIGHTS, share), schedule, gram, WEIGHTS).sum() for share in (0.5, 1)
    ]
    assert left[1] < left[0] < before


def test_without_an_error_or_a_share_nothing_changes(gram: np.ndarray) -> None:
    schedule = Schedule.from_steps(STEPS, (0, 4, 9, 15, 20))
    taps = fitted(gram, schedule)
    assert (repaid(taps, schedule, gram, WEIGHTS, 0.0) == taps).all()
    first_gap = [i for i, step in enumerate(schedule.predicted_steps) if step < 4]
    assert (repaid(taps, schedule, gram, WEIGHTS, 1.0)[first_gap] == taps[first_gap]).all()
    assert (repaid(taps, schedule, gram, 0 * WEIGHTS, 1.0) == taps).all()


def test_a_constant_needs_no_feedback(gram: np.ndarray) -> None:
    flat = np.ones((2, STEPS, STEPS))
    schedule = Schedule.from_steps(STEPS, (0, 4, 9, 15, 20))
    taps = np.zeros((len(schedule.predicted_steps), 3, 2))
    taps[:, 0] = 1.0
    assert final_error(taps, schedule, flat, WEIGHTS) == pytest.approx(0)
    assert repaid(taps, schedule, flat, WEIGHTS, 1.0) == pytest.approx(taps, abs=1e-6)


def test_branches_repay_what_guidance_makes_of_their_errors() -> None:
    """Of weights 3 and -2, over each other's past: the guided error gets less, and rows move by these weights."""
    generator, schedule = np.random.default_rng(1), Schedule.from_steps(STEPS, (0, 4, 9, 15, 20))
    branches, guidance = ("cond", "uncond"), {"cond": 3.0, "uncond": -2.0}
    paths = np.concatenate([np.cumsum(generator.normal(0, 0.1, (2, STEPS, 64)), 1), np.ones((2, STEPS, 64))])
    both = np.concatenate([paths[0], paths[0] + 0.3 * paths[1], paths[2, :1]])
    gram = (both @ both.T)[None]
    rows = []
    for branch, other in (branches, branches[::-1]):
        for step in schedule.predicted_steps:
            past = schedule.history(step, 2)
            regressors = (*[(branch, s) for s in past], *[(other, s) for s in past], None)
            rows.append(Row(FEATURE, branch, step, regressors, len(past)))
    places = places_of(rows, [FEATURE], branches, STEPS)
    taps = np.zeros((len(rows), 5, 1))
    taps[:, 0] = 1.0

    def left(taps: np.ndarray) -> float:
        error = np.zeros(2 * STEPS + 1)
        for row, (history, target), weights in zip(rows, places, taps, strict=True):
            effect = WEIGHTS[row.step] * guidance[row.branch]
            error[history] += effect * weights[: len(history), 0]
            error[target] -= effect
        return float(error @ gram[0] @ error)

    found = with_feedback(taps, rows, places, gram, WEIGHTS, 1.0, guidance)
    assert left(found) < 0.5 * left(taps)
    by_row = dict(zip(((row.branch, row.step) for row in rows), found - taps, strict=True))
    np.testing.assert_allclose(by_row["cond", 6][0] / 3, by_row["uncond", 6][2] / -2, rtol=1e-9)
