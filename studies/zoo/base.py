"""Real architectures, small and with random weights: what compatibility is tested on."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from hyca_calib.pipelines.classes import find_class, quiet

Kwargs = dict[str, Any]


class Randn(Protocol):
    """Seeded standard normal noise of a shape."""

    def __call__(self, *shape: int) -> Tensor: ...


Inputs = Callable[[int, float, Randn], Kwargs]
"""From batch size and the share of noise (1 at the start, 0 at the end) to the keyword arguments of
one call, the timestep in the model's own unit among them."""

SomeInputs = TypeVar("SomeInputs", bound=Inputs)

Arguments = Callable[[Randn], Kwargs]
"""The same for a call of a pipeline."""

Part = Callable[[], Any]
"""Makes a component of a pipeline."""


@dataclass(frozen=True)
class TinyModel:
    """A diffusers transformer class with a configuration of a few thousand parameters.

    Attributes:
        name: of the class, in ``diffusers.models.transformers``.
        config: its constructor's arguments; every list of blocks has two or three.
        inputs: arguments of a call, but `return_dict`.
    """

    name: str
    config: Kwargs
    inputs: Inputs

    def build(self, seed: int = 0) -> nn.Module:
        """The model in evaluation mode. No weight is left at zero, where it would hide mistakes."""
        kind = find_class(self.name)
        with quiet():
            model: nn.Module = kind(**self.config)
        return randomise(model.eval(), seed)

    def call(self, batch: int = 1, noise: float = 1.0, seed: int = 0) -> Kwargs:
        """Keyword arguments of a call; the same seed gives the same latents and prompts."""
        generator = torch.Generator().manual_seed(seed)
        inputs = self.inputs(batch, noise, lambda *shape: torch.randn(*shape, generator=generator))
        return inputs | {"return_dict": False}


@dataclass(frozen=True)
class TinyPipeline:
    """A diffusers pipeline around tiny models.

    Attributes:
        name: for people, "FLUX.1 Kontext".
        kind: its class in diffusers.
        parts: its components by name. Prompts are given as embeddings where that spares a text encoder.
        arguments: keyword arguments of a call, but steps, generator, output type and `return_dict`.
        runs_steps: network steps of a call of `num_inference_steps` (fewer for image to image).
    """

    name: str
    kind: str
    parts: Mapping[str, Part]
    arguments: Arguments
    runs_steps: Callable[[int], int] = lambda steps: steps

    def build(self) -> Any:
        """The pipeline, always with the same weights; what its class asks for beside `parts` is None."""
        import diffusers

        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            kind = getattr(diffusers, self.kind)
            asked = [name for name, one in inspect.signature(kind).parameters.items() if one.default is one.empty]
            pipe = kind(**dict.fromkeys(asked) | {name: make() for name, make in self.parts.items()})
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def call(self, pipe: Any, steps: int, seed: int = 0, **changes: Any) -> Tensor:
        """Final latents of one sample."""
        prompts, generator = (torch.Generator().manual_seed(s) for s in (seed + 1000, seed))
        arguments = self.arguments(lambda *shape: torch.randn(*shape, generator=prompts))
        options = {"num_inference_steps": steps, "output_type": "latent", "return_dict": False, **arguments, **changes}
        with quiet():
            result = pipe(generator=generator, **options)
        latents: Tensor = result[0]
        return latents


MODELS: dict[str, TinyModel] = {}
PIPELINES: dict[str, TinyPipeline] = {}


def tiny_model(name: str, *shared: Kwargs, **config: Any) -> Callable[[SomeInputs], SomeInputs]:
    """Decorator of an `Inputs` function: enter the class into the zoo.

    Args:
        shared: parts of the configuration that other models have too; what comes later wins, `config` last.
    """

    def enter(inputs: SomeInputs) -> SomeInputs:
        whole = {key: value for part in (*shared, config) for key, value in part.items()}
        MODELS[name] = TinyModel(name, whole, inputs)
        return inputs

    return enter


def tiny_pipeline(
    name: str, kind: str, runs_steps: Callable[[int], int] = lambda steps: steps, **parts: Part
) -> Callable[[Arguments], Arguments]:
    """Decorator of a function that makes the arguments of a call: enter the pipeline into the zoo."""

    def enter(arguments: Arguments) -> Arguments:
        PIPELINES[name] = TinyPipeline(name, kind, parts, arguments, runs_steps)
        return arguments

    return enter


def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Fill all parameters: matrices keep the variance of their input, vectors lie in 0.1 to 0.5."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                fan_in = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * fan_in**-0.5)
            else:
                parameter.copy_(0.1 + 0.4 * torch.rand(parameter.shape, generator=generator))
    return model
