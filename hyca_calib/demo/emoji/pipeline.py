"""A text-to-image `DiffusionPipeline` around diffusers' own FLUX transformer, in pixel space.

There is no autoencoder: a latent *is* the picture, cut into ``patch x patch`` squares
(pixel-unshuffle), so ``output_type="latent"`` returns the tokens the transformer works on.
"""

import math
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel, ImagePipelineOutput
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from hyca_calib.demo.emoji.text import WordEncoder
from hyca_calib.demo.sampling import Callback, FlowPipeline, Generators, whole_units

PATCH = 4


class EmojiPipeline(FlowPipeline):
    """Draws an emoji for a prompt by integrating a rectified flow from noise, called like `diffusers.FluxPipeline`."""

    model_cpu_offload_seq = "text_encoder->transformer"

    def __init__(
        self,
        transformer: FluxTransformer2DModel,
        text_encoder: WordEncoder,
        scheduler: FlowMatchEulerDiscreteScheduler,
        image_size: int = 32,
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, text_encoder=text_encoder, scheduler=scheduler)
        self.register_to_config(image_size=image_size)
        self.image_processor = VaeImageProcessor(vae_scale_factor=1)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        true_cfg_scale: float = 1.0,
        generator: Generators | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] = ("latents",),
    ) -> ImagePipelineOutput | tuple[Any]:
        """Sample one picture per prompt; arguments that are not listed: see `DemoPipeline`.

        Args:
            prompt: name of an emoji, or several.
            height, width: pixels, multiples of 4; default: the size it was trained at, the only one it draws well.
            true_cfg_scale: classifier-free guidance; 1 switches it off (one network call a step).
            latents: initial noise ``(B, tokens, channels)`` instead of a generator.

        Returns:
            Pictures as PIL, an array ``(B, H, W, 3)``, a tensor ``(B, 3, H, W)`` in [0, 1], or tokens.

        Raises:
            ValueError: empty prompt, a size that is no multiple of 4, unknown output type, fewer than one step.
        """
        prompts = self._prompts(prompt)
        self._check(output_type, num_inference_steps)
        rows = whole_units("height", height, self.config.image_size, PATCH)
        columns = whole_units("width", width, self.config.image_size, PATCH)
        latents = self._noise((len(prompts), rows * columns, self.transformer.config.in_channels), generator, latents)
        branches = {"cond": self._condition(prompts, rows, columns)}
        if true_cfg_scale > 1:
            branches["uncond"] = self._condition([""] * len(prompts), rows, columns)
        sigmas, dtype = np.linspace(1.0, 1.0 / num_inference_steps, num_inference_steps), self.transformer.dtype
        self.scheduler.set_timesteps(sigmas=sigmas, device=latents.device)
        latents = self._flowed(
            latents,
            branches,
            true_cfg_scale,
            callback_on_step_end,
            callback_on_step_end_tensor_inputs,
            lambda timesteps: timesteps.to(dtype) / 1000,
        )
        images = latents if output_type == "latent" else self.decode(latents, output_type, rows)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    @property
    def num_tokens(self) -> int:
        """Picture tokens the transformer sees at the size it was trained at."""
        return int((self.config.image_size // PATCH) ** 2)

    def decode(self, latents: Tensor, output_type: str, rows: int | None = None) -> Any:
        """Tokens ``(B, tokens, 3 * patch^2)`` to pictures; square ones unless the rows of tokens are given."""
        return self.image_processor.postprocess(unpack(latents, rows), output_type=output_type)

    def _condition(self, prompts: list[str], rows: int, columns: int) -> dict[str, Tensor]:
        words, pooled = self._encoded(prompts)
        return {
            "encoder_hidden_states": words,
            "pooled_projections": pooled,
            "txt_ids": words.new_zeros(words.shape[1], 3),
            "img_ids": image_ids(rows, words.device, words.dtype, columns),
        }


def pack(pixels: Tensor) -> Tensor:
    """Pictures ``(B, 3, H, W)`` to tokens ``(B, H/patch * W/patch, 3 * patch^2)``."""
    return pixel_unshuffle(pixels, PATCH).flatten(2).transpose(1, 2)


def unpack(tokens: Tensor, rows: int | None = None) -> Tensor:
    """Inverse of `pack`, for square pictures unless the rows of tokens are given."""
    rows = rows or math.isqrt(tokens.shape[1])
    grid = tokens.transpose(1, 2).reshape(len(tokens), -1, rows, tokens.shape[1] // rows)
    return pixel_shuffle(grid, PATCH)


def image_ids(rows: int, device: torch.device | str, dtype: torch.dtype, columns: int | None = None) -> Tensor:
    """FLUX position ids ``(rows * columns, 3)``: (0, row, column); as many columns as rows by default."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns or rows), indexing="ij")
    ids = torch.stack([torch.zeros_like(row), row, column], dim=-1)
    return ids.reshape(-1, 3).to(device, dtype)
