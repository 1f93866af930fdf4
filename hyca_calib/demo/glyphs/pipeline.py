"""A class-conditional `DiffusionPipeline` around diffusers' own DiT, in pixel space.

Like `diffusers.DiTPipeline` it runs both guidance branches in one network call of twice the batch;
there is no autoencoder, a latent *is* the picture.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, DiTTransformer2DModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

CLASSES = string.ascii_uppercase + string.digits
OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass
class GlyphPipelineOutput(BaseOutput):
    """`images`: PIL pictures, an array ``(B, H, W, 3)``, a tensor ``(B, 3, H, W)`` in [0, 1], or latents."""

    images: list[Image.Image] | np.ndarray | Tensor


class GlyphPipeline(DiffusionPipeline):
    """Draws a character of a class, in a font and colours it makes up.

    Args:
        transformer: a DiT with one more class than `classes`: the last means "any".
        scheduler: DDIM, or any sampler of a diffusion process with the same noise levels.
        classes: the characters, in the order of the labels.
    """

    model_cpu_offload_seq = "transformer"
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents"]

    def __init__(self, transformer: DiTTransformer2DModel, scheduler: DDIMScheduler, classes: str = CLASSES) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)
        self.register_to_config(classes=classes)
        self.image_processor = VaeImageProcessor(vae_scale_factor=1)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | str | Sequence[int | str],
        num_inference_steps: int = 50,
        guidance_scale: float = 2.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] = ("latents",),
    ) -> GlyphPipelineOutput | tuple[Any]:
        """Sample one picture per class.

        Args:
            class_labels: characters or their numbers, one or several.
            num_inference_steps: steps of the sampler.
            guidance_scale: classifier-free guidance; 1 switches it off and halves the network's batch.
            generator: source of the initial noise; a list gives one per picture.
            latents: initial noise ``(B, 3, H, W)`` of variance 1 instead of a generator.
            output_type: "pil", "np", "pt" or "latent".
            return_dict: return a `GlyphPipelineOutput` instead of a tuple.
            callback_on_step_end: called as ``(pipe, step, timestep, {"latents": ...})`` after each step.
            callback_on_step_end_tensor_inputs: which tensors that callback receives.

        Raises:
            ValueError: unknown class, no class, unknown output type, fewer than one step.
        """
        labels = self._labels([class_labels] if isinstance(class_labels, int | str) else class_labels)
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type: expected one of {OUTPUT_TYPES}, got {output_type!r}")
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps: expected at least 1, got {num_inference_steps}")

        device, config = self._execution_device, self.transformer.config
        if latents is None:
            shape = (len(labels), config.in_channels, config.sample_size, config.sample_size)
            latents = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        latents = latents.to(device, torch.float32) * self.scheduler.init_noise_sigma  # 1 for DDIM
        guided = guidance_scale > 1
        asked = labels.to(device)
        if guided:
            asked = torch.cat([asked, torch.full_like(asked, len(self.config.classes))])

        with self.progress_bar(total=len(self.scheduler.timesteps)) as bar:
            for step, timestep in enumerate(self.scheduler.timesteps):
                scaled = self.scheduler.scale_model_input(latents, timestep)
                velocity = self.transformer(
                    torch.cat([scaled, scaled] if guided else [scaled]).to(self.transformer.dtype),
                    timestep=timestep.expand(len(asked)),
                    class_labels=asked,
                    return_dict=False,
                )[0].float()
                if guided:
                    wanted, free = velocity.chunk(2)
                    velocity = free + guidance_scale * (wanted - free)
                latents = self.scheduler.step(velocity, timestep, latents, return_dict=False)[0]
                if callback_on_step_end is not None:
                    local = {"latents": latents}
                    tensors = {name: local[name] for name in callback_on_step_end_tensor_inputs}
                    latents = (callback_on_step_end(self, step, timestep, tensors) or {}).get("latents", latents)
                bar.update()

        images = latents
        if output_type != "latent":
            images = self.image_processor.postprocess(latents, output_type=output_type)
        self.maybe_free_model_hooks()
        return GlyphPipelineOutput(images=images) if return_dict else (images,)

    def _labels(self, wanted: Sequence[int | str]) -> Tensor:
        classes = self.config.classes
        found = [classes.find(label) if isinstance(label, str) and len(label) == 1 else label for label in wanted]
        if not found or any(not isinstance(i, int) or not 0 <= i < len(classes) for i in found):
            raise ValueError(f"class_labels: expected characters of {classes!r} or their numbers, got {list(wanted)!r}")
        return torch.tensor(found)
