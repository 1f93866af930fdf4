"""A text-to-video `DiffusionPipeline` around diffusers' own Wan transformer."""

from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_output import WanPipelineOutput
from torch import Tensor

from hyca_calib.demo.clips import ClipPipeline
from hyca_calib.demo.emoji.text import WordEncoder
from hyca_calib.demo.motion.codec import BlockCodec
from hyca_calib.demo.sampling import Callback, Generators, whole_units


class MotionPipeline(ClipPipeline):
    """Shows an emoji in motion by integrating a rectified flow from noise, called like `diffusers.WanPipeline`."""

    def __init__(
        self,
        transformer: WanTransformer3DModel,
        text_encoder: WordEncoder,
        vae: BlockCodec,
        scheduler: FlowMatchEulerDiscreteScheduler,
        num_frames: int = 16,
        frame_size: int = 32,
    ) -> None:
        modules = {"transformer": transformer, "text_encoder": text_encoder, "scheduler": scheduler}
        super().__init__(num_frames, frame_size, vae, **modules)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 3.0,
        generator: Generators | None = None,
        latents: Tensor | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] = ("latents",),
    ) -> WanPipelineOutput | tuple[Any]:
        """Sample one clip per prompt; arguments that are not listed: see `DemoPipeline`.

        Args:
            prompt: caption of a clip, or several.
            num_frames, height, width: multiples of 4; default: what it was trained at, the only size it knows well.
            guidance_scale: classifier-free guidance; 1 switches it off (one network call a step).
            latents: initial noise ``(B, channels, frames / 4, height / 4, width / 4)`` instead of a generator.

        Returns:
            Frames as lists of PIL pictures, an array ``(B, F, H, W, 3)``, a tensor ``(B, F, 3, H, W)``, or latents.

        Raises:
            ValueError: empty prompt, a size that is no multiple of 4, unknown output type, fewer than one step.
        """
        prompts = self._prompts(prompt)
        self._check(output_type, num_inference_steps)
        size, block = self.config, self.vae.config
        shape = (
            whole_units("num_frames", num_frames, size.num_frames, block["frames"]),
            whole_units("height", height, size.frame_size, block["side"]),
            whole_units("width", width, size.frame_size, block["side"]),
        )
        latents = self._noise((len(prompts), self.transformer.config.in_channels, *shape), generator, latents)
        branches = {"cond": {"encoder_hidden_states": self._encoded(prompts)[0]}}
        if guidance_scale > 1:
            branches["uncond"] = {"encoder_hidden_states": self._encoded([""] * len(prompts))[0]}
        self.scheduler.set_timesteps(num_inference_steps, device=latents.device)
        latents = self._flowed(
            latents, branches, guidance_scale, callback_on_step_end, callback_on_step_end_tensor_inputs
        )
        frames = latents if output_type == "latent" else self.decode(latents, output_type)
        self.maybe_free_model_hooks()
        return WanPipelineOutput(frames=frames) if return_dict else (frames,)
