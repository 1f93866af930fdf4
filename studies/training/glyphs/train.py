"""Train the class-conditional demo model again: ``python -m studies.training.glyphs.train --out DIR``.

Denoising diffusion with the cosine schedule (Nichol & Dhariwal 2021), the network predicts the
velocity ``v = alpha noise - sigma x`` (Salimans & Ho 2022). Needs some of Debian's ``fonts-*``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel
from torch import Tensor, nn

from hyca_calib.demo.glyphs.pipeline import CLASSES, GlyphPipeline
from studies.training.glyphs import card
from studies.training.glyphs.data import colour, licences, load_glyphs
from studies.training.loop import Loop, main, train_loop


@dataclass(frozen=True)
class Recipe(Loop):
    """Everything that decides the weights, besides the fonts."""

    steps: int = 3_000
    drop_class: float = 0.1
    image_size: int = 32
    patch: int = 4
    heads: int = 3
    blocks: int = 9


def build_transformer(recipe: Recipe) -> DiTTransformer2DModel:
    """A DiT that starts as the identity (adaLN-zero)."""
    transformer = DiTTransformer2DModel(
        num_attention_heads=recipe.heads,
        attention_head_dim=64,
        in_channels=3,
        num_layers=recipe.blocks,
        sample_size=recipe.image_size,
        patch_size=recipe.patch,
        num_embeds_ada_norm=len(CLASSES),
    )
    for linear in (transformer.proj_out_1, transformer.proj_out_2, *_modulations(transformer)):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    return transformer


def _modulations(transformer: DiTTransformer2DModel) -> list[nn.Linear]:
    return [block.norm1.linear for block in transformer.transformer_blocks]


def build_scheduler() -> DDIMScheduler:
    """The sampler, whose noise levels are those of the training."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
    )


def train(recipe: Recipe, out: Path, device: str, compiled: bool) -> None:
    """Train until `recipe.steps`, then write the pipeline and its card to ``out/pipeline``."""
    torch.manual_seed(recipe.seed)
    coverage, fonts = load_glyphs(recipe.image_size)
    print(f"{len(fonts)} fonts", flush=True)
    glyphs, scheduler = torch.from_numpy(coverage), build_scheduler()
    alphas = scheduler.alphas_cumprod.sqrt()

    def loss_of(model: Callable[..., Any], generator: torch.Generator) -> Tensor:
        font = torch.randint(len(glyphs), (recipe.batch,), generator=generator)
        label = torch.randint(len(CLASSES), (recipe.batch,), generator=generator)
        clean = colour(glyphs[font, label], generator).to(device)
        dropped = torch.rand(recipe.batch, generator=generator) < recipe.drop_class
        time = torch.randint(len(alphas), (recipe.batch,), generator=generator)
        alpha = alphas[time].view(-1, 1, 1, 1).to(device)
        sigma = (1 - alpha.square()).sqrt()
        noise = torch.randn(clean.shape, generator=generator).to(device)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            velocity = model(
                alpha * clean + sigma * noise,
                timestep=time.to(device),
                class_labels=label.masked_fill(dropped, len(CLASSES)).to(device),
                return_dict=False,
            )[0]
        error: Tensor = velocity.float() - (alpha * noise - sigma * clean)
        return error.square().mean()

    # A DiT in training mode drops the label anew in every block; dropping it here drops it in all of them.
    transformer = build_transformer(recipe).eval()
    facts = {"fonts": len(fonts), "pictures": len(fonts) * len(CLASSES), "licences": licences(fonts)}

    def pipeline_of(half: DiTTransformer2DModel) -> GlyphPipeline:
        return GlyphPipeline(half, scheduler, CLASSES)

    train_loop(transformer, loss_of, recipe, out, device, compiled, pipeline_of, facts)
    card.write(out / "pipeline")


if __name__ == "__main__":
    main(str(__doc__), Recipe(), train)
