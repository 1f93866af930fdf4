"""Networks without gradients: a pipeline in `torch.inference_mode`, and layers that compute in eight bits."""

from __future__ import annotations

import pytest
import tiny
import torch
from plans import make_plan

from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.pipelines.inference_mode import outside_inference_mode
from hyca_calib.pipelines.workload import Job
from hyca_calib.search.tap_rollout import activation_bytes
from hyca_calib.trace.recorder import Recorder
from hyca_calib.trace.recording import Recording
from hyca_runtime.point import CachePoint

STEPS = 4
JOBS = [Job(i, "fit", i, call) for i, call in enumerate(tiny.prompts()[:2])]


def recorded(pipe: EmojiPipeline) -> Recording:
    with Recorder(pipe, CachePoint(), 1000) as recorder:
        found = recorder.record(JOBS, STEPS, seed=0)
        assert recorder.measure_cost(JOBS, 1)["trunk"].full_flops > 0
    return found


def test_a_pipeline_in_inference_mode_is_traced_alike() -> None:
    found, plain = recorded(tiny.as_kind(tiny.InInferenceMode)), recorded(tiny.pipeline())
    assert torch.equal(found.latents, plain.latents)
    for ours, theirs in zip(*(of.points["trunk"].gains[0] for of in (found, plain)), strict=True):
        assert torch.equal(ours, theirs)
        assert (ours > 0).all()


def test_a_tensor_that_is_given_again_is_the_same_unless_it_changed() -> None:
    """Guidance branches without a name are told apart by it."""
    seen: list[torch.Tensor] = []
    answer = outside_inference_mode(lambda args, kwargs: seen.append(kwargs["parts"][0]))
    with torch.inference_mode():
        words, latents = torch.ones(2), torch.zeros(2)
        for change in (0, 1):
            latents.add_(change)
            for tensor in (words, latents):
                answer((), {"parts": [tensor]})
    assert not any(tensor.is_inference() for tensor in seen)
    assert seen[0] is seen[2]
    assert seen[1] is not seen[3]
    assert [float(tensor[0]) for tensor in seen] == [1, 0, 1, 1]


def test_its_taps_are_refined() -> None:
    pipe = tiny.as_kind(tiny.InInferenceMode)
    section = make_plan(pipe.transformer, steps=STEPS, computed=(0, 1)).section
    pipe("red heart", num_inference_steps=STEPS)
    assert activation_bytes(pipe, section, STEPS, JOBS[0]) == activation_bytes(tiny.pipeline(), section, STEPS, JOBS[0])


def test_where_no_gradient_gets_through_the_mean_gain_is_measured() -> None:
    """By a push of the feature, and about as large as the mean of the gains that gradients tell."""
    quantization = pytest.importorskip("torchao.quantization")
    pipe, plain = tiny.pipeline(), recorded(tiny.pipeline())
    quantization.quantize_(pipe.transformer, quantization.Int8DynamicActivationInt8WeightConfig())
    found = recorded(pipe)
    for ours, theirs in zip(*(of.points["trunk"].gains[0] for of in (found, plain)), strict=True):
        assert (ours == ours[0]).all()
        assert 0.5 < ours[0] / theirs.mean() < 2
