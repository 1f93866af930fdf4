"""A text-to-image `DiffusionPipeline` around diffusers' own FLUX transformer, in pixel space.

There is no autoencoder: a latent *is* the picture, cut into ``patch x patch`` squares
(pixel-unshuffle), so ``output_type="latent"`` returns the tokens the transformer works on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from hyca_calib.demo.emoji.text import WordEncoder

PATCH = 4
OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass
class EmojiPipelineOutput(BaseOutput):
    """`images`: PIL pictures, an array ``(B, H, W, 3)``, a tensor ``(B, 3, H, W)`` in [0, 1], or tokens."""

    images: list[Image.Image] | np.ndarray | Tensor


class EmojiPipeline(DiffusionPipeline):
    """Draws an emoji for a prompt by integrating a rectified flow from noise.

    The call follows `diffusers.FluxPipeline`: one network call a step, two with
    ``true_cfg_scale > 1``, each inside ``transformer.cache_context``, which is
    told the step as `diffusers.WanPipeline` does.
    """

    model_cpu_offload_seq = "text_encoder->transformer"
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents"]

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
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] = ("latents",),
    ) -> EmojiPipelineOutput | tuple[Any]:
        """Sample one picture per prompt.

        Args:
            prompt: name of an emoji, or several.
            height, width: pixels, multiples of 4; default: the size it was trained at, the only one it draws well.
            num_inference_steps: Euler steps.
            true_cfg_scale: classifier-free guidance; 1 switches it off (one network call a step).
            generator: source of the initial noise; a list gives one per prompt.
            latents: initial noise ``(B, tokens, channels)`` instead of a generator.
            output_type: "pil", "np", "pt" or "latent".
            return_dict: return an `EmojiPipelineOutput` instead of a tuple.
            callback_on_step_end: called as ``(pipe, step, timestep, {"latents": ...})`` after each step.
            callback_on_step_end_tensor_inputs: which tensors that callback receives.

        Raises:
            ValueError: empty prompt, a size that is no multiple of 4, unknown output type, fewer than one step.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise ValueError("prompt: expected a string or a non-empty list of strings, got an empty list")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type: expected one of {OUTPUT_TYPES}, got {output_type!r}")
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps: expected at least 1, got {num_inference_steps}")
        rows, columns = self._grid(height, width)

        device, dtype = self._execution_device, self.transformer.dtype
        if latents is None:
            latents = randn_tensor(
                (len(prompts), rows * columns, self.transformer.config.in_channels),
                generator=generator,
                device=device,
                dtype=torch.float32,
            )
        latents = latents.to(device, torch.float32)
        branches = {"cond": self._condition(prompts)}
        if true_cfg_scale > 1:
            branches["uncond"] = self._condition([""] * len(prompts))
        img_ids = image_ids(rows, device, dtype, columns)

        self.scheduler.set_timesteps(
            sigmas=np.linspace(1.0, 1.0 / num_inference_steps, num_inference_steps), device=device
        )
        self.scheduler.set_begin_index(0)
        with self.progress_bar(total=num_inference_steps) as bar:
            for step, timestep in enumerate(self.scheduler.timesteps):
                velocity = {}
                moment = {
                    "step_index": step,
                    "sigma": float(self.scheduler.sigmas[step]),
                    "num_inference_steps": len(self.scheduler.timesteps),
                }
                for name, (words, pooled) in branches.items():
                    with self.transformer.cache_context(name, **moment):
                        velocity[name] = self.transformer(
                            hidden_states=latents.to(dtype),
                            timestep=timestep.expand(len(prompts)).to(dtype) / 1000,
                            encoder_hidden_states=words,
                            pooled_projections=pooled,
                            txt_ids=words.new_zeros(words.shape[1], 3),
                            img_ids=img_ids,
                            return_dict=False,
                        )[0]
                guided = velocity["cond"]
                if true_cfg_scale > 1:
                    guided = velocity["uncond"] + true_cfg_scale * (guided - velocity["uncond"])
                latents = self.scheduler.step(guided.float(), timestep, latents, return_dict=False)[0]
                if callback_on_step_end is not None:
                    local = {"latents": latents}
                    tensors = {name: local[name] for name in callback_on_step_end_tensor_inputs}
                    latents = (callback_on_step_end(self, step, timestep, tensors) or {}).get("latents", latents)
                bar.update()

        images = latents if output_type == "latent" else self.decode(latents, output_type, rows)
        self.maybe_free_model_hooks()
        return EmojiPipelineOutput(images=images) if return_dict else (images,)

    @property
    def num_tokens(self) -> int:
        """Picture tokens the transformer sees at the size it was trained at."""
        return int((self.config.image_size // PATCH) ** 2)

    def decode(self, latents: Tensor, output_type: str, rows: int | None = None) -> Any:
        """Tokens ``(B, tokens, 3 * patch^2)`` to pictures; square ones unless the rows of tokens are given."""
        return self.image_processor.postprocess(unpack(latents, rows), output_type=output_type)

    def _grid(self, height: int | None, width: int | None) -> tuple[int, int]:
        """Rows and columns of tokens."""
        sizes = {"height": height, "width": width}
        pixels = {name: self.config.image_size if size is None else size for name, size in sizes.items()}
        for name, size in pixels.items():
            if size < PATCH or size % PATCH:
                raise ValueError(f"{name}: expected a positive multiple of {PATCH}, got {size}")
        return pixels["height"] // PATCH, pixels["width"] // PATCH

    def _condition(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        words, pooled = self.text_encoder(self.text_encoder.tokenize(prompts).to(self._execution_device))
        return words.to(self.transformer.dtype), pooled.to(self.transformer.dtype)


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
