"""Noise levels of samplers, and what an output does to the final latent."""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from hyca_calib.trace.scheduler_response import impulse_response, noise_levels

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers

STEPS = 8
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
VELOCITY = {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "clip_sample": False}


def ready(name: str, **options: Any) -> Any:
    scheduler = getattr(diffusers, name)(**options)
    scheduler.set_timesteps(STEPS)
    return scheduler


def response_of(scheduler: Any, times: list[float]) -> np.ndarray:
    """Of a sampler that has them."""
    found = impulse_response(scheduler, times)
    assert found is not None
    return found


def test_euler_answers_with_its_step_sizes() -> None:
    scheduler = ready("FlowMatchEulerDiscreteScheduler", shift=3.0)
    times = scheduler.timesteps.tolist()
    np.testing.assert_allclose(noise_levels(scheduler, times), scheduler.sigmas, atol=1e-7)
    np.testing.assert_allclose(response_of(scheduler, times), np.diff(scheduler.sigmas), rtol=1e-4)


def test_a_run_that_begins_late() -> None:
    scheduler = ready("FlowMatchEulerDiscreteScheduler")
    times = scheduler.timesteps.tolist()[3:]
    scheduler.set_begin_index(3)
    np.testing.assert_allclose(noise_levels(scheduler, times), scheduler.sigmas[3:], atol=1e-7)
    np.testing.assert_allclose(response_of(scheduler, times), np.diff(scheduler.sigmas[3:]), rtol=1e-4)
    assert scheduler.step_index is None, "the pipeline's own scheduler was stepped"


@pytest.mark.parametrize(
    "name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "FlowMatchHeunDiscreteScheduler"]
)
def test_a_flow_from_noise_to_data_is_one_unit_long(name: str) -> None:
    """A constant velocity moves the latent by the whole change of sigma, whatever the sampler's order."""
    scheduler = ready(name, **({} if "Heun" in name else FLOW))
    times = scheduler.timesteps.tolist()
    response = response_of(scheduler, times)
    assert response.shape == (len(times),)
    assert response.sum() == pytest.approx(-noise_levels(scheduler, times)[0], abs=1e-3)


def test_ddim_is_differentiated_rightly() -> None:
    """Against the closed form: x' = a'(a x - s v) + s'(s x + a v), products of the later factors."""
    scheduler = ready("DDIMScheduler", **VELOCITY)
    times = scheduler.timesteps.tolist()
    kept = [*scheduler.alphas_cumprod[scheduler.timesteps].double().tolist(), 1.0]
    alpha, sigma = np.sqrt(kept), np.sqrt(1 - np.asarray(kept))
    direct = alpha[:-1] * sigma[1:] - sigma[:-1] * alpha[1:]
    carry = alpha[:-1] * alpha[1:] + sigma[:-1] * sigma[1:]
    expected = [direct[i] * np.prod(carry[i + 1 :]) for i in range(STEPS)]
    np.testing.assert_allclose(response_of(scheduler, times), expected, rtol=1e-3, atol=1e-5)
    levels = noise_levels(scheduler, times)
    np.testing.assert_allclose(levels[:-1] / (1 - levels[:-1]), sigma[:-1] / alpha[:-1], rtol=1e-6)


@pytest.mark.parametrize("options", [{"clip_sample": True}, {"clip_sample": False}])
def test_predicted_noise_is_not_taken_for_a_hundredfold_error(options: dict[str, Any]) -> None:
    scheduler = ready("DDIMScheduler", prediction_type="epsilon", **options)
    response = response_of(scheduler, scheduler.timesteps.tolist())
    assert np.abs(response).max() < 5
    assert (response < 0).all()


def test_noise_of_a_stochastic_sampler_cancels() -> None:
    scheduler = ready("EulerAncestralDiscreteScheduler")
    state = torch.get_rng_state()
    first, second = (response_of(scheduler, scheduler.timesteps.tolist()) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_pure_noise_is_a_level_like_any_other() -> None:
    scheduler = ready("DDIMScheduler", rescale_betas_zero_snr=True, **VELOCITY)
    assert scheduler.alphas_cumprod[-1] == 0
    levels = noise_levels(scheduler, scheduler.timesteps.tolist())
    assert levels[0] == 1
    assert (np.diff(levels) < 0).all()


def test_without_a_scheduler_there_is_no_response() -> None:
    assert impulse_response(None, [3.0, 2.0, 1.0]) is None
    np.testing.assert_array_equal(noise_levels(None, [3.0, 2.0, 1.0]), [3, 2, 1, 0])
