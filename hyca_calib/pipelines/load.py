"""``--model``: a name becomes a ready pipeline.

Names come from a user, or from a file that anybody may have made. A user's name may be code,
``package.module:factory``; a file's may not. Weights are safetensors only, no code comes with them, and nothing is
downloaded unasked.
"""

import importlib
import os
import re
import warnings
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel
from torch import nn

from hyca_calib.demo import DEMOS, demo_pipeline
from hyca_calib.pipelines.contract import check_pipeline, told
from hyca_calib.pipelines.pipeline import Pipeline
from hyca_runtime.attach.clock import sampler_name
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.errors import HycaError, WorkloadError
from hyca_runtime.fingerprint import config_digest, weights_digest

PLACEMENTS = ("balanced", "offload", "sequential")
"""For models larger than one GPU: spread over all GPUs; moved in network by network, or layer by layer."""

FACTORY = re.compile(r"[\w.]+:[\w.]+")


def default_device() -> str:
    """The GPU if there is one; of several the one that torchrun or its like gave this process."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def load_pipeline(name: str, device: str | None = None, download: bool = False) -> Pipeline:
    """The pipeline that a user calls `name`, on `device`.

    Args:
        name: one of `DEMOS`; a diffusers id or folder; or ``package.module:factory``, a callable without
            arguments that returns a ready `DiffusionPipeline` (it is left on its own device).
        device: ``cpu``, ``cuda``, ``cuda:1``, or one of `PLACEMENTS`; default: the GPU if there is one.
        download: whether what is not in the Hub's cache on this machine may be fetched.

    Raises:
        WorkloadError: no such model or device, a factory that fails, not a pipeline with a transformer, or one whose
            call does not take what HyCa gives.
    """
    where = device or default_device()
    made: Any
    if FACTORY.fullmatch(name):
        made = _from_factory(name)
    elif name in DEMOS:
        made = _placed(demo_pipeline(name), where)
    else:
        made = _from_diffusers(name, where, download)
    pipe = checked_pipeline(made, f"model {name!r}")
    if hasattr(made, "set_progress_bar_config"):
        made.set_progress_bar_config(disable=True)
    return pipe


def checked_pipeline(made: Any, name: str) -> Pipeline:
    """What was made, as a pipeline.

    Args:
        name: what messages call it.

    Raises:
        WorkloadError: not a pipeline with a transformer, or one whose call does not take what HyCa gives.
    """
    if not isinstance(getattr(made, "transformer", None), nn.Module) or not callable(made):
        raise WorkloadError(f"{name} is a {type(made).__name__}; expected a pipeline with a `transformer`")
    check_pipeline(made)
    pipe: Pipeline = made
    return pipe


class TracedModel(BaseModel, frozen=True):
    """The model that a trace is recorded from.

    Attributes:
        name: what the user called it.
        component: which of the pipeline's networks is watched.
        pipeline, transformer, scheduler: class names.
    """

    name: str
    pipeline: str
    component: str
    transformer: str
    scheduler: str
    config_digest: str
    weights_digest: str

    @classmethod
    def of(cls, pipe: Any, name: str, component: str) -> Self:
        """The model in a pipeline."""
        transformer = find_transformer(pipe, component)
        return cls(
            name=name,
            pipeline=type(pipe).__name__,
            component=component,
            transformer=type(transformer).__name__,
            scheduler=sampler_name(getattr(pipe, "scheduler", None)),
            config_digest=config_digest(transformer),
            weights_digest=weights_digest(transformer),
        )


def load_traced(
    model: TracedModel, given: str | None = None, device: str | None = None, download: bool = False
) -> Pipeline:
    """The pipeline that a trace was recorded from: `given` by the user, else the one that the trace names.

    Raises:
        WorkloadError: the trace names code, or the weights are others than the traced ones.
    """
    if given is None and FACTORY.fullmatch(model.name):
        raise WorkloadError(
            f"the trace names the model {model.name!r}, which is code; a file does not decide what is run: "
            f"if you trust it, say so with --model {model.name}"
        )
    name = given or model.name
    pipe = load_pipeline(name, device, download)
    check_traced(pipe, model, f"model {name!r}")
    return pipe


def check_traced(pipe: Pipeline, model: TracedModel, name: str) -> None:
    """Raises WorkloadError unless a pipeline has the weights that were traced; messages call it `name`."""
    if weights_digest(find_transformer(pipe, model.component)) != model.weights_digest:
        raise WorkloadError(f"{name} is not the one that was traced: its weights differ; trace it first")


def _placed(pipe: Any, where: str) -> Any:
    try:
        if where == "offload":
            pipe.enable_model_cpu_offload()
        elif where == "sequential":
            pipe.enable_sequential_cpu_offload()
        elif where != "balanced":  # diffusers does that while it loads
            pipe.to(where)
    except (RuntimeError, ValueError, AssertionError) as error:
        first = str(error).splitlines()[0][:160]
        raise WorkloadError(
            f"device {where!r}: {first}; expected cpu, cuda, cuda:N, {', '.join(PLACEMENTS)}"
        ) from error
    return pipe


def _from_factory(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a module of the user's
        raise WorkloadError(f"model {name!r}: cannot import the factory: {told(error)}") from error
    try:
        return factory()
    except HycaError:
        raise
    except Exception as error:  # code of the user's
        raise WorkloadError(f"model {name!r}: the factory failed with {told(error)}") from error


def _from_diffusers(name: str, where: str, download: bool) -> Any:
    from diffusers import DiffusionPipeline

    kept = torch.float32 if where == "cpu" else torch.bfloat16
    spread = {"device_map": "balanced"} if where == "balanced" else {}
    safe = {"use_safetensors": True, "trust_remote_code": False, "local_files_only": not download}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # `torch_dtype` is the name that all versions know
            pipe = DiffusionPipeline.from_pretrained(name, torch_dtype=kept, **safe, **spread)
    except (OSError, ValueError) as error:
        local = Path(name).exists()
        hint = "" if local or download else "; a model of the Hub is fetched only with --download"
        raise WorkloadError(
            f"unknown {'folder' if local else 'model'} {name!r}: expected {' or '.join(DEMOS)}, a diffusers id or "
            f"folder, or 'package.module:factory'{hint} ({str(error).splitlines()[0][:160]})"
        ) from error
    except Exception as error:  # such as of a class that diffusers does not have
        raise WorkloadError(
            f"model {name!r}: diffusers cannot load it, {told(error)}; of a pipeline of your own, or where loading it "
            "takes more, give a function that does as 'package.module:factory'"
        ) from error
    return _placed(pipe, where)
