"""Train the sound model again: ``python -m studies.sound.train --out DIR``.

Denoising by velocity, ``v = cos noise - sin x`` at ``cos x + sin noise``, the tangent of the angle being the noise
level (Karras et al. 2022 with data of variance 1; Salimans & Ho 2022). The same command continues from its last
checkpoint.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import EDMDPMSolverMultistepScheduler, StableAudioDiTModel
from torch import Tensor, nn

from hyca_calib.demo.emoji.text import PAD, WordEncoder
from studies.sound import card
from studies.sound.codec import LappedCodec
from studies.sound.notes import LENGTH, drawn_tunes, played, vocabulary
from studies.sound.pipeline import HEAD, SoundPipeline, positions
from studies.training.loop import Loop, main, train_loop

SIGMA_MIN, SIGMA_MAX = 0.02, 80.0
TIME_SCALE = 0.25
"""The network is told a quarter of the natural logarithm of the noise level (Karras et al. 2022)."""


@dataclass(frozen=True)
class Recipe(Loop):
    """Everything that decides the weights."""

    steps: int = 3_000
    batch: int = 16
    tunes: int = 6_000
    drop_prompt: float = 0.1
    width: int = 192
    blocks: int = 8
    hop: int = 64
    mean_log_sigma: float = -0.4
    std_log_sigma: float = 1.6


class Denoiser(nn.Module):
    """Text encoder and transformer as one trainable network."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        frames, width = LENGTH // recipe.hop, recipe.width
        self.text_encoder = WordEncoder(vocabulary=vocabulary(), dim=width, max_words=4)
        self.transformer = StableAudioDiTModel(
            sample_size=frames,
            in_channels=recipe.hop,
            out_channels=recipe.hop,
            num_layers=recipe.blocks,
            attention_head_dim=HEAD,
            num_attention_heads=width // HEAD,
            num_key_value_attention_heads=width // HEAD,
            cross_attention_dim=width,
            global_states_input_dim=width,
            cross_attention_input_dim=width,
        )
        nn.init.zeros_(self.transformer.proj_out.weight)
        self.rotary = positions(frames)

    def forward(self, noisy: Tensor, time: Tensor, words: Tensor) -> Tensor:
        vectors, pooled = self.text_encoder(words)
        return self.transformer(  # type: ignore[no-any-return]
            noisy,
            time,
            encoder_hidden_states=vectors,
            global_hidden_states=pooled.unsqueeze(1),
            rotary_embedding=tuple(part.to(noisy.device) for part in self.rotary),
            return_dict=False,
        )[0]


def batch_loss(
    clean: Tensor, words: Tensor, recipe: Recipe
) -> Callable[[Callable[..., Tensor], torch.Generator], Tensor]:
    """The loss of a random batch of latents ``(tune, band, frame)`` and their words ``(tune, word)``."""

    def loss_of(model: Callable[..., Tensor], generator: torch.Generator) -> Tensor:
        pick = torch.randint(len(clean), (recipe.batch,), generator=generator).to(clean.device)
        dropped = torch.rand(recipe.batch, 1, generator=generator).to(clean.device) < recipe.drop_prompt
        log_sigma = recipe.mean_log_sigma + recipe.std_log_sigma * torch.randn(recipe.batch, generator=generator)
        angle = log_sigma.exp().atan().view(-1, 1, 1).to(clean.device)
        noise = torch.randn(clean[pick].shape, generator=generator).to(clean.device)
        noisy = angle.cos() * clean[pick] + angle.sin() * noise
        with torch.autocast(clean.device.type, torch.bfloat16):
            found = model(noisy, TIME_SCALE * log_sigma.to(clean.device), words[pick].masked_fill(dropped, PAD))
        error: Tensor = found.float() - (angle.cos() * noise - angle.sin() * clean[pick])
        return error.square().mean()

    return loss_of


def pipeline_of(model: Denoiser, codec: LappedCodec) -> SoundPipeline:
    """The pipeline around a network, with the noise levels that it is trained for."""
    scheduler = EDMDPMSolverMultistepScheduler(
        sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX, sigma_data=1.0, prediction_type="v_prediction"
    )
    return SoundPipeline(model.transformer, model.text_encoder, codec, scheduler)


def train(recipe: Recipe, out: Path, device: str, compiled: bool) -> None:
    """Train until `recipe.steps`, then write the pipeline and its card to ``out/pipeline``."""
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    tunes = drawn_tunes(recipe.tunes, recipe.seed)
    sounds = torch.stack([played(tune, generator) for tune in tunes])
    codec = LappedCodec(recipe.hop)
    codec.fit(sounds)
    model = Denoiser(recipe)
    words = model.text_encoder.tokenize([tune.caption for tune in tunes])
    loss_of = batch_loss(codec.encode(sounds).to(device), words.to(device), recipe)
    facts = {"tunes": len(tunes)}
    train_loop(model, loss_of, recipe, out, device, compiled, lambda half: pipeline_of(half, codec), facts)
    card.write(out / "pipeline")


if __name__ == "__main__":
    main(str(__doc__), Recipe(), train)
