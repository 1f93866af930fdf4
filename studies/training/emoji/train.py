"""Train the demo model again: ``python -m studies.training.emoji.train --out DIR``.

Rectified flow, see `studies.training.flow`. Checkpoints are written every few minutes and the same command continues
from the last one. Needs the `train` extra and Debian's ``fonts-noto-color-emoji``.
"""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from torch import Tensor, nn

from hyca_calib.demo.emoji.pipeline import PATCH, EmojiPipeline, image_ids, pack
from hyca_calib.demo.emoji.text import WordEncoder
from studies.training.emoji import card
from studies.training.emoji.data import EmojiSet, load_emoji
from studies.training.flow import FlowRecipe, batch_loss
from studies.training.loop import main, train_loop


@dataclass(frozen=True)
class Recipe(FlowRecipe):
    """Everything that decides the weights, besides the data."""

    steps: int = 4_600
    image_size: int = 32
    width: int = 192
    double_blocks: int = 4
    single_blocks: int = 8


class Flow(nn.Module):
    """Text encoder and transformer as one trainable network."""

    def __init__(self, recipe: Recipe, vocabulary: list[str]) -> None:
        super().__init__()
        self.side = recipe.image_size // PATCH
        self.text_encoder = WordEncoder(vocabulary=vocabulary, dim=recipe.width)
        self.transformer = FluxTransformer2DModel(
            in_channels=3 * PATCH**2,
            num_layers=recipe.double_blocks,
            num_single_layers=recipe.single_blocks,
            attention_head_dim=64,
            num_attention_heads=recipe.width // 64,
            joint_attention_dim=recipe.width,
            pooled_projection_dim=recipe.width,
            axes_dims_rope=(16, 24, 24),
        )
        for linear in (self.transformer.proj_out, self.transformer.norm_out.linear):
            nn.init.zeros_(linear.weight)

    def forward(self, noisy: Tensor, t: Tensor, words: Tensor) -> Tensor:
        vectors, pooled = self.text_encoder(words)
        return self.transformer(  # type: ignore[no-any-return]
            hidden_states=noisy,
            timestep=t,
            encoder_hidden_states=vectors,
            pooled_projections=pooled,
            txt_ids=torch.zeros(words.shape[1], 3, device=noisy.device),
            img_ids=image_ids(self.side, noisy.device, torch.float32),
            return_dict=False,
        )[0]


def split_names(data: EmojiSet, holdout: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices to train on, and held-out names every word of which occurs in another name."""
    order = list(range(len(data.names)))
    random.Random(seed).shuffle(order)
    count: dict[str, int] = {}
    for name in data.names:
        for word in set(name.split()):
            count[word] = count.get(word, 0) + 1
    held: list[int] = []
    for i in order:
        words = set(data.names[i].split())
        if len(held) < holdout * len(order) and len(words) > 1 and all(count[w] > 2 for w in words):
            held.append(i)
            for word in words:
                count[word] -= 1
    return sorted(set(order) - set(held)), sorted(held)


def train(recipe: Recipe, out: Path, device: str, compiled: bool) -> None:
    """Train until `recipe.steps`, then write the pipeline and its card to ``out/pipeline``."""
    torch.manual_seed(recipe.seed)
    data = load_emoji(recipe.image_size)
    kept, held = split_names(data, recipe.holdout, recipe.seed)
    vocabulary = sorted({word for i in kept for word in data.names[i].split()})
    images = pack(torch.from_numpy(data.images[kept])).to(device)
    model = Flow(recipe, vocabulary)
    words = model.text_encoder.tokenize([data.names[i] for i in kept]).to(device)
    facts: dict[str, Any] = {"pictures": len(kept)}
    facts |= {"trained_names": [data.names[i] for i in kept], "held_out_names": [data.names[i] for i in held]}

    def pipeline_of(half: Flow) -> EmojiPipeline:
        scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
        return EmojiPipeline(half.transformer, half.text_encoder, scheduler, recipe.image_size)

    train_loop(model, batch_loss(images, words, recipe), recipe, out, device, compiled, pipeline_of, facts)
    card.write(out / "pipeline")


if __name__ == "__main__":
    main(str(__doc__), Recipe(), train)
