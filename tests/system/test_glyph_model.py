"""The class-conditional model is a proper pipeline that draws the character it is asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ImagePipelineOutput
from PIL import Image
from torch import Tensor

from hyca_calib.demo import demo_pipeline, demo_prompts, weights_of
from hyca_calib.demo.glyphs.pipeline import CLASSES, GlyphPipeline

WEIGHTS = weights_of("demo-class")


@pytest.fixture(scope="module")
def glyphs() -> GlyphPipeline:
    pipe = demo_pipeline("demo-class")
    assert isinstance(pipe, GlyphPipeline)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: GlyphPipeline, labels: str | Sequence[str | int], **call: Any) -> Tensor:
    """Pictures ``(B, 3, H, W)``, or latents."""
    drawn = pipe(labels, **{"output_type": "pt", **call})
    assert isinstance(drawn, ImagePipelineOutput)
    assert isinstance(drawn.images, Tensor)
    return drawn.images


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_size_and_card() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 15e6
    assert {path.suffix for path in files} == {".json", ".safetensors", ".md", ".png"}
    card = (WEIGHTS / "README.md").read_text()
    facts = json.loads((WEIGHTS / "training.json").read_text())
    for fact in (str(facts["step"]), str(facts["pictures"]), str(facts["fonts"]), "Licence"):
        assert fact in card
    assert [call["class_labels"] for call in demo_prompts("demo-class")] == list(CLASSES)


def test_output_types(glyphs: GlyphPipeline) -> None:
    pil, array = (glyphs("A", num_inference_steps=4, generator=seeded(), output_type=kind) for kind in ("pil", "np"))
    assert isinstance(pil, ImagePipelineOutput)
    assert isinstance(array, ImagePipelineOutput)
    pt, latent = (
        draw(glyphs, "A", num_inference_steps=4, generator=seeded(), output_type=kind) for kind in ("pt", "latent")
    )
    assert isinstance(pil.images[0], Image.Image)
    assert isinstance(array.images, np.ndarray)
    assert array.images.shape == (1, 32, 32, 3)
    assert pt.shape == latent.shape == (1, 3, 32, 32)
    np.testing.assert_allclose(array.images[0], pt[0].permute(1, 2, 0).numpy(), atol=1e-6)


def test_labels_and_their_numbers(glyphs: GlyphPipeline) -> None:
    one, other = (
        draw(glyphs, labels, num_inference_steps=3, generator=[seeded(1), seeded(2)])
        for labels in (["B", "7"], [CLASSES.index("B"), CLASSES.index("7")])
    )
    assert torch.equal(one, other)
    alone = draw(glyphs, "7", num_inference_steps=3, generator=seeded(2))
    torch.testing.assert_close(one[1:], alone, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    "bad",
    [
        {"class_labels": []},
        {"class_labels": "a"},
        {"class_labels": 36},
        {"class_labels": "A", "output_type": "jpg"},
        {"class_labels": "A", "num_inference_steps": 0},
    ],
)
def test_bad_arguments(glyphs: GlyphPipeline, bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        glyphs(**bad)


def test_save_and_load(glyphs: GlyphPipeline, tmp_path: Path) -> None:
    glyphs.save_pretrained(tmp_path / "saved")
    again = GlyphPipeline.from_weights(tmp_path / "saved")
    again.set_progress_bar_config(disable=True)
    drawn = [draw(p, "Q", num_inference_steps=2, generator=seeded()) for p in (glyphs, again)]
    assert torch.equal(*drawn)


def test_classes_are_told_apart(glyphs: GlyphPipeline) -> None:
    """Drawings of a class are more alike, as shapes, than drawings of different classes."""
    letters = "IOXT"
    images = draw(glyphs, list(letters) * 6, num_inference_steps=10, generator=seeded(3))
    grey = images.mean(dim=1)
    paper = grey[:, :2].mean(dim=(1, 2), keepdim=True)
    ink = (grey - paper).abs().flatten(1)
    ink = (ink - ink.mean(1, keepdim=True)) / ink.std(1, keepdim=True)
    shapes = ink.view(6, len(letters), -1)
    means = shapes[:3].mean(0)
    found = (shapes[3:] @ means.T).argmax(-1)
    assert (found == torch.arange(len(letters))).float().mean() >= 0.75
