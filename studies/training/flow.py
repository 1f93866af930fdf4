"""The rectified flow from words (Liu et al. 2022) that the emoji and the motion model were trained as."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hyca_calib.demo.emoji.text import PAD
from studies.training.loop import Loop


@dataclass(frozen=True)
class FlowRecipe(Loop):
    """What both models' recipes have.

    Attributes:
        drop_prompt: share of the samples that are trained without their words.
        holdout: share of the captions that are not trained on.
    """

    drop_prompt: float = 0.1
    holdout: float = 0.05


def batch_loss(
    clean: Tensor, words: Tensor, recipe: FlowRecipe, shift: float = 1.0
) -> Callable[[Callable[..., Tensor], torch.Generator], Tensor]:
    """The loss of a random batch of samples ``(sample, ...)`` and their words ``(sample, word)``; see `flow_loss`."""

    def loss_of(model: Callable[..., Tensor], generator: torch.Generator) -> Tensor:
        pick = torch.randint(len(clean), (recipe.batch,), generator=generator).to(clean.device)
        dropped = torch.rand(recipe.batch, 1, generator=generator).to(clean.device) < recipe.drop_prompt
        return flow_loss(model, clean[pick], words[pick].masked_fill(dropped, PAD), generator, shift)

    return loss_of


def flow_loss(
    model: Callable[..., Tensor], clean: Tensor, words: Tensor, generator: torch.Generator, shift: float = 1.0
) -> Tensor:
    """Mean squared velocity error at a logit-normal time for each sample (Esser et al. 2024).

    With ``x_t = (1 - t) x + t noise`` the network predicts ``noise - x`` from ``x_t``.

    Args:
        model: of ``(x_t, t, words)``.
        clean: samples ``(B, ...)``.
        shift: moves times towards noise, ``shift t / (1 + (shift - 1) t)``, as the scheduler of that name.
    """
    t = torch.sigmoid(torch.randn(len(clean), generator=generator)).to(clean.device)
    t = shift * t / (1 + (shift - 1) * t)
    noise = torch.randn(clean.shape, generator=generator).to(clean.device)
    noisy = torch.lerp(clean, noise, t.view(-1, *[1] * (clean.ndim - 1)))
    with torch.autocast(clean.device.type, torch.bfloat16):
        velocity = model(noisy, t, words)
    error: Tensor = velocity.float() - (noise - clean)
    return error.square().mean()
