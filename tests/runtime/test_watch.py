"""A forecast that holds NaN or infinity is not used: the step is computed, and once it is said why."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from plans import make_plan

from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_runtime import apply_plan
from hyca_runtime.combine import forecast
from hyca_runtime.errors import ForecastWarning
from hyca_runtime.feature import Feature
from hyca_runtime.finite_guard import FiniteGuard
from hyca_runtime.history import History
from hyca_runtime.plan import Plan


def sample(pipe: EmojiPipeline) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    call: dict[str, Any] = {"num_inference_steps": 12, "output_type": "latent", "return_dict": False}
    latents: torch.Tensor = pipe("red heart", generator=generator, **call)[0]
    return latents


def test_what_is_sound() -> None:
    watch = FiniteGuard()
    assert watch.is_sound([torch.ones(2, 3, dtype=torch.float16), torch.full((4,), 60_000.0, dtype=torch.float16)])
    for bad in (float("nan"), float("inf"), -float("inf")):
        assert not watch.is_sound([torch.ones(2, 3), torch.tensor([1.0, bad])])
    assert not watch.is_sound([torch.tensor([float("inf"), -float("inf")])])


def test_a_bad_forecast_is_computed_instead(pipe: EmojiPipeline, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    count = [0]

    def sometimes(history: History, weights: Sequence[torch.Tensor]) -> Feature:
        count[0] += 1
        feature = forecast(history, weights)
        if count[0] in (2, 5):
            feature[0][0, 0, 0] = float("nan")
        return feature

    monkeypatch.setattr("hyca_runtime.forecasting.forecast", sometimes)
    with apply_plan(pipe, plan) as session:
        with pytest.warns(ForecastWarning, match=r"forecast NaN or infinity at step 3; steps are computed") as told:
            latents = sample(pipe)
        assert len(told) == 1
        assert torch.isfinite(latents).all()
        report = session.report()
        assert report.steps == 12
        assert report.computed > len(plan.section.schedule.computed_steps)
        monkeypatch.undo()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sample(pipe)
        assert session.report().computed == len(plan.section.schedule.computed_steps)


def test_a_plan_that_overflows(pipe: EmojiPipeline) -> None:
    """Weights within float32 whose forecasts are beyond it: every step is computed, as without a plan."""
    from hyca_runtime.solvers import Fitted

    full = sample(pipe)
    steps = tuple(s for s in range(12) if s not in (0, 1, 4, 8))
    weights = np.array([[[3e38], [-3e38]]] * len(steps))
    plan = make_plan(pipe.transformer, solvers=(Fitted(steps=steps, weights=weights),))
    with apply_plan(pipe, plan) as session:
        with pytest.warns(ForecastWarning):
            latents = sample(pipe)
        assert torch.equal(latents, full)
        assert session.report().computed == 12
