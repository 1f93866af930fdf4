"""What a pipeline must take, and what a call may say: told in one line before the first sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from hyca_calib.pipelines.contract import check_calls, check_pipeline
from hyca_calib.pipelines.load import load_pipeline
from hyca_calib.pipelines.rollout import sample_images, sample_latents
from hyca_calib.pipelines.workload import Job, Workload
from hyca_calib.trace.run import trace
from hyca_runtime.errors import WorkloadError
from hyca_runtime.point import CachePoint

JOBS = [Job(i, "test", i, call) for i, call in enumerate(tiny.prompts()[:2])]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("tiny:broken", r"the factory failed with KeyError: 'no weights here' \(.*tiny.py, line \d+\)"),
        ("tiny:without_output_type", "WithoutOutputType takes no output_type; expected those of diffusers' pipelines"),
        ("test_contract:nowhere", "cannot import the factory: AttributeError"),
    ],
)
def test_models_that_cannot_be_used(model: str, reason: str) -> None:
    with pytest.raises(WorkloadError, match=reason) as caught:
        load_pipeline(model, "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "call", "reason"),
    [
        (tiny.pipeline, {"promt": "a"}, "prompt 2: EmojiPipeline takes no 'promt'; did you mean \"prompt\""),
        (tiny.pipeline, {"true_cfg_scale": 2}, "prompt 2: EmojiPipeline cannot be called without prompt"),
        (tiny.pipeline, {"prompt": "a", "seed": 3, "zoom": 2}, "EmojiPipeline takes no 'seed', no 'zoom'"),
        (tiny.pipeline, {"prompt": "a", "true_cfg_scal": 2}, "takes no 'true_cfg_scal'; did you mean \"true_cfg_sca"),
        (tiny.pipeline, {"prompt": "a", "num_inference_steps": 3}, "num_inference_steps cannot be given here"),
        (tiny.glyphs, {"prompt": "a"}, "cannot be called without class_labels; a .jsonl file holds arguments"),
    ],
)
def test_calls_are_held_against_the_signature(kind: Any, call: dict[str, Any], reason: str, tmp_path: Path) -> None:
    """Before anything is sampled or written, whichever prompt it is."""
    first = {"class_labels": "A"} if kind is tiny.glyphs else {"prompt": "a"}
    pipe, workload = kind(), Workload((first, call, first), 7, 4, 0)
    with pytest.raises(WorkloadError, match=reason):
        check_calls(pipe, workload.prompts)
    pipe.transformer.forward = None
    with pytest.raises(WorkloadError, match=reason):
        trace(pipe, workload, CachePoint(), tmp_path / "t.zarr", model_name="x", batch=1, tokens=4)
    assert not list(tmp_path.iterdir())


class Answering:
    """A pipeline that takes anything and returns `answer`."""

    transformer: Any = None
    scheduler: Any = None

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def __call__(self, prompt: list[str], **_: Any) -> Any:
        return self._answer(prompt)


def test_a_call_that_takes_everything_is_taken_at_its_word() -> None:
    check_pipeline(Answering(None))
    check_calls(Answering(None), [{"prompt": "a", "anything": 1}])


def test_a_call_that_hands_everything_on_is_held_against_the_one_it_overrides() -> None:
    """A key like none of its names may be the user's own; one much like a name is mistyped."""
    pipe = tiny.as_kind(tiny.InInferenceMode)
    check_calls(pipe, [{"prompt": "a", "true_cfg_scale": 2, "mood": "gay"}])
    with pytest.raises(WorkloadError, match="takes no 'true_cfg_scal'; did you mean \"true_cfg_scale\""):
        check_calls(pipe, [{"prompt": "a", "true_cfg_scal": 2}])
    assert sample_images(pipe, JOBS, 4, 2)[1].shape == (2, 16, 48)  # the callback is handed on, too


def refused(prompt: list[str]) -> Any:
    raise ValueError(f"height: expected a multiple of 16\nfor {prompt}")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            refused,
            r"Answering failed on \(prompt=blue heart\) with ValueError: height: expected a multiple of 16 \(.*py, ",
        ),
        (lambda _: torch.zeros(2, 3, 4, 4), "returned a tensor for return_dict=False; expected a tuple, samples first"),
        (lambda _: (torch.zeros(4, 3, 4, 4),), "drew 4 samples for 2 prompts; expected one for each"),
    ],
)
def test_what_a_call_does_wrong_is_one_line(answer: Any, reason: str) -> None:
    for sample in (sample_latents, sample_images):
        with pytest.raises(WorkloadError, match=reason) as caught:
            sample(Answering(answer), JOBS, 4, 2)
        assert "\n" not in str(caught.value)
