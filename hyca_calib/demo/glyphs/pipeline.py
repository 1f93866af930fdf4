"""A class-conditional `DiffusionPipeline` around diffusers' own DiT, in pixel space.

Like `diffusers.DiTPipeline` it runs both guidance branches in one network call of twice the batch;
there is no autoencoder, a latent *is* the picture.
"""

import string
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel, ImagePipelineOutput
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor

from hyca_calib.demo.sampling import Callback, DemoPipeline, Generators

CLASSES = string.ascii_uppercase + string.digits


class GlyphPipeline(DemoPipeline):
    """Draws a character of a class, in a font and colours it makes up.

    Args:
        transformer: a DiT with one more class than `classes`: the last means "any".
        scheduler: DDIM, or any sampler of a diffusion process with the same noise levels.
    """

    model_cpu_offload_seq = "transformer"

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
        generator: Generators | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] = ("latents",),
    ) -> ImagePipelineOutput | tuple[Any]:
        """Sample one picture per class; arguments that are not listed: see `DemoPipeline`.

        Args:
            class_labels: characters or their numbers, one or several.
            guidance_scale: classifier-free guidance; 1 switches it off and halves the network's batch.
            latents: initial noise ``(B, 3, H, W)`` of variance 1 instead of a generator.

        Returns:
            Pictures as PIL, an array ``(B, H, W, 3)``, a tensor ``(B, 3, H, W)`` in [0, 1], or latents.

        Raises:
            ValueError: unknown class, no class, unknown output type, fewer than one step.
        """
        labels = self._labels([class_labels] if isinstance(class_labels, int | str) else class_labels)
        self._check(output_type, num_inference_steps)
        config = self.transformer.config
        shape = (len(labels), config.in_channels, config.sample_size, config.sample_size)
        latents = self._noise(shape, generator, latents)
        self.scheduler.set_timesteps(num_inference_steps, device=latents.device)
        guided, asked = guidance_scale > 1, labels.to(latents.device)
        if guided:
            asked = torch.cat([asked, torch.full_like(asked, len(self.config.classes))])

        def velocity(latents: Tensor, step: int, timestep: Tensor) -> Tensor:
            del step
            scaled = self.scheduler.scale_model_input(latents, timestep)
            found: Tensor = self.transformer(
                torch.cat([scaled, scaled] if guided else [scaled]).to(self.transformer.dtype),
                timestep=timestep.expand(len(asked)),
                class_labels=asked,
                return_dict=False,
            )[0].float()
            if not guided:
                return found
            wanted, free = found.chunk(2)
            return free + guidance_scale * (wanted - free)

        latents = latents * self.scheduler.init_noise_sigma  # 1 for DDIM
        latents = self._denoised(latents, velocity, callback_on_step_end, callback_on_step_end_tensor_inputs)
        images = latents
        if output_type != "latent":
            images = self.image_processor.postprocess(latents, output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _labels(self, wanted: Sequence[int | str]) -> Tensor:
        classes = self.config.classes
        found = [classes.find(label) if isinstance(label, str) and len(label) == 1 else label for label in wanted]
        if not found or any(not isinstance(i, int) or not 0 <= i < len(classes) for i in found):
            raise ValueError(f"class_labels: expected characters of {classes!r} or their numbers, got {list(wanted)!r}")
        return torch.tensor(found)
