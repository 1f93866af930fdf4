"""The streaming model's pipeline, data and training; the weights are random here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from diffusers.pipelines.skyreels_v2.pipeline_output import SkyReelsV2PipelineOutput
from PIL import Image
from plans import alike
from torch import Tensor

from hyca_calib import demo
from hyca_calib.demo.stream.pipeline import StreamPipeline
from hyca_runtime import Plan, apply_plan
from hyca_runtime.chunking import Chunking
from hyca_runtime.fingerprint import config_digest
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan_facts import ModelFingerprint, TimeGrid
from hyca_runtime.schedule import FEATURE, Schedule
from hyca_runtime.solvers import Hold
from hyca_runtime.streaming.retention import All, Packed, Retention
from studies.training import card
from studies.training.motion import latents
from studies.training.motion.clips import OBJECTS, Scene
from studies.training.stream import card as stream_card
from studies.training.stream import train as training
from studies.training.stream.clips import FRAMES, PERIOD, render
from studies.training.stream.forcing import ForcingRecipe, chunk_times, forcing_loss

STEPS, CHUNK = 5, 3


@pytest.fixture
def stream() -> StreamPipeline:
    return tiny.stream()


def draw(pipe: StreamPipeline, **call: Any) -> Tensor:
    given: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "latent", "return_dict": False}
    latents: Tensor = pipe("red heart", generator=torch.Generator().manual_seed(0), **given | call)[0]
    return latents


def plan_for(pipe: StreamPipeline, computed: tuple[int, ...], retention: Retention) -> Plan:
    pipe.scheduler.set_timesteps(STEPS)
    times, module = tuple(float(time) for time in pipe.scheduler.timesteps), pipe.transformer
    section = NetworkPlan(
        model=ModelFingerprint(transformer=type(module).__name__, config_digest=config_digest(module)),
        grid=TimeGrid(
            scheduler="FlowMatchEulerDiscreteScheduler",
            timesteps=times,
            axis="step",
            axis_times=times,
            scheduler_timesteps=times,
        ),
        points={FEATURE: alike("trunk:residual", 24, Hold())},
        schedule=Schedule.from_steps(STEPS, computed),
        chunks=Chunking(frames=CHUNK, keys=retention.spec()),
    )
    return Plan(name="test", sections=(section,))


@pytest.mark.parametrize("lag", [None, 2, 1])
def test_it_is_called_chunk_by_chunk_under_a_plan(stream: StreamPipeline, lag: int | None) -> None:
    stream.transformer.double()
    full = draw(stream, lag=lag)
    assert full.shape == (1, 8, 12, 4, 4)
    with apply_plan(stream, plan_for(stream, tuple(range(STEPS)), All()), "error") as session:
        assert (draw(stream, lag=lag) - full).abs().max() < 1e-6  # the latents are of float32
        assert (session.report().computed, session.report().steps) == (4 * STEPS, 4 * STEPS)
    with apply_plan(stream, plan_for(stream, (0, 1, 3), All()), "error") as session:
        assert 1e-4 < (draw(stream, lag=lag) - full).abs().max() < 3
        assert (session.report().computed, session.report().steps) == (4 * 3, 4 * STEPS)
    assert torch.equal(draw(stream, lag=lag), full)


def test_what_is_kept_of_a_long_clip_does_not_grow(stream: StreamPipeline) -> None:
    held = []
    for frames in (60, 120):
        with apply_plan(stream, plan_for(stream, tuple(range(STEPS)), Packed(1.5, 3)), "error") as session:
            assert draw(stream, num_frames=frames).shape == (1, 8, frames // 2, 4, 4)
            held.append([video.store.nbytes for video in session._executors["transformer"].chunks.videos.values()])  # type: ignore[attr-defined]
    assert held[0] == held[1]


def test_later_chunks_do_not_change_earlier_ones(stream: StreamPipeline) -> None:
    noise = torch.randn(1, 8, 12, 4, 4, generator=torch.Generator().manual_seed(0))
    other = noise.clone()
    other[:, :, 9:] *= -1
    one, two = (draw(stream, latents=latents) for latents in (noise, other))
    assert torch.equal(one[:, :, :9], two[:, :, :9])
    assert not torch.equal(one, two)


def test_output_types(stream: StreamPipeline) -> None:
    for kind, shape in (("np", (1, 24, 16, 16, 3)), ("pt", (1, 24, 3, 16, 16)), ("latent", (1, 8, 12, 4, 4))):
        drawn = stream("cat", num_inference_steps=1, output_type=kind)
        assert isinstance(drawn, SkyReelsV2PipelineOutput)
        assert tuple(drawn.frames.shape) == shape
    seen = list[int]()

    def count(_: Any, iteration: int, times: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(len(times))
        return given

    stream("cat", num_inference_steps=2, lag=1, callback_on_step_end=count)
    assert seen == [1, 2, 3, 4, 4]


@pytest.mark.parametrize(
    "bad", [{"prompt": []}, {"num_frames": 10}, {"height": 12}, {"lag": 0}, {"output_type": "gif"}]
)
def test_bad_arguments(stream: StreamPipeline, bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        stream(**({"prompt": "x"} | bad))


def test_save_and_load(stream: StreamPipeline, tmp_path: Path) -> None:
    stream.save_pretrained(tmp_path)
    again = StreamPipeline.from_weights(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(draw(again), draw(stream))


def squares() -> dict[str, Image.Image]:
    """In place of the font's pictures."""
    return {name: Image.new("RGBA", (60, 60), (10 * i, 200 - 8 * i, 90, 255)) for i, name in enumerate(OBJECTS)}


def test_clips_go_on_and_back() -> None:
    clip = render(Scene(("crab",), "moving left", "sky"), squares(), 0.0, 0.1)
    assert clip.shape == (FRAMES, 32, 32, 3)
    assert np.array_equal(clip[0], clip[PERIOD])
    assert not np.array_equal(clip[0], clip[PERIOD // 2])


def test_chunks_are_trained_at_times_of_their_own() -> None:
    recipe = ForcingRecipe(steps=1, batch=64, streams=0.5)
    times = chunk_times(4000, 8, recipe, torch.Generator().manual_seed(0))
    clean = times == 0
    assert 0.15 < clean.float().mean() < 0.3
    assert bool((clean[:, :-1] | ~clean[:, 1:]).all()), "clean ones come first"
    assert float(torch.corrcoef(times[~clean.any(1)].T)[0, 1].abs()) < 0.1
    assert not clean[:, -1].any()


def test_only_chunks_with_noise_count() -> None:
    """A network that is wrong where the time is 0 alone has no loss."""
    recipe = ForcingRecipe(steps=1, batch=16, chunk=2)
    clean = torch.zeros(5, 3, 8, 2, 2)

    def answer(noisy: Tensor, t: Tensor, words: Tensor) -> Tensor:
        del words
        time = t[:, None, :, None, None]
        return noisy / time.clamp_min(1e-9) + (time == 0)

    assert float(forcing_loss(clean, torch.ones(5, 4).long(), recipe)(answer, torch.Generator().manual_seed(0))) < 1e-3


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")  # under autocast
def test_training_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = [Scene(("crab",), motion, "sky") for motion in ("rising", "falling", "moving left")] * 8
    monkeypatch.setattr(latents, "scenes", lambda seed: few)
    monkeypatch.setattr(stream_card, "SEEN", 1)
    monkeypatch.setattr(card, "drawn", lambda pipe, asked: pipe(asked, num_inference_steps=1, output_type="pil")[0])
    monkeypatch.setattr(training, "load_glyphs", squares)
    recipe = training.Recipe(steps=2, batch=2, warmup=1, width=64, blocks=1, offsets=(0.0,))
    training.train(recipe, tmp_path, "cpu", compiled=False)
    training.train(training.Recipe(**(vars(recipe) | {"steps": 3})), tmp_path, "cpu", compiled=False)
    pipe = StreamPipeline.from_weights(tmp_path / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    assert draw(pipe, num_inference_steps=2, output_type="pt").shape == (1, 48, 3, 32, 32)
    assert "23 clips rendered" in (tmp_path / "pipeline" / "README.md").read_text()
    with Image.open(tmp_path / "pipeline" / "samples.png") as picture:
        assert picture.width == 4 + 12 * (64 + 4)


def test_it_is_a_demo_once_its_weights_are_there(
    stream: StreamPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else is asked for than a folder."""
    assert ("demo-stream" in demo.DEMOS) == (demo.weights_of("demo-stream") / "model_index.json").exists()
    stream.save_pretrained(tmp_path / "stream" / "weights")
    facts = {"trained_captions": ["red heart", "cat"], "held_out_captions": ["blue star"]}
    (tmp_path / "stream" / "weights" / "training.json").write_text(json.dumps(facts))
    monkeypatch.setattr(demo, "__file__", str(tmp_path / "__init__.py"))
    assert [call["prompt"] for call in demo.demo_prompts("demo-stream")] == ["blue star", "cat", "red heart"]
    again = demo.demo_pipeline("demo-stream")
    again.set_progress_bar_config(disable=True)
    assert torch.equal(draw(again), draw(stream))
