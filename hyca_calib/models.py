"""``--model``: a name becomes a ready pipeline."""

from __future__ import annotations

import hashlib
import importlib
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hyca_calib.demo import DEMOS, demo_pipeline
from hyca_runtime.errors import WorkloadError

__all__ = ["default_device", "load_pipeline", "weights_digest"]


def default_device() -> str:
    """The GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_pipeline(name: str, device: str | None = None) -> Any:
    """The pipeline called `name`, on `device`.

    Args:
        name: one of `DEMOS`; a diffusers id or folder; or ``package.module:factory``, a callable without
            arguments that returns a ready `DiffusionPipeline` (it is left on its own device).
        device: default: the GPU if there is one.

    Raises:
        WorkloadError: no such model, or not a pipeline with a transformer.
    """
    if re.fullmatch(r"[\w.]+:[\w.]+", name):
        pipe = _from_factory(name)
    elif name in DEMOS:
        pipe = demo_pipeline(name).to(device or default_device())
    else:
        pipe = _from_diffusers(name, device or default_device())
    if not isinstance(getattr(pipe, "transformer", None), nn.Module) or not callable(pipe):
        raise WorkloadError(f"model {name!r} is a {type(pipe).__name__}; expected a pipeline with a `transformer`")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _from_factory(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise WorkloadError(f"model {name!r}: cannot import the factory: {error}") from error
    return factory()


def _from_diffusers(name: str, device: str) -> Any:
    from diffusers import DiffusionPipeline

    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    try:
        return DiffusionPipeline.from_pretrained(name, torch_dtype=dtype).to(device)
    except (OSError, ValueError) as error:
        kind = "folder" if Path(name).exists() else "model"
        raise WorkloadError(
            f"unknown {kind} {name!r}: expected {' or '.join(DEMOS)}, a diffusers id or folder, or "
            f"'package.module:factory' ({str(error).splitlines()[0][:160]})"
        ) from error


def weights_digest(module: nn.Module, probes: int = 64) -> str:
    """SHA-256 over names, shapes and `probes` values of every parameter: cheap for any size."""
    digest = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        flat = parameter.detach().flatten()
        if flat.numel():
            picks = torch.linspace(0, flat.numel() - 1, min(probes, flat.numel())).long()
            digest.update(flat[picks.to(flat.device)].float().cpu().numpy().tobytes())
    return digest.hexdigest()
