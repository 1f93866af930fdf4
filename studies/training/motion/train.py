"""Train the video demo model again: ``python -m studies.training.motion.train --out DIR``.

Rectified flow, see `studies.training.flow`, on latents of clips that are rendered first. Checkpoints are written every
few minutes and the same command continues from the last one. Needs the `train` extra and Debian's
``fonts-noto-color-emoji``.
"""

from dataclasses import dataclass
from pathlib import Path

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
from studies.training.motion.clips import FRAMES, SIZE, Scene, render
from studies.training.motion.latents import Rendered, as_clips, prepared


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


def rendered(kept: list[Scene], offsets: tuple[float, ...]) -> Rendered:
    """Every scene with every offset."""
    glyphs = load_glyphs()
    return as_clips([render(scene, glyphs, offset) for scene in kept for offset in offsets], len(kept))


def train(recipe: Recipe, out: Path, device: str, compiled: bool) -> None:
    """Train until `recipe.steps`, then write the pipeline and its card to ``out/pipeline``."""
    torch.manual_seed(recipe.seed)
    codec = BlockCodec(latent_channels=recipe.latent_channels)
    data = prepared(recipe, lambda kept: rendered(kept, recipe.offsets), codec, device)
    model = Flow(recipe, data.vocabulary)

    def pipeline_of(half: Flow) -> MotionPipeline:
        scheduler = FlowMatchEulerDiscreteScheduler(shift=recipe.shift)
        return MotionPipeline(half.transformer, half.text_encoder, codec, scheduler, FRAMES, SIZE)

    loss_of = batch_loss(data.latents, data.words(model.text_encoder), recipe, recipe.shift)
    train_loop(model, loss_of, recipe, out, device, compiled, pipeline_of, data.facts)
    card.write(out / "pipeline")


if __name__ == "__main__":
    main(str(__doc__), Recipe(), train)
