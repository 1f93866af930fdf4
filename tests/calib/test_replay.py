"""Gram statistics say what stored features and the runtime itself say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Split, Workload
from hyca_calib.search.assemble import build_section, channel_taps, group_labels
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.problem import AXES, Problem
from hyca_calib.search.replay import forecast_error, grouped, residual_gram, rows_of, schedule_cost
from hyca_calib.search.rows import plan_taps, with_taps
from hyca_calib.search.settings import Settings
from hyca_calib.search.taps import fit_rows, fit_solver
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan, apply_plan
from hyca_runtime.schedule import Schedule
from hyca_runtime.solvers import Fitted, Newton

SCHEDULE = Schedule.from_steps(12, (0, 1, 4, 8))


@pytest.fixture(scope="module")
def problem(recorded: Trace) -> Problem:
    return Problem(recorded)


@pytest.fixture(scope="module")
def candidate(problem: Problem) -> Candidate:
    return Candidate(problem, Settings(groups=3, ridge=1e-4, taps="group"), SCHEDULE)


def stored(trace: Trace, split: Split) -> np.ndarray:
    """Features ``(sample, step, token, channel)`` of one split, as they lie on disk."""
    return trace.values(split)[:, 0].astype(np.float64)


@pytest.mark.parametrize("split", ["fit", "select", "test"])
def test_gram_error_equals_the_error_on_stored_features(recorded: Trace, candidate: Candidate, split: Split) -> None:
    section = build_section(candidate)
    features, gram = stored(recorded, split), recorded.gram(split)
    for step, taps in section.taps().items():
        weights = taps.weights.astype(np.float64)
        forecast = np.einsum("kc,nktc->ntc", weights, features[:, list(taps.history)])
        expected = ((forecast - features[:, step]) ** 2).sum(axis=(0, 1))
        found = forecast_error(gram, weights.T, taps.history, step)
        np.testing.assert_allclose(found.sum(), expected.sum(), rtol=1e-5)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * expected.max())


def test_replay_predicts_what_the_runtime_predicts(recorded: Trace, workload: Workload, candidate: Candidate) -> None:
    """Feed the runtime the very latents of the traced run: its forecasts must be the replayed ones."""
    pipe = tiny.pipeline()
    section = build_section(candidate)
    received: dict[int, Tensor] = {}
    inner: Callable[..., Tensor] = pipe.transformer.norm_out.forward

    def overhear(x: Tensor, *rest: Tensor) -> Tensor:
        received[len(received)] = x
        return inner(x, *rest)

    pipe.transformer.norm_out.forward = overhear
    job = workload.of("select")[:1]
    latents: dict[int, Tensor] = {}

    def keep(pipe: object, step: int, timestep: object, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        latents[step] = tensors["latents"]
        return {}

    def replace(pipe: object, step: int, timestep: object, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": latents[step]}

    arguments: dict[str, Any] = {"num_inference_steps": 12, "output_type": "latent"}
    generator = torch.Generator().manual_seed(job[0].seed)
    pipe(**job[0].call, generator=generator, callback_on_step_end=keep, **arguments)
    features = [received[i] for i in range(12)]
    received.clear()
    with apply_plan(pipe, Plan(name="x", sections=(section,))):
        generator = torch.Generator().manual_seed(job[0].seed)
        pipe(**job[0].call, generator=generator, callback_on_step_end=replace, **arguments)
    values = stored(recorded, "select")[0]
    for step, taps in section.taps().items():
        torch.testing.assert_close(features[step][0].double(), torch.from_numpy(values[step]), rtol=1e-4, atol=1e-5)
        replayed = np.einsum("kc,ktc->tc", taps.weights.astype(np.float64), values[list(taps.history)])
        np.testing.assert_allclose(received[step][0].numpy(), replayed, rtol=1e-4, atol=1e-5)


def test_gap_errors_add_up_coherently() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(6, 40))  # (step, token)
    gram = (features @ features.T)[None]
    weights = rng.normal(size=(2, 3))
    residuals = features[:2].T @ weights - features[3:6].T
    found = residual_gram(gram, weights[None], (0, 1), (3, 4, 5))[0]
    np.testing.assert_allclose(found, residuals.T @ residuals, rtol=1e-10)


def test_fitted_taps_minimise_the_fit_error(problem: Problem) -> None:
    gram, times = problem.fit, problem.times("sigma")
    history, targets = (4, 1, 0), (5, 6)
    best = fit_rows(gram, history, targets, 1e-9, rows_of(Newton(1), times, history, targets))
    errors = forecast_error(gram, best[..., 0], history, 5)
    for _ in range(5):
        other = best[..., 0] + np.random.default_rng(1).normal(scale=0.01, size=best.shape[:2])
        assert (forecast_error(gram, other, history, 5) >= errors - 1e-9).all()


def test_a_strong_ridge_gives_linear_extrapolation(problem: Problem) -> None:
    times = problem.times("sigma")
    rows = fit_rows(problem.fit, (4, 1, 0), (6,), 1e9, rows_of(Newton(1), times, (4, 1, 0), (6,)))
    expected = [1 + (times[6] - times[4]) / (times[4] - times[1]), -(times[6] - times[4]) / (times[4] - times[1]), 0]
    np.testing.assert_allclose(rows[..., 0], np.tile(expected, (len(rows), 1)), atol=1e-6)


def test_schedule_cost_of_fitted_is_below_linear(problem: Problem) -> None:
    gram, times = grouped(problem.fit, problem.channel_gain, [np.arange(32)]), problem.times("sigma")
    fitted: Fitted = fit_solver(gram, SCHEDULE, times, 3, 1e-6)
    cost = [schedule_cost(gram, SCHEDULE, times, problem.step_weights, [s])[0] for s in (fitted, Newton(1))]
    assert cost[0] < cost[1]


def test_taps_survive_the_way_through_a_plan(problem: Problem, candidate: Candidate) -> None:
    section = build_section(candidate)
    shared = with_taps(section, plan_taps(section))
    assert [g.solver.name for g in shared.forecast.groups_of()] == ["fitted"] * len(section.forecast.groups_of())
    np.testing.assert_allclose(plan_taps(shared), plan_taps(section), rtol=1e-6)
    own = channel_taps(problem, candidate.settings, section)
    np.testing.assert_allclose(plan_taps(with_taps(section, own)), own, rtol=1e-6, atol=1e-7)
    labels = group_labels(section)
    assert all((labels[g.indices] == i).all() for i, g in enumerate(section.forecast.groups_of()))


def test_channel_taps_err_no_more_than_their_groups_on_fit(problem: Problem, candidate: Candidate) -> None:
    section = build_section(candidate)
    own = with_taps(section, channel_taps(problem, candidate.settings, section))
    for step, taps in section.taps().items():
        before = forecast_error(problem.fit, taps.weights.T.astype(float), taps.history, step).sum()
        after = forecast_error(problem.fit, own.taps()[step].weights.T.astype(float), taps.history, step).sum()
        assert after <= before * (1 + 1e-6)


@pytest.mark.parametrize("axis", AXES)
def test_every_axis_is_strictly_monotonic(problem: Problem, axis: str) -> None:
    gaps = np.diff(problem.times(axis))
    assert (gaps > 0).all() or (gaps < 0).all()


def test_select_rollout_agrees_with_the_traced_latents(recorded: Trace, workload: Workload) -> None:
    latents = sample_latents(tiny.pipeline(), workload.of("select"), 12, 2)
    torch.testing.assert_close(latents, torch.from_numpy(recorded.latents_of("select")), rtol=1e-4, atol=1e-5)
