"""Train the video demo model again: ``python -m studies.training.motion.train --out DIR``.

Rectified flow, see `studies.training.flow`, on latents of clips that are rendered first. Checkpoints are written every
few minutes and the same command continues from the last one. Needs the `train` extra and Debian's
``fonts-noto-color-emoji``.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from torch import Tensor, nn

from hyca_calib.demo.emoji.text import WordEncoder
from hyca_calib.demo.motion.codec import BlockCodec
from hyca_calib.demo.motion.pipeline import MotionPipeline
from studies.training.emoji.data import load_glyphs
from studies.training.flow import FlowRecipe, batch_loss
from studies.training.loop import main, train_loop
from studies.training.motion import card
from studies.training.motion.clips import FRAMES, SIZE, Scene, render, scenes


@dataclass(frozen=True)
class Recipe(FlowRecipe):
    """Everything that decides the weights, besides the font."""

    steps: int = 2_400
    batch: int = 32
    offsets: tuple[float, ...] = (-2.0, 0.0, 2.0)
    shift: float = 3.0
    width: int = 192
    blocks: int = 10
    latent_channels: int = 64


class Flow(nn.Module):
    """Text encoder and transformer as one trainable network."""

    def __init__(self, recipe: Recipe, vocabulary: list[str]) -> None:
        super().__init__()
        self.text_encoder = WordEncoder(vocabulary=vocabulary, dim=recipe.width)
        self.transformer = WanTransformer3DModel(
            patch_size=(1, 1, 1),
            num_attention_heads=recipe.width // 64,
            attention_head_dim=64,
            in_channels=recipe.latent_channels,
            out_channels=recipe.latent_channels,
            text_dim=recipe.width,
            ffn_dim=4 * recipe.width,
            num_layers=recipe.blocks,
        )
        nn.init.zeros_(self.transformer.proj_out.weight)

    def forward(self, noisy: Tensor, t: Tensor, words: Tensor) -> Tensor:
        vectors, _ = self.text_encoder(words)
        return self.transformer(  # type: ignore[no-any-return]
            hidden_states=noisy, timestep=1000 * t, encoder_hidden_states=vectors, return_dict=False
        )[0]


def split_scenes(found: list[Scene], holdout: float, seed: int) -> tuple[list[Scene], list[Scene]]:
    """Scenes to train on, and held-out ones; every object, motion and background is in both kinds."""
    shuffled = random.Random(seed).sample(found, len(found))
    count = round(holdout * len(found))
    return sorted(shuffled[count:], key=lambda s: s.caption), sorted(shuffled[:count], key=lambda s: s.caption)


def rendered(kept: list[Scene], offsets: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Clips ``(clip, 3, frame, height, width)`` in uint8, and the scene of each."""
    glyphs = load_glyphs()
    clips = np.stack([render(scene, glyphs, offset) for scene in kept for offset in offsets])
    which = torch.arange(len(kept)).repeat_interleave(len(offsets))
    return torch.from_numpy(clips).permute(0, 4, 1, 2, 3).contiguous(), which


def encoded(codec: BlockCodec, clips: Tensor) -> Tensor:
    """Latents of all clips; the codec is fitted to a part of them."""
    codec.fit(_floats(clips[:: max(1, len(clips) // 512)]))
    return torch.cat([codec.encode(_floats(part)) for part in clips.split(64)])  # type: ignore[no-untyped-call]


def fidelity_of(codec: BlockCodec, latents: Tensor, clips: Tensor) -> float:
    """What the codec leaves of some clips, in dB."""
    some = range(0, min(512, len(clips)), 8)
    error = torch.cat([codec.decode(latents[i : i + 1].cpu()) - _floats(clips[i : i + 1]) for i in some])
    return float(10 * torch.log10(4 / error.square().mean()))


def _floats(clips: Tensor) -> Tensor:
    return clips.float() / 127.5 - 1


def train(recipe: Recipe, out: Path, device: str, compiled: bool) -> None:
    """Train until `recipe.steps`, then write the pipeline and its card to ``out/pipeline``."""
    torch.manual_seed(recipe.seed)
    kept, held = split_scenes(scenes(recipe.seed), recipe.holdout, recipe.seed)
    vocabulary = sorted({word for scene in kept for word in scene.caption.split()})
    clips, which = rendered(kept, recipe.offsets)
    codec = BlockCodec(latent_channels=recipe.latent_channels)
    latents = encoded(codec, clips).to(device)
    fidelity = fidelity_of(codec, latents, clips)
    print(f"{len(clips)} clips of {len(kept)} captions, codec {fidelity:.1f} dB", flush=True)
    model = Flow(recipe, vocabulary)
    words = model.text_encoder.tokenize([scene.caption for scene in kept])[which].to(device)
    facts: dict[str, Any] = {"clips": len(clips), "codec_db": round(fidelity, 1)}
    facts |= {"trained_captions": [s.caption for s in kept], "held_out_captions": [s.caption for s in held]}

    def pipeline_of(half: Flow) -> MotionPipeline:
        scheduler = FlowMatchEulerDiscreteScheduler(shift=recipe.shift)
        return MotionPipeline(half.transformer, half.text_encoder, codec, scheduler, FRAMES, SIZE)

    loss_of = batch_loss(latents, words, recipe, recipe.shift)
    train_loop(model, loss_of, recipe, out, device, compiled, pipeline_of, facts)
    card.write(out / "pipeline")


if __name__ == "__main__":
    main(str(__doc__), Recipe(), train)
