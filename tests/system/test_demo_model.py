"""The embedded model is a proper pipeline that draws what it is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hyca_calib.demo import demo_pipeline, demo_prompts
from hyca_calib.demo.emoji import WEIGHTS, load
from hyca_calib.demo.emoji.pipeline import EmojiPipeline, pack, unpack


@pytest.fixture(scope="module")
def demo() -> EmojiPipeline:
    pipe = demo_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_size_and_card() -> None:
    size = sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file())
    assert size <= 25e6
    assert all(path.suffix in {".json", ".safetensors", ".md", ".png"} for path in WEIGHTS.rglob("*") if path.is_file())
    card = (WEIGHTS / "README.md").read_text()
    facts = json.loads((WEIGHTS / "training.json").read_text())
    for fact in (str(facts["step"]), str(facts["pictures"]), "fonts-noto-color-emoji", "Licence"):
        assert fact in card
    assert len(demo_prompts()) == len(facts["trained_names"]) + len(facts["held_out_names"])


def test_output_types(demo: EmojiPipeline) -> None:
    drawn = {
        kind: demo("red heart", num_inference_steps=4, generator=seeded(), output_type=kind).images
        for kind in ("pil", "np", "pt", "latent")
    }
    assert isinstance(drawn["pil"][0], Image.Image)
    assert drawn["pil"][0].size == (32, 32)
    assert drawn["np"].shape == (1, 32, 32, 3)
    assert drawn["pt"].shape == (1, 3, 32, 32)
    assert drawn["latent"].shape == (1, 64, 48)
    np.testing.assert_allclose(drawn["np"][0], drawn["pt"][0].permute(1, 2, 0).numpy(), atol=1e-6)
    assert torch.equal(pack(unpack(drawn["latent"])), drawn["latent"])


def test_prompts_generators_and_callback(demo: EmojiPipeline) -> None:
    steps: list[int] = []

    def note(pipe: object, step: int, timestep: object, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        steps.append(step)
        assert tensors["latents"].shape == (2, 64, 48)
        return {}

    both = demo(
        ["red heart", "dog face"],
        num_inference_steps=3,
        generator=[seeded(1), seeded(2)],
        output_type="pt",
        callback_on_step_end=note,
    ).images
    assert steps == [0, 1, 2]
    alone = demo("dog face", num_inference_steps=3, generator=seeded(2), output_type="pt").images
    torch.testing.assert_close(both[1:], alone, atol=1e-4, rtol=1e-3)
    guided = demo("dog face", num_inference_steps=3, true_cfg_scale=3.0, generator=seeded(2), output_type="pt").images
    assert not torch.allclose(guided, alone, atol=1e-3)


@pytest.mark.parametrize(
    "bad", [{"prompt": []}, {"prompt": "x", "output_type": "jpg"}, {"prompt": "x", "num_inference_steps": 0}]
)
def test_bad_arguments(demo: EmojiPipeline, bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        demo(**bad)


def test_save_and_load(demo: EmojiPipeline, tmp_path: Path) -> None:
    demo.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved")
    again.set_progress_bar_config(disable=True)
    drawn = [p("red heart", num_inference_steps=2, generator=seeded(), output_type="pt").images for p in (demo, again)]
    assert torch.equal(*drawn)


def test_colours_are_those_asked_for(demo: EmojiPipeline) -> None:
    """Mean colour of the inked pixels; red and purple hearts were never seen in training."""
    expected = {"green heart": 1, "red heart": 0, "blue circle": 2, "green circle": 1, "red circle": 0, "blue heart": 2}
    names = list(expected)
    images = demo(names * 4, num_inference_steps=25, generator=seeded(3), output_type="pt").images
    hits = 0
    for picture, name in zip(images, names * 4, strict=True):
        ink = picture.amin(dim=0) < 0.7
        assert ink.float().mean() > 0.05, f"{name} is blank"
        hits += int(picture[:, ink].mean(dim=1).argmax()) == expected[name]
    assert hits >= 0.75 * len(images)
