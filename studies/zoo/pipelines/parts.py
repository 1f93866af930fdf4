"""What the tiny pipelines are made of: components, and the arguments they share."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from studies.zoo.base import MODELS, Kwargs, Part, Randn, randomise

SIDE = 32
"""Pixels; with autoencoders of one halving and patches of 2 x 2 latents this makes 64 tokens."""

SQUARE = {"height": SIDE, "width": SIDE}


def network(name: str, seed: int = 0, **changes: Any) -> Part:
    """The model of that class in the zoo, with another weights' seed or some of its configuration changed."""
    return lambda: replace(MODELS[name], config=MODELS[name].config | changes).build(seed)


def part(kind: str, **config: Any) -> Part:
    """An autoencoder or a scheduler as it comes: larger weights would saturate an autoencoder's pixels."""

    def make() -> Any:
        import diffusers

        made = getattr(diffusers, kind)(**config)
        return made.eval() if isinstance(made, nn.Module) else made

    return make


def random_weights(kind: Any, **config: Any) -> nn.Module:
    """A network beside the transformer, without zeros."""
    return randomise(kind(**config).eval(), seed=0)


def autoencoder(kind: str = "AutoencoderKL", **config: Any) -> Part:
    """`AutoencoderKL`, or one like it, of four latent channels that halves the sides once."""
    return part(
        kind,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 4),
        norm_num_groups=2,
        latent_channels=4,
        sample_size=SIDE,
        **config,
    )


def flow(**config: Any) -> Part:
    """The scheduler of most flow matching models."""
    return part("FlowMatchEulerDiscreteScheduler", **config)


def picture(randn: Randn) -> Tensor:
    """An image as the pipelines take it: one of three channels in 0 to 1."""
    return randn(1, 3, SIDE, SIDE).sigmoid()


def words(count: int, length: int = 8) -> Tensor:
    """Mask of a prompt of `count` tokens, padded to `length`."""
    return (torch.arange(length) < count).long()[None]


def prompts(randn: Randn) -> Kwargs:
    """A prompt and a negative one, of eight tokens."""
    return {"prompt_embeds": randn(1, 8, 32), "negative_prompt_embeds": randn(1, 8, 32)}


def masked_prompts(randn: Randn, dtype: torch.dtype = torch.long) -> Kwargs:
    """Two padded prompts, of 6 and of 3 tokens."""
    return prompts(randn) | {
        "prompt_attention_mask": words(6).to(dtype),
        "negative_prompt_attention_mask": words(3).to(dtype),
    }


def pooled_prompts(randn: Randn) -> Kwargs:
    """One vector for each prompt."""
    return {"pooled_prompt_embeds": randn(1, 32), "negative_pooled_prompt_embeds": randn(1, 32)}
