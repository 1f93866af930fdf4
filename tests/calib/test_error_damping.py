"""How much of an error is left in the end: measured against runs whose answer is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from hyca_calib.search import error_damping
from hyca_calib.search.error_damping import carried_over, measure_damping, probed_work, smoothed, with_damping
from hyca_calib.search.problem import Problem
from hyca_calib.trace.store import Trace


@pytest.fixture(scope="module")
def problem(recorded: Trace) -> Problem:
    return Problem(recorded)


def test_a_network_that_does_not_look_damps_nothing(problem: Problem) -> None:
    """Its output does not depend on the latent: what is done at a step stays done."""
    pipe = tiny.pipeline()
    pipe.transformer.x_embedder.weight.data.zero_()
    found = measure_damping(pipe, problem, probes=12)
    assert found == pytest.approx(np.ones(12), rel=0.02)


def test_a_network_that_pulls_back_damps(problem: Problem) -> None:
    """dx/dt = x in falling t: an error at noise level s shrinks to the power that Euler's steps make of it."""
    pipe = tiny.pipeline()
    inner = pipe.transformer.forward

    class Pulling(torch.nn.Module):
        """The output is the forecast of the network plus twice the latent."""

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return (inner(*args, **kwargs)[0] + 2.0 * kwargs["hidden_states"],)

    pipe.transformer.x_embedder.weight.data.zero_()
    pipe.transformer.forward = Pulling().forward
    found = measure_damping(pipe, problem, probes=24)
    expected = (1 - 2.0 / 12) ** np.arange(11, -1, -1)  # every later Euler step of 1/12 takes a sixth away
    assert found == pytest.approx(expected, rel=0.15)


def test_where_a_push_at_the_end_changes_nothing_nothing_is_learnt(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where samples are rounded, and the last step is small."""
    run = error_damping._run

    def rounded(pipe: Any, problem: Problem, job: Any, step: int | None = None, known: Any = ()) -> Any:
        found = run(pipe, problem, job) if step == problem.trace.num_steps - 1 else run(pipe, problem, job, step, known)
        return replace(found, push=1.0)

    monkeypatch.setattr(error_damping, "_run", rounded)
    assert measure_damping(tiny.pipeline(), problem, probes=12).tolist() == [1.0] * 12


def test_what_is_before_a_push_is_not_computed_again(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, computed = tiny.pipeline(), list[int]()
    pipe.transformer.transformer_blocks[0].register_forward_hook(lambda *call: computed.append(1))
    found = measure_damping(pipe, problem, probes=12)
    samples, steps = probed_work(12, 12)
    assert len(computed) == steps < 0.8 * samples * 12
    run = error_damping._run
    monkeypatch.setattr(
        error_damping, "_run", lambda pipe, problem, job, step=None, known=(): run(pipe, problem, job, step)
    )
    assert found.tolist() == measure_damping(pipe, problem, probes=12).tolist()
    assert len(computed) == steps + 12 * samples


def test_what_is_measured_is_remembered(problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, told = tiny.pipeline(), list[float]()
    first = with_damping(pipe, problem, tmp_path / "j.log", 8, told.append)
    assert told[-1] == 1.0
    assert len(first.damping) == 12
    assert first.damping[-1] == pytest.approx(1.0)
    assert np.abs(first.step_weights / problem.step_weights) == pytest.approx(np.array(first.damping))
    monkeypatch.setattr("hyca_calib.search.error_damping.measure_damping", None)
    assert with_damping(pipe, problem, tmp_path / "j.log", 8) == first
    assert with_damping(pipe, problem, tmp_path / "j.log", 0) is problem


def test_smoothing() -> None:
    steps = np.arange(1, 49)
    noise = np.exp(np.random.default_rng(0).normal(0, 0.3, len(steps)))
    truth = np.linspace(0.1, 1.0, 50)
    found = smoothed([(int(s), truth[s] * n) for s, n in zip(steps, noise, strict=True)], 50)
    assert found[-1] == pytest.approx(1.0)
    assert np.abs(np.log(found / truth))[1:].max() < 0.35
    assert smoothed([], 5).tolist() == [1.0] * 5
    assert smoothed([(2, float("nan")), (1, 0.0)], 5).tolist() == [1.0] * 5


def test_other_steps(problem: Problem) -> None:
    assert carried_over([], problem) is problem
    found = carried_over([0.0, 1.0], problem).damping
    assert found == pytest.approx(np.linspace(0, 1, 12))
