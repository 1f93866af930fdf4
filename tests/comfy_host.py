"""As much of ComfyUI as plans meet, written from its documented signatures; no code of it.

A patcher that is cloned and wrapped, a guider that samples with Euler's steps around wrappers, and networks with
weights named and shaped as those of its FLUX and Wan, which compute something of the same structure.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

WIDTH, LATENT, TEXT = 128, 16, 24


class WrappersMP:
    """Kinds of wrappers, of comfy.patcher_extension."""

    OUTER_SAMPLE = "outer_sample"
    APPLY_MODEL = "apply_model"
    DIFFUSION_MODEL = "diffusion_model"


def install(monkeypatch: pytest.MonkeyPatch, kinds: type = WrappersMP) -> None:
    """Let ``comfy.patcher_extension`` be importable."""
    package, extension = ModuleType("comfy"), ModuleType("comfy.patcher_extension")
    extension.WrappersMP = kinds  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "comfy", package)
    monkeypatch.setitem(sys.modules, "comfy.patcher_extension", extension)


class Executor:
    """Hands a call through wrappers to what they wrap."""

    def __init__(self, original: Callable[..., Any], class_obj: Any, wrappers: list[Callable[..., Any]]) -> None:
        self.original, self.class_obj, self.wrappers = original, class_obj, wrappers

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        if not self.wrappers:
            return self.original(*args, **kwargs)
        return self.wrappers[0](self, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return Executor(self.original, self.class_obj, self.wrappers[1:]).execute(*args, **kwargs)


class ModelPatcher:
    """A MODEL: clones share the network."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.wrappers: dict[str, dict[str, list[Callable[..., Any]]]] = {}

    def clone(self) -> ModelPatcher:
        twin = ModelPatcher(self.model)
        twin.wrappers = {
            kind: {key: list(of) for key, of in wrappers.items()} for kind, wrappers in self.wrappers.items()
        }
        return twin

    def add_wrapper_with_key(self, wrapper_type: str, key: str, wrapper: Callable[..., Any]) -> None:
        self.wrappers.setdefault(wrapper_type, {}).setdefault(key, []).append(wrapper)

    def get_model_object(self, name: str) -> Any:
        return getattr(self.model, name)

    def all_wrappers(self, kind: str) -> list[Callable[..., Any]]:
        return [wrapper for of in self.wrappers.get(kind, {}).values() for wrapper in of]


class FlowSampling:
    """Times of a rectified flow."""

    def __init__(self, multiplier: float) -> None:
        self.multiplier = multiplier

    def timestep(self, sigma: Tensor) -> Tensor:
        return sigma * self.multiplier


class Guider:
    """Samples with both guidance branches in one call, or with a call for each conditioning.

    Args:
        more: a second conditioning of the branch that is guided to.
    """

    def __init__(
        self,
        model_patcher: ModelPatcher,
        cond: Tensor,
        uncond: Tensor,
        shared: bool = True,
        more: Tensor | None = None,
    ) -> None:
        self.model_patcher, self.shared = model_patcher, shared
        self.conds = [(1, uncond, object()), (0, cond, object())]
        if more is not None:
            self.conds.append((0, more, object()))

    def sample(self, noise: Tensor, latent_image: Tensor, sigmas: Tensor) -> Tensor:
        wrappers = self.model_patcher.all_wrappers(WrappersMP.OUTER_SAMPLE)
        found = Executor(self.outer_sample, self, wrappers).execute(
            noise, latent_image, None, sigmas, None, None, True, 0
        )
        assert isinstance(found, Tensor)
        return found

    @torch.inference_mode()
    def outer_sample(self, noise: Tensor, latent_image: Tensor, sampler: Any, sigmas: Tensor, *_: Any) -> Tensor:
        x = noise
        for sigma, following in pairwise(sigmas):
            said: list[Tensor] = []
            for stacked in [self.conds] if self.shared else [[cond] for cond in self.conds]:
                said += self.apply_model(x, sigma, stacked).chunk(len(stacked))
            uncond, cond = said[0], sum(said[1:]) / len(said[1:])
            velocity = uncond + 2.0 * (cond - uncond)
            x = x + (following - sigma) * velocity
        return x

    def apply_model(self, x: Tensor, sigma: Tensor, stacked: list[tuple[int, Tensor, object]]) -> Tensor:
        kinds, contexts, names = zip(*stacked, strict=True)
        options = {"cond_or_uncond": [*kinds], "sigmas": sigma.reshape(1), "uuids": [*names]}
        context = torch.cat(contexts)
        wrappers = self.model_patcher.all_wrappers(WrappersMP.APPLY_MODEL)
        found = Executor(self._apply_model, self.model_patcher.model, wrappers).execute(
            torch.cat([x] * len(stacked)), sigma.expand(len(context)), None, context, None, options
        )
        assert isinstance(found, Tensor)
        return found

    def _apply_model(
        self,
        x: Tensor,
        t: Tensor,
        c_concat: Any,
        c_crossattn: Tensor,
        control: Any,
        transformer_options: dict[str, Any],
    ) -> Tensor:
        model = self.model_patcher.model
        t = model.model_sampling.timestep(t).float()
        transformer_options["block"] = None  # the network writes where it is
        output = model.diffusion_model(
            x, t, context=c_crossattn, control=control, transformer_options=transformer_options
        )
        assert isinstance(output, Tensor)
        return output


def model_of(network: nn.Module, multiplier: float) -> ModelPatcher:
    return ModelPatcher(SimpleNamespace(diffusion_model=network.eval(), model_sampling=FlowSampling(multiplier)))


def _named(**weights: tuple[int, ...]) -> nn.Module:
    """A module with weights of these names, dots as two underscores, and shapes."""
    root = nn.Module()
    for name, shape in weights.items():
        *path, leaf = name.split("__")
        owner = root
        for part in path:
            if part not in dict(owner.named_children()):
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        owner.register_parameter(leaf, nn.Parameter(torch.randn(shape) / shape[-1] ** 0.5))
    return root


class Block(nn.Module):
    """Mixes tokens and channels, of one stream or two."""

    def __init__(self, single: bool) -> None:
        super().__init__()
        self.single, self.mix = single, nn.Linear(WIDTH, WIDTH)
        self.img_attn = _named(norm__key_norm__scale=(WIDTH,))

    def forward(self, img: Tensor, vec: Tensor, txt: Tensor | None = None) -> Any:
        tokens = img if txt is None else torch.cat([txt, img], 1)
        tokens = tokens + torch.tanh(self.mix(tokens + tokens.mean(1, keepdim=True) + vec))
        return tokens if txt is None else (tokens[:, txt.shape[1] :], tokens[:, : txt.shape[1]])


class Head(nn.Module):
    """Modulates and projects the last hidden feature."""

    def __init__(self, out: int) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, out)
        self.modulation = nn.Parameter(torch.randn(1, 2, WIDTH) / WIDTH**0.5)

    def forward(self, x: Tensor, vec: Tensor) -> Tensor:
        output: Tensor = self.head(x * (1 + vec))
        return output


class Flux(nn.Module):
    """Two lists of blocks, and a final layer that sees the picture's tokens; latents ``(B, 4, 8, 8)``."""

    def __init__(self, double: int = 2, single: int = 3) -> None:
        super().__init__()
        self.img_in, self.txt_in = nn.Linear(LATENT, WIDTH), nn.Linear(TEXT, WIDTH)
        self.vector_in = _named(in_layer__weight=(WIDTH, TEXT))
        self.double_blocks = nn.ModuleList(Block(single=False) for _ in range(double))
        self.single_blocks = nn.ModuleList(Block(single=True) for _ in range(single))
        self.final_layer = Head(LATENT)

    def forward(
        self, x: Tensor, timestep: Tensor, context: Tensor, control: Any = None, transformer_options: Any = None
    ) -> Tensor:
        batch = len(x)
        img = nn.functional.pixel_unshuffle(x, 2).flatten(2).transpose(1, 2)
        img, txt, vec = self.img_in(img), self.txt_in(context), timestep.cos().reshape(-1, 1, 1).expand(batch, 1, WIDTH)
        for block in self.double_blocks:
            img, txt = block(img=img, txt=txt, vec=vec)
        img = torch.cat([txt, img], 1)
        for block in self.single_blocks:
            img = block(img, vec=vec)
        out = self.final_layer(img[:, txt.shape[1] :], vec)
        return nn.functional.pixel_shuffle(out.transpose(1, 2).reshape(batch, LATENT, 4, 4), 2)


class WanBlock(nn.Module):
    """Has the weights by which Wan is known."""

    def __init__(self, ffn: int) -> None:
        super().__init__()
        self.ffn, self.norm3 = nn.Sequential(nn.Linear(WIDTH, ffn)), nn.LayerNorm(WIDTH)


class Wan(nn.Module):
    """Weights alone."""

    def __init__(self, blocks: int = 2, ffn: int = 48) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv3d(LATENT, WIDTH, (1, 2, 2), (1, 2, 2))
        self.text_embedding, self.time_embedding = (nn.Sequential(nn.Linear(n, WIDTH)) for n in (TEXT, 256))
        self.blocks = nn.ModuleList(WanBlock(ffn) for _ in range(blocks))
        self.head = Head(LATENT * 4)
