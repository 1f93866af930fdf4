"""A streaming text-to-video `DiffusionPipeline` around diffusers' own SkyReels-V2 with diffusion forcing."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SkyReelsV2Transformer3DModel
from diffusers.pipelines.skyreels_v2.pipeline_output import SkyReelsV2PipelineOutput
from torch import Tensor

from hyca_calib.demo.clips import ClipPipeline
from hyca_calib.demo.emoji.text import WordEncoder
from hyca_calib.demo.motion.codec import BlockCodec
from hyca_calib.demo.sampling import Callback, Generators, whole_units


class StreamPipeline(ClipPipeline):
    """Shows an emoji in motion, some frames after the other: each chunk is a rectified flow that sees those before it.

    One call of the network holds all chunks that have begun, each at a time of its own; those that are finished are at
    time 0.
    """

    def __init__(
        self,
        transformer: SkyReelsV2Transformer3DModel,
        text_encoder: WordEncoder,
        vae: BlockCodec,
        scheduler: FlowMatchEulerDiscreteScheduler,
        num_frames: int = 48,
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
        lag: int | None = None,
        generator: Generators | None = None,
        latents: Tensor | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] = ("latents",),
    ) -> SkyReelsV2PipelineOutput | tuple[Any]:
        """Sample one clip per prompt; arguments that are not listed: see `DemoPipeline`.

        Args:
            prompt: caption of a clip, or several.
            num_frames: a multiple of what a chunk has; more than it was trained at for a longer clip.
            height, width: multiples of 8; default: what it was trained at, the only size it knows well.
            guidance_scale: classifier-free guidance; 1 switches it off (one network call a step).
            lag: the step that a chunk has come to when the next begins; by default it is finished then.
            latents: initial noise ``(B, channels, frames / 2, height / 4, width / 4)`` instead of a generator.

        Returns:
            Frames as lists of PIL pictures, an array ``(B, F, H, W, 3)``, a tensor ``(B, F, 3, H, W)``, or latents.

        Raises:
            ValueError: empty prompt, a size that is no such multiple, unknown output type, fewer than one step or lag.
        """
        prompts = self._prompts(prompt)
        self._check(output_type, num_inference_steps)
        lag = num_inference_steps if lag is None else lag
        if lag < 1:
            raise ValueError(f"lag: expected at least 1, got {lag}")
        size, block, network = self.config, self.vae.config, self.transformer.config
        chunk, patch = network.num_frame_per_block, network.patch_size[1]
        shape = (
            chunk * whole_units("num_frames", num_frames, size.num_frames, chunk * block["frames"]),
            patch * whole_units("height", height, size.frame_size, patch * block["side"]),
            patch * whole_units("width", width, size.frame_size, patch * block["side"]),
        )
        latents = self._noise((len(prompts), network.in_channels, *shape), generator, latents)
        branches = {"cond": self._encoded(prompts)[0]}
        if guidance_scale > 1:
            branches["uncond"] = self._encoded([""] * len(prompts))[0]
        self.scheduler.set_timesteps(num_inference_steps, device=latents.device)
        latents = self._streamed(
            latents, branches, guidance_scale, lag, callback_on_step_end, callback_on_step_end_tensor_inputs
        )
        frames = latents if output_type == "latent" else self.decode(latents, output_type)
        self.maybe_free_model_hooks()
        return SkyReelsV2PipelineOutput(frames=frames) if return_dict else (frames,)

    def _streamed(
        self,
        latents: Tensor,
        branches: Mapping[str, Tensor],
        scale: float,
        lag: int,
        callback: Callback | None,
        callback_tensors: tuple[str, ...],
    ) -> Tensor:
        """The latents after all steps of all chunks."""
        times, size = self.scheduler.timesteps, self.transformer.config.num_frame_per_block
        chunks, steps = list(latents.chunk(latents.shape[2] // size, 2)), len(times)
        samplers = [copy.deepcopy(self.scheduler) for _ in chunks]
        iterations = steps + lag * (len(chunks) - 1)
        for iteration in self.progress_bar(range(iterations)):
            at = [iteration - lag * place for place in range(len(chunks)) if iteration >= lag * place]
            now = torch.stack([times[step] if step < steps else torch.zeros_like(times[0]) for step in at])
            begun = torch.cat(chunks[: len(at)], 2)
            velocity = self._guided(begun, now.repeat_interleave(size).expand(len(latents), -1), branches, scale)
            for place, (step, moved) in enumerate(zip(at, velocity.chunk(len(at), 2), strict=True)):
                if step < steps:
                    chunks[place] = samplers[place].step(moved, times[step], chunks[place], return_dict=False)[0]
            if callback is not None:
                local = {"latents": torch.cat(chunks, 2)}
                tensors = {name: local[name] for name in callback_tensors}
                changed = (callback(self, iteration, now, tensors) or {}).get("latents")
                chunks = chunks if changed is None else list(changed.chunk(len(chunks), 2))
        return torch.cat(chunks, 2)

    def _guided(self, latents: Tensor, times: Tensor, branches: Mapping[str, Tensor], scale: float) -> Tensor:
        """The velocity of all frames, by classifier-free guidance where there is a branch "uncond".

        Args:
            times: ``(B, frames)``.
        """
        velocity, dtype = dict[str, Tensor](), self.transformer.dtype
        for name, words in branches.items():
            with self.transformer.cache_context(name):
                answer = self.transformer(
                    hidden_states=latents.to(dtype),
                    timestep=times,
                    encoder_hidden_states=words,
                    enable_diffusion_forcing=True,
                    return_dict=False,
                )[0]
            velocity[name] = answer.float()
        if "uncond" not in velocity:
            return velocity["cond"]
        return velocity["uncond"] + scale * (velocity["cond"] - velocity["uncond"])
