"""The embedded model is a proper pipeline that draws what it is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ImagePipelineOutput
from PIL import Image
from torch import Tensor

from hyca_calib.demo import demo_pipeline, demo_prompts, weights_of
from hyca_calib.demo.emoji.pipeline import EmojiPipeline, pack, unpack

WEIGHTS = weights_of("demo")


@pytest.fixture(scope="module")
def demo() -> EmojiPipeline:
    pipe = demo_pipeline()
    assert isinstance(pipe, EmojiPipeline)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: EmojiPipeline, prompt: str | list[str], **call: Any) -> Tensor:
    """Pictures ``(B, 3, H, W)``, or tokens."""
    drawn = pipe(prompt, **{"output_type": "pt", **call})
    assert isinstance(drawn, ImagePipelineOutput)
    assert isinstance(drawn.images, Tensor)
    return drawn.images


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_size_and_card() -> None:
    size = sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file())
    assert size <= 25e6
    suffixes = {path.suffix for path in WEIGHTS.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors", ".md", ".png", ".txt"}
    card = (WEIGHTS / "README.md").read_text()
    facts = json.loads((WEIGHTS / "training.json").read_text())
    for fact in (str(facts["step"]), str(facts["pictures"]), "fonts-noto-color-emoji", "Licence"):
        assert fact in card
    assert len(demo_prompts()) == len(facts["trained_names"]) + len(facts["held_out_names"])


def test_output_types(demo: EmojiPipeline) -> None:
    pil, array = (
        demo("red heart", num_inference_steps=4, generator=seeded(), output_type=kind) for kind in ("pil", "np")
    )
    assert isinstance(pil, ImagePipelineOutput)
    assert isinstance(array, ImagePipelineOutput)
    pt, latent = (
        draw(demo, "red heart", num_inference_steps=4, generator=seeded(), output_type=kind)
        for kind in ("pt", "latent")
    )
    assert isinstance(pil.images[0], Image.Image)
    assert pil.images[0].size == (32, 32)
    assert isinstance(array.images, np.ndarray)
    assert array.images.shape == (1, 32, 32, 3)
    assert pt.shape == (1, 3, 32, 32)
    assert latent.shape == (1, 64, 48)
    np.testing.assert_allclose(array.images[0], pt[0].permute(1, 2, 0).numpy(), atol=1e-6)
    assert torch.equal(pack(unpack(latent)), latent)


def test_prompts_generators_and_callback(demo: EmojiPipeline) -> None:
    steps: list[int] = []

    def note(pipe: object, step: int, timestep: object, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        steps.append(step)
        assert tensors["latents"].shape == (2, 64, 48)
        return {}

    both = draw(
        demo,
        ["red heart", "dog face"],
        num_inference_steps=3,
        generator=[seeded(1), seeded(2)],
        callback_on_step_end=note,
    )
    assert steps == [0, 1, 2]
    alone = draw(demo, "dog face", num_inference_steps=3, generator=seeded(2))
    torch.testing.assert_close(both[1:], alone, atol=1e-4, rtol=1e-3)
    guided = draw(demo, "dog face", num_inference_steps=3, true_cfg_scale=3.0, generator=seeded(2))
    assert not torch.allclose(guided, alone, atol=1e-3)


@pytest.mark.parametrize(
    "bad", [{"prompt": []}, {"prompt": "x", "output_type": "jpg"}, {"prompt": "x", "num_inference_steps": 0}]
)
def test_bad_arguments(demo: EmojiPipeline, bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        demo(**bad)


def test_save_and_load(demo: EmojiPipeline, tmp_path: Path) -> None:
    demo.save_pretrained(tmp_path / "saved")
    again = EmojiPipeline.from_weights(tmp_path / "saved")
    again.set_progress_bar_config(disable=True)
    drawn = [draw(p, "red heart", num_inference_steps=2, generator=seeded()) for p in (demo, again)]
    assert torch.equal(*drawn)


def test_colours_are_those_asked_for(demo: EmojiPipeline) -> None:
    """Mean colour of the inked pixels; red and purple hearts were never seen in training."""
    expected = {"green heart": 1, "red heart": 0, "blue circle": 2, "green circle": 1, "red circle": 0, "blue heart": 2}
    names = list(expected)
    images = draw(demo, names * 2, num_inference_steps=25, generator=seeded(3))
    hits = 0
    for picture, name in zip(images, names * 2, strict=True):
        ink = picture.amin(dim=0) < 0.7
        assert ink.float().mean() > 0.05, f"{name} is blank"
        hits += int(picture[:, ink].mean(dim=1).argmax()) == expected[name]
    assert hits >= 0.75 * len(images)
