"""What the embedded pipelines share: their weights' files, and of a call its checks, noise, guidance and steps."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, get_type_hints

import torch
from diffusers import DiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor
from safetensors.torch import load_file
from torch import Tensor, nn

OUTPUT_TYPES = ("pil", "np", "pt", "latent")

Callback = Callable[..., dict[str, Any] | None]
"""Called as ``(pipe, step, timestep, {"latents": ...})`` after each step; may return other latents."""
Generators = torch.Generator | list[torch.Generator]
"""The source of the initial noise of a whole batch, or of each of its samples."""


def whole_units(name: str, size: int | None, usual: int, unit: int) -> int:
    """How many times `unit` goes into a size in pixels or frames, which is `usual` if it is not given.

    Raises:
        ValueError: not a positive multiple.
    """
    size = usual if size is None else size
    if size < unit or size % unit:
        raise ValueError(f"{name}: expected a positive multiple of {unit}, got {size}")
    return size // unit


class DemoPipeline(DiffusionPipeline):
    """The steps of a call; a subclass says what the network is given.

    Every call has these arguments besides its own:

    Args:
        num_inference_steps: steps of the scheduler, at least one.
        generator: source of the initial noise; a list gives one per sample.
        output_type: "pil", "np", "pt" or "latent".
        return_dict: return the output as an object instead of a tuple.
        callback_on_step_end_tensor_inputs: which tensors it receives.
    """

    _callback_tensor_inputs: ClassVar[list[str]] = ["latents"]

    @classmethod
    def from_weights(cls, folder: Path) -> Self:
        """The pipeline in `folder`, in float32 on the CPU; unlike `from_pretrained` it never needs accelerate."""
        kinds, parts = get_type_hints(cls.__init__), {}
        for name, told in json.loads((folder / "model_index.json").read_text()).items():
            if isinstance(told, list):
                parts[name] = _component(kinds[name], folder / name)
            elif not name.startswith("_"):
                parts[name] = told
        return cls(**parts)

    def _check(self, output_type: str, num_inference_steps: int) -> None:
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type: expected one of {OUTPUT_TYPES}, got {output_type!r}")
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps: expected at least 1, got {num_inference_steps}")

    def _noise(self, shape: tuple[int, ...], generator: Generators | None, given: Tensor | None) -> Tensor:
        """The given initial noise, or new noise of `shape`; float32, where the network runs."""
        if given is None:
            given = randn_tensor(shape, generator=generator, device=self._execution_device, dtype=torch.float32)
        return given.to(self._execution_device, torch.float32)

    def _denoised(
        self,
        latents: Tensor,
        predict: Callable[[Tensor, int, Tensor], Tensor],
        callback: Callback | None,
        callback_tensors: Sequence[str],
    ) -> Tensor:
        """The latents after all steps of the scheduler.

        Args:
            predict: what the scheduler steps with, of the latents, the number of the step and its time.
        """
        with self.progress_bar(total=len(self.scheduler.timesteps)) as bar:
            for step, timestep in enumerate(self.scheduler.timesteps):
                predicted = predict(latents, step, timestep).float()
                latents = self.scheduler.step(predicted, timestep, latents, return_dict=False)[0]
                if callback is not None:
                    local = {"latents": latents}
                    tensors = {name: local[name] for name in callback_tensors}
                    latents = (callback(self, step, timestep, tensors) or {}).get("latents", latents)
                bar.update()
        return latents


def _component(kind: Any, folder: Path) -> Any:
    made = kind.from_config(kind.load_config(folder, local_files_only=True))
    if isinstance(made, nn.Module):
        made.load_state_dict(load_file(folder / "diffusion_pytorch_model.safetensors"))
        made.eval()
    return made


class FlowPipeline(DemoPipeline):
    """A rectified flow from words: one network call a step, two with guidance.

    Each call is made inside ``transformer.cache_context``, which is told the step as `diffusers.WanPipeline` does.
    """

    def _prompts(self, prompt: str | list[str]) -> list[str]:
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise ValueError("prompt: expected a string or a non-empty list of strings, got an empty list")
        return prompts

    def _encoded(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Word vectors ``(B, words, dim)`` and their means ``(B, dim)``."""
        words, pooled = self.text_encoder(self.text_encoder.tokenize(prompts).to(self._execution_device))
        return words.to(self.transformer.dtype), pooled.to(self.transformer.dtype)

    def _flowed(
        self,
        latents: Tensor,
        branches: Mapping[str, Mapping[str, Tensor]],
        scale: float,
        callback: Callback | None,
        callback_tensors: Sequence[str],
        network_times: Callable[[Tensor], Tensor] = lambda timesteps: timesteps,
    ) -> Tensor:
        """The latents after all steps, by classifier-free guidance where there is a branch "uncond".

        Args:
            branches: of every guidance branch, what conditions the network.
            network_times: the scheduler's times ``(B,)`` as the network takes them.
        """
        self.scheduler.set_begin_index(0)
        num_steps, dtype = len(self.scheduler.timesteps), self.transformer.dtype

        def guided(latents: Tensor, step: int, timestep: Tensor) -> Tensor:
            sigma, velocity = float(self.scheduler.sigmas[step]), dict[str, Tensor]()
            for name, condition in branches.items():
                with self.transformer.cache_context(name, step_index=step, sigma=sigma, num_inference_steps=num_steps):
                    velocity[name] = self.transformer(
                        hidden_states=latents.to(dtype),
                        timestep=network_times(timestep.expand(len(latents))),
                        **condition,
                        return_dict=False,
                    )[0]
            if "uncond" not in velocity:
                return velocity["cond"]
            return velocity["uncond"] + scale * (velocity["cond"] - velocity["uncond"])

        return self._denoised(latents, guided, callback, callback_tensors)
