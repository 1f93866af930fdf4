"""A text-to-audio `DiffusionPipeline` around diffusers' own Stable Audio transformer and its sampler."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AudioPipelineOutput, EDMDPMSolverMultistepScheduler, StableAudioDiTModel
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import Tensor

from hyca_calib.demo.emoji.text import WordEncoder
from hyca_calib.demo.sampling import Callback, DemoPipeline, Generators
from studies.sound.codec import LappedCodec

WEIGHTS = Path("runs/sound-model/pipeline")
"""Where ``python -m studies.sound.train --out runs/sound-model`` puts them."""
HEAD = 64


def positions(frames: int) -> tuple[Tensor, Tensor]:
    """Rotary embedding of so many frames and the global token before them."""
    return get_1d_rotary_pos_embed(  # type: ignore[no-any-return]
        HEAD // 2, frames + 1, use_real=True, repeat_interleave_real=False
    )


class SoundPipeline(DemoPipeline):
    """Plays a tune by the second-order multistep DPM-Solver++, called like `diffusers.StableAudioPipeline`.

    Like it, it runs both guidance branches in one network call of twice the batch.
    """

    def __init__(
        self,
        transformer: StableAudioDiTModel,
        text_encoder: WordEncoder,
        vae: LappedCodec,
        scheduler: EDMDPMSolverMultistepScheduler,
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, text_encoder=text_encoder, vae=vae, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        num_inference_steps: int = 50,
        guidance_scale: float = 3.0,
        generator: Generators | None = None,
        latents: Tensor | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] = ("latents",),
    ) -> AudioPipelineOutput | tuple[Any]:
        """Sample one tune per prompt; arguments that are not listed: see `DemoPipeline`.

        Args:
            prompt: an instrument and up to three notes, such as "bell c4 g4", or several such texts.
            guidance_scale: classifier-free guidance; 1 switches it off and halves the network's batch.
            latents: initial noise ``(B, bands, frames)`` of variance 1 instead of a generator.

        Returns:
            Waveforms ``(B, 8192)`` of 8 kHz, as an array or a tensor, or latents.

        Raises:
            ValueError: no prompt, unknown output type, fewer than one step.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise ValueError("prompt: expected a string or a non-empty list of strings, got an empty list")
        self._check(output_type, num_inference_steps)
        network, guided = self.transformer, guidance_scale > 1
        shape = (len(prompts), network.config.in_channels, network.config.sample_size)
        latents = self._noise(shape, generator, latents)
        asked = prompts + [""] * len(prompts) * guided
        words, pooled = self.text_encoder(self.text_encoder.tokenize(asked).to(latents.device))
        self.scheduler.set_timesteps(num_inference_steps, device=latents.device)
        rotary = tuple(part.to(latents.device) for part in positions(latents.shape[-1]))

        def velocity(latents: Tensor, step: int, timestep: Tensor) -> Tensor:
            del step
            scaled = self.scheduler.scale_model_input(latents, timestep)
            found: Tensor = network(
                torch.cat([scaled, scaled] if guided else [scaled]).to(network.dtype),
                timestep.unsqueeze(0),
                encoder_hidden_states=words.to(network.dtype),
                global_hidden_states=pooled.unsqueeze(1).to(network.dtype),
                rotary_embedding=rotary,
                return_dict=False,
            )[0].float()
            if not guided:
                return found
            wanted, free = found.chunk(2)
            return free + guidance_scale * (wanted - free)

        latents = latents * self.scheduler.init_noise_sigma
        latents = self._denoised(latents, velocity, callback_on_step_end, callback_on_step_end_tensor_inputs)
        sounds = latents if output_type == "latent" else self.vae.decode(latents)
        audios = sounds if output_type in ("latent", "pt") else sounds.cpu().numpy()
        self.maybe_free_model_hooks()
        return AudioPipelineOutput(audios=audios) if return_dict else (audios,)


def sound() -> SoundPipeline:
    """The trained model: ``--model studies.sound.pipeline:sound``.

    Raises:
        FileNotFoundError: it is not trained yet.
    """
    if not WEIGHTS.exists():
        how = f"python -m studies.sound.train --out {WEIGHTS.parent}"
        raise FileNotFoundError(f"no weights in {WEIGHTS}; train them first, in an hour or two of one core: {how}")
    return SoundPipeline.from_weights(WEIGHTS)
