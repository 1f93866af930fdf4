"""Pictures and latents of pipelines of several makes."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch

from hyca_calib.pipelines.by_hand import hand_plan
from hyca_calib.pipelines.rollout import sample_images, sample_latents
from hyca_calib.pipelines.workload import Job
from hyca_calib.quality.evaluate import evaluate_plan
from hyca_runtime.errors import WorkloadError
from hyca_runtime.point import CachePoint
from studies.zoo import PIPELINES

STEPS = 6
CLASSES = [Job(i, "test", seed=i, call={"class_labels": 10 * i}) for i in range(3)]


class Painter:
    """A pipeline that takes no callback and returns `drawn` for each sample, whatever it is asked for."""

    transformer: Any = None
    scheduler: Any = None

    def __init__(self, drawn: Any) -> None:
        self._drawn = drawn

    def __call__(self, generator: list[torch.Generator], **_: Any) -> tuple[Any]:
        return (self._drawn[: len(generator)],)


def test_latents_are_those_of_the_last_step() -> None:
    pipe = tiny.pipeline()
    jobs = [Job(i, "test", i, call) for i, call in enumerate(tiny.prompts()[:3])]
    pictures, latents = sample_images(pipe, jobs, STEPS, batch=2)
    assert torch.equal(latents, sample_latents(pipe, jobs, STEPS, batch=2))
    assert torch.equal(pictures, pipe.decode(latents, "pt"))


class Cramped(Painter):
    """Has memory for so many samples in one call."""

    def __init__(self, most: int) -> None:
        super().__init__(None)
        self.most, self.calls = most, list[int]()

    def __call__(self, generator: list[torch.Generator], output_type: str = "latent", **_: Any) -> tuple[Any]:
        self.calls.append(len(generator))
        if len(generator) > self.most:
            raise torch.OutOfMemoryError("no room")
        return (torch.stack([torch.rand(3, 4, 4, generator=one) for one in generator]),)


def test_calls_are_halved_where_memory_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [Job(i, "test", seed=i, call={}) for i in range(7)]
    roomy, cramped = Cramped(most=7), Cramped(most=2)
    latents = sample_latents(cramped, jobs, STEPS, batch=7)
    assert torch.equal(latents, sample_latents(roomy, jobs, STEPS, batch=7))
    assert cramped.calls == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    assert "out of memory with 7 samples in one call; going on with 3" in capsys.readouterr().err
    pictures, _ = sample_images(Cramped(most=4), jobs, STEPS, batch=7)
    assert torch.equal(pictures, latents)
    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        sample_latents(Cramped(most=0), jobs, STEPS, batch=7)


def test_pictures_stand_for_latents_that_a_pipeline_does_not_show() -> None:
    """DiT takes no callback; every picture is that of its own class and seed, in whatever batch."""
    pipe = PIPELINES["DiT"].build()
    pictures, latents = sample_images(pipe, CLASSES, STEPS, batch=2)
    side = pictures.shape[-1]
    assert pictures.shape == (len(CLASSES), 3, side, side)
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert torch.equal(latents, pictures)
    alone, _ = sample_images(pipe, CLASSES[1:2], STEPS, batch=1)
    torch.testing.assert_close(pictures[1:2], alone)


def test_a_plan_is_evaluated_without_latents() -> None:
    pipe = PIPELINES["DiT"].build()
    plan = hand_plan(pipe, CachePoint(), lambda: sample_images(pipe, CLASSES[:1], STEPS, 1), lambda steps: (0, 1, 3))
    figures, ours, full = evaluate_plan(pipe, plan, CLASSES, STEPS, batch=2)
    assert (figures.steps_computed, figures.steps_total) == (3, STEPS)
    assert figures.flops_ratio > 1.5
    assert torch.equal(ours.latents, ours.images)
    error = (ours.images - full.images).square().sum((1, 2, 3)) / full.images.square().sum((1, 2, 3))
    assert figures.latent_error == pytest.approx(error.mean().item())
    assert figures.latent_error > 0


@pytest.mark.parametrize("frames", [(), (5,)], ids=["pictures", "videos"])
def test_arrays_become_tensors(frames: tuple[int, ...]) -> None:
    """Not every pipeline knows "pt"; arrays have their channels last."""
    tensors = torch.rand(2, *frames, 3, 4, 6)
    arrays = tensors.movedim(-3, -1).numpy()
    expected, _ = sample_images(Painter(tensors), CLASSES[:2], STEPS, batch=2)
    found, latents = sample_images(Painter(arrays), CLASSES[:2], STEPS, batch=2)
    assert found.shape[:2] == (2, 3)
    assert torch.equal(found, expected)
    assert torch.equal(latents, expected)


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(WorkloadError, match="Painter returned list for output_type='pt'"):
        sample_images(Painter(["a", "b"]), CLASSES[:2], STEPS, batch=2)
