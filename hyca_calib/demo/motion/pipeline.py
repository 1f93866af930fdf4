"""A text-to-video `DiffusionPipeline` around diffusers' own Wan transformer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from diffusers.video_processor import VideoProcessor
from PIL import Image
from torch import Tensor

from hyca_calib.demo.emoji.text import WordEncoder
from hyca_calib.demo.motion.codec import BlockCodec

__all__ = ["MotionPipeline", "MotionPipelineOutput"]

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass
class MotionPipelineOutput(BaseOutput):
    """`frames`: lists of PIL pictures, an array ``(B, F, H, W, 3)``, a tensor ``(B, F, 3, H, W)``, or latents."""

    frames: list[list[Image.Image]] | np.ndarray | Tensor


class MotionPipeline(DiffusionPipeline):
    """Shows an emoji in motion by integrating a rectified flow from noise.

    The call follows `diffusers.WanPipeline`: two network calls a step while ``guidance_scale > 1``, each inside
    ``transformer.cache_context``, which is told the step as there.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents"]

    def __init__(
        self,
        transformer: WanTransformer3DModel,
        text_encoder: WordEncoder,
        vae: BlockCodec,
        scheduler: FlowMatchEulerDiscreteScheduler,
        num_frames: int = 16,
        frame_size: int = 32,
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, text_encoder=text_encoder, vae=vae, scheduler=scheduler)
        self.register_to_config(num_frames=num_frames, frame_size=frame_size)
        self.video_processor = VideoProcessor(vae_scale_factor=vae.config["side"])

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 3.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] = ("latents",),
    ) -> MotionPipelineOutput | tuple[Any]:
        """Sample one clip per prompt.

        Args:
            prompt: caption of a clip, or several.
            num_frames, height, width: multiples of 4; default: what it was trained at, the only size it knows well.
            num_inference_steps: Euler steps.
            guidance_scale: classifier-free guidance; 1 switches it off (one network call a step).
            generator: source of the initial noise; a list gives one per prompt.
            latents: initial noise ``(B, channels, frames / 4, height / 4, width / 4)`` instead of a generator.
            output_type: "pil", "np", "pt" or "latent".
            return_dict: return a `MotionPipelineOutput` instead of a tuple.
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
        size = self._size(num_frames, height, width)

        device, dtype = self._execution_device, self.transformer.dtype
        if latents is None:
            shape = (len(prompts), self.transformer.config.in_channels, *size)
            latents = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        latents = latents.to(device, torch.float32)
        branches = {"cond": self._words(prompts)}
        if guidance_scale > 1:
            branches["uncond"] = self._words([""] * len(prompts))

        self.scheduler.set_timesteps(num_inference_steps, device=device)
        self.scheduler.set_begin_index(0)
        with self.progress_bar(total=num_inference_steps) as bar:
            for step, timestep in enumerate(self.scheduler.timesteps):
                velocity = {}
                moment = {
                    "step_index": step,
                    "sigma": float(self.scheduler.sigmas[step]),
                    "num_inference_steps": len(self.scheduler.timesteps),
                }
                for name, words in branches.items():
                    with self.transformer.cache_context(name, **moment):
                        velocity[name] = self.transformer(
                            hidden_states=latents.to(dtype),
                            timestep=timestep.expand(len(prompts)),
                            encoder_hidden_states=words,
                            return_dict=False,
                        )[0]
                guided = velocity["cond"]
                if guidance_scale > 1:
                    guided = velocity["uncond"] + guidance_scale * (guided - velocity["uncond"])
                latents = self.scheduler.step(guided.float(), timestep, latents, return_dict=False)[0]
                if callback_on_step_end is not None:
                    local = {"latents": latents}
                    tensors = {name: local[name] for name in callback_on_step_end_tensor_inputs}
                    latents = (callback_on_step_end(self, step, timestep, tensors) or {}).get("latents", latents)
                bar.update()

        frames = latents if output_type == "latent" else self.decode(latents, output_type)
        self.maybe_free_model_hooks()
        return MotionPipelineOutput(frames=frames) if return_dict else (frames,)

    def decode(self, latents: Tensor, output_type: str) -> Any:
        """Latents to frames."""
        video = self.vae.decode(latents.to(self.vae.dtype))
        return self.video_processor.postprocess_video(video, output_type=output_type)

    def _size(self, num_frames: int | None, height: int | None, width: int | None) -> tuple[int, int, int]:
        """Of the latents."""
        usual = self.config
        wanted = {
            "num_frames": (num_frames or usual.num_frames, self.vae.config["frames"]),
            "height": (height or usual.frame_size, self.vae.config["side"]),
            "width": (width or usual.frame_size, self.vae.config["side"]),
        }
        for name, (value, unit) in wanted.items():
            if value < unit or value % unit:
                raise ValueError(f"{name}: expected a positive multiple of {unit}, got {value}")
        frames, rows, columns = (value // unit for value, unit in wanted.values())
        return frames, rows, columns

    def _words(self, prompts: list[str]) -> Tensor:
        vectors, _ = self.text_encoder(self.text_encoder.tokenize(prompts).to(self._execution_device))
        return vectors.to(self.transformer.dtype)  # type: ignore[no-any-return]
