"""Train the streaming demo model: ``python -m studies.training.stream.train --out DIR``.

Diffusion forcing, see `studies.training.stream.forcing`, on latents of clips that are rendered first. Checkpoints are
written every few minutes and the same command continues from the last one. Needs the `train` extra and Debian's
``fonts-noto-color-emoji``.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SkyReelsV2Transformer3DModel
from torch import Tensor, nn

from hyca_calib.demo.emoji.text import WordEncoder
from hyca_calib.demo.motion.codec import BlockCodec
from hyca_calib.demo.stream.pipeline import StreamPipeline
from studies.training.emoji.data import load_glyphs
from studies.training.loop import main, train_loop
from studies.training.motion.clips import SIZE, Scene
from studies.training.motion.latents import Rendered, as_clips, prepared
from studies.training.stream import card
from studies.training.stream.clips import FRAMES, render
from studies.training.stream.forcing import ForcingRecipe, forcing_loss


@dataclass(frozen=True)
class Recipe(ForcingRecipe):
    """Everything that decides the weights, besides the font."""

    steps: int = 4_000
    batch: int = 24
    offsets: tuple[float, ...] = (-1.0, 1.0)
    width: int = 192
    blocks: int = 8
    latent_channels: int = 32


class Forcing(nn.Module):
    """Text encoder and transformer as one trainable network."""

    def __init__(self, recipe: Recipe, vocabulary: list[str]) -> None:
        super().__init__()
        self.text_encoder = WordEncoder(vocabulary=vocabulary, dim=recipe.width)
        self.transformer = SkyReelsV2Transformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=recipe.width // 64,
            attention_head_dim=64,
            in_channels=recipe.latent_channels,
            out_channels=recipe.latent_channels,
            text_dim=recipe.width,
            ffn_dim=4 * recipe.width,
            num_layers=recipe.blocks,
            num_frame_per_block=recipe.chunk,
        )
        nn.init.zeros_(self.transformer.proj_out.weight)

    def forward(self, noisy: Tensor, t: Tensor, words: Tensor) -> Tensor:
        vectors, _ = self.text_encoder(words)
        return self.transformer(  # type: ignore[no-any-return]
            hidden_states=noisy,
            timestep=1000 * t,
            encoder_hidden_states=vectors,
            enable_diffusion_forcing=True,
            return_dict=False,
        )[0]


def rendered(kept: list[Scene], offsets: tuple[float, ...]) -> Rendered:
    """Every scene with every offset, each from a phase of its own."""
    glyphs = load_glyphs()
    asked = [(scene, offset) for scene in kept for offset in offsets]
    phases = np.random.default_rng(0).random(len(asked))
    drawn = [render(s, glyphs, o, float(phase)) for (s, o), phase in zip(asked, phases, strict=True)]
    return as_clips(drawn, len(kept))


def train(recipe: Recipe, out: Path, device: str, compiled: bool) -> None:
    """Train until `recipe.steps`, then write the pipeline and its card to ``out/pipeline``."""
    torch.manual_seed(recipe.seed)
    codec = BlockCodec(frames=2, latent_channels=recipe.latent_channels)
    data = prepared(recipe, lambda kept: rendered(kept, recipe.offsets), codec, device)
    model = Forcing(recipe, data.vocabulary)

    def pipeline_of(half: Forcing) -> StreamPipeline:
        scheduler = FlowMatchEulerDiscreteScheduler(shift=recipe.shift)
        return StreamPipeline(half.transformer, half.text_encoder, codec, scheduler, FRAMES, SIZE)

    loss_of = forcing_loss(data.latents, data.words(model.text_encoder), recipe)
    train_loop(model, loss_of, recipe, out, device, compiled, pipeline_of, data.facts)
    card.write(out / "pipeline")


if __name__ == "__main__":
    main(str(__doc__), Recipe(), train)
