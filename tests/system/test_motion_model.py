"""The video model is a proper pipeline; its data and its codec are what its card says."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.wan.pipeline_output import WanPipelineOutput
from PIL import Image
from storage import record
from torch import Tensor

from hyca_calib.costs.budget import Budget
from hyca_calib.demo import demo_pipeline, demo_prompts, weights_of
from hyca_calib.demo.motion.codec import BlockCodec
from hyca_calib.demo.motion.pipeline import MotionPipeline
from hyca_calib.pipelines.rollout import sample_images
from hyca_calib.pipelines.workload import Workload
from hyca_calib.search.presets import PRESETS, preset_section
from hyca_calib.search.problem import Problem
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan, apply_plan
from studies.training.motion.clips import BACKGROUNDS, FRAMES, MOTIONS, OBJECTS, SIZE, Scene, render, scenes
from studies.training.motion.latents import encoded, split_scenes

WEIGHTS = weights_of("demo-video")


def draw(pipe: MotionPipeline, prompt: str, **call: Any) -> Tensor:
    """Clips ``(B, F, 3, H, W)``, or latents."""
    drawn = pipe(prompt, **{"output_type": "pt", **call})
    assert isinstance(drawn, WanPipelineOutput)
    assert isinstance(drawn.frames, Tensor)
    return drawn.frames


def test_size_and_card() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 20e6
    assert {path.suffix for path in files} == {".json", ".safetensors", ".md", ".png"}
    card = (WEIGHTS / "README.md").read_text()
    facts = json.loads((WEIGHTS / "training.json").read_text())
    for fact in (f"{facts['step']} steps", f"{facts['clips']} clips", str(facts["loss"]), "Licence"):
        assert fact in card
    assert {call["prompt"] for call in demo_prompts("demo-video")} == {scene.caption for scene in scenes()}


@pytest.mark.slow
def test_trained_clips_show_where_objects_go() -> None:
    """To the left and to the right, of the same noise."""
    pipe = demo_pipeline("demo-video")
    pipe.set_progress_bar_config(disable=True)
    captions = [f"crab moving {way} on night" for way in ("left", "right")]
    frames = pipe(captions, num_inference_steps=20, generator=[seeded(3), seeded(3)], output_type="np").frames
    left, right = (
        centre(255 * clip[-1], 255 * clip.min(0)) - centre(255 * clip[0], 255 * clip.min(0)) for clip in frames
    )
    assert right[1] - left[1] > 8, "pixels from the first frame to the last"


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def glyphs() -> dict[str, Image.Image]:
    """Squares of other colours, in place of the font's."""
    return {name: Image.new("RGBA", (60, 60), (10 * i, 200 - 8 * i, 90, 255)) for i, name in enumerate(OBJECTS)}


def test_scenes_cover_everything() -> None:
    found = scenes()
    assert len({scene.caption for scene in found}) == len(found)
    singles = [scene for scene in found if len(scene.objects) == 1]
    assert len(singles) == len(OBJECTS) * len(MOTIONS) * len(BACKGROUNDS)
    assert max(len(scene.caption.split()) for scene in found) <= 8, "the text encoder reads no more words"
    kept, held = split_scenes(found, 0.05, 0)
    assert not {s.caption for s in kept} & {s.caption for s in held}
    assert {s.motion for s in held} == {s.motion for s in found}
    assert min(Counter(name for s in kept for name in s.objects).values()) > 20


def centre(frame: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Where a frame differs from the empty scene, ``(y, x)``."""
    weight = np.abs(frame.astype(float) - background).sum(-1)
    return np.array([(weight.sum(axis=1 - a) * np.arange(SIZE)).sum() / weight.sum() for a in (0, 1)])


@pytest.mark.parametrize(
    ("motion_name", "direction"),
    [("moving left", (0, -1)), ("moving right", (0, 1)), ("rising", (-1, 0)), ("falling", (1, 0))],
)
def test_captions_say_where_objects_go(motion_name: str, direction: tuple[int, int]) -> None:
    clip = render(Scene(("crab",), motion_name, "sky"), glyphs())
    empty = render(Scene(("crab",), "fading", "sky"), glyphs())[-1].astype(float)
    assert clip.shape == (FRAMES, SIZE, SIZE, 3)
    moved = centre(clip[-1], empty) - centre(clip[0], empty)
    assert moved @ np.array(direction) > 10
    assert abs(moved @ np.array(direction[::-1])) < 1


def test_colliding_objects_meet_and_part() -> None:
    clip = render(Scene(("crab", "sun"), "colliding", "snow"), glyphs()).astype(float)
    assert np.abs(clip[0] - clip[-1]).max() == 0, "they go back to where they came from"
    middle = clip[FRAMES // 2]
    assert np.abs(middle[:, SIZE // 2 - 2 : SIZE // 2 + 2] - clip[0][:, SIZE // 2 - 2 : SIZE // 2 + 2]).max() > 50


def test_codec_inverts_what_it_keeps() -> None:
    clips = torch.randint(0, 255, (24, 3, 16, 32, 32), generator=seeded(), dtype=torch.uint8)
    whole = BlockCodec(latent_channels=192)
    latents = encoded(whole, clips)
    assert latents.shape == (24, 192, 4, 8, 8)
    torch.testing.assert_close(whole.decode(latents), clips.float() / 127.5 - 1, atol=1e-3, rtol=0)
    assert latents.std().item() == pytest.approx(1, abs=0.02)
    few = BlockCodec(latent_channels=16)
    back = few.decode(encoded(few, clips))
    assert torch.allclose(few.decode(few.encode(back)), back, atol=1e-3), "a projection"


def test_output_types(motion: MotionPipeline) -> None:
    prompt = "red heart rising on sky"
    pil, array = (motion(prompt, num_inference_steps=2, generator=seeded(), output_type=kind) for kind in ("pil", "np"))
    assert isinstance(pil, WanPipelineOutput)
    assert isinstance(array, WanPipelineOutput)
    pt, latent = (
        draw(motion, prompt, num_inference_steps=2, generator=seeded(), output_type=kind) for kind in ("pt", "latent")
    )
    assert isinstance(pil.frames[0][0], Image.Image)
    assert isinstance(array.frames, np.ndarray)
    assert array.frames.shape == (1, 16, 32, 32, 3)
    assert pt.shape == (1, 16, 3, 32, 32)
    assert latent.shape == (1, 8, 4, 8, 8)
    other = draw(motion, "a", num_frames=8, height=40, num_inference_steps=1, generator=seeded())
    assert other.shape == (1, 8, 3, 40, 32)


def test_guidance_is_two_calls(motion: MotionPipeline) -> None:
    calls: list[int] = []
    handle = motion.transformer.register_forward_hook(lambda module, args, output: calls.append(1))
    for scale, expected in ((1.0, 3), (3.0, 6)):
        calls.clear()
        motion("sun turning on grass", num_inference_steps=3, guidance_scale=scale, generator=seeded())
        assert len(calls) == expected
    handle.remove()


def test_it_is_traced_and_follows_a_plan(motion: MotionPipeline, tmp_path: Path) -> None:
    workload = Workload(tuple({"prompt": scene.caption} for scene in scenes()[:7]), num_samples=7, num_steps=8)
    assert record(tmp_path / "t.zarr", workload, motion, batch=2)
    trace = Trace(tmp_path / "t.zarr")
    assert trace.branches == ["cond", "uncond"]
    section = preset_section(Problem(trace), PRESETS["hold"], Budget.parse("2x"), 0, "anchored")[1]
    job = workload.of("test")[:1]
    full, _ = sample_images(motion, job, 8, 1)
    with apply_plan(motion, Plan(name="test", sections=(section,)), "error") as session:
        ours, _ = sample_images(motion, job, 8, 1)
        report = session.report()
    assert report.computed == len(section.schedule.computed_steps) < report.steps == 8
    assert full.shape == ours.shape == (1, 3, 16 * 32, 32)
    assert 0 < (full - ours).abs().mean() < 0.2
    again, _ = sample_images(motion, job, 8, 1)
    assert torch.equal(full, again)


@pytest.mark.parametrize(
    "bad", [{"prompt": []}, {"num_frames": 6}, {"height": 30}, {"output_type": "gif"}, {"num_inference_steps": 0}]
)
def test_bad_arguments(motion: MotionPipeline, bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        motion(**({"prompt": "x"} | bad))


def test_save_and_load(motion: MotionPipeline, tmp_path: Path) -> None:
    motion.save_pretrained(tmp_path / "saved")
    again = MotionPipeline.from_weights(tmp_path / "saved")
    again.set_progress_bar_config(disable=True)
    drawn = [draw(p, "sun rising on sky", num_inference_steps=2, generator=seeded()) for p in (motion, again)]
    assert torch.equal(*drawn)
