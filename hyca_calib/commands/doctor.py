"""Whether the installation works."""

import importlib.util
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

import numpy as np
import torch
import zarr
from packaging.requirements import Requirement

from hyca_calib.pipelines.by_hand import hand_plan
from hyca_calib.pipelines.load import load_pipeline
from hyca_calib.records.console import human_bytes
from hyca_calib.trace.folder import Folder
from hyca_calib.trace.preflight import available_bytes
from hyca_runtime import HycaError, apply_plan
from hyca_runtime.point import CachePoint


@dataclass(frozen=True)
class Finding:
    """One thing that was examined."""

    what: str
    told: str
    sound: bool = True


def examine() -> list[Finding]:
    """Look at the installation, and try every stage once on a small scale."""
    found = [
        Finding("python", f"{platform.python_version()} at {sys.executable}", sys.version_info >= (3, 11)),
        Finding("processor", f"{os.cpu_count()} cores, {human_bytes(available_bytes(torch.device('cpu')))} free"),
        *_packages(),
        _device(),
    ]
    trials = {"embedded model": _sampled, "runtime": _planned, "storage": _stored}
    return [*found, *(_tried(name, trial) for name, trial in trials.items())]


def _packages() -> list[Finding]:
    """What both distributions ask for, and what is installed."""
    found = []
    optional = {"psycopg": "--storage postgresql://", "s3fs": "s3:// traces", "triton": "fused sums on a GPU"}
    for line in dict.fromkeys([*_asked("hyca"), *_asked("hyca-calib")]):
        requirement = Requirement(line)
        extra = str(requirement.marker or "")
        if extra and 'extra == "calib"' not in extra:
            continue
        try:
            there = version(requirement.name)
            fits = requirement.specifier.contains(there, prereleases=True)
            told = there if fits else f"{there}, needed {requirement.specifier}"
            found.append(Finding(requirement.name, told, fits))
        except PackageNotFoundError:
            found.append(Finding(requirement.name, f"missing, needed {requirement.specifier}", sound=False))
    for name, use in optional.items():
        told = "installed" if importlib.util.find_spec(name) is not None else "not installed"
        found.append(Finding(name, f"{told} (optional: {use})"))
    return found


def _asked(distribution: str) -> list[str]:
    try:
        return requires(distribution) or []
    except PackageNotFoundError:
        return []


def _device() -> Finding:
    if not torch.cuda.is_available():
        return Finding("device", "no GPU: everything runs on the CPU")
    properties = torch.cuda.get_device_properties(0)
    free = human_bytes(available_bytes(torch.device("cuda")))
    return Finding("device", f"{torch.cuda.device_count()} x {properties.name}, {free} free, CUDA {torch.version.cuda}")


def _tried(name: str, trial: Callable[[], str]) -> Finding:
    try:
        return Finding(name, trial())
    except Exception as error:  # whatever is broken must be told, not raised
        told = str(error).splitlines()[0] if str(error) else ""
        kind = "" if isinstance(error, HycaError) else f"{type(error).__name__}: "
        return Finding(name, f"{kind}{told}", sound=False)


def _sampled() -> str:
    pipe = load_pipeline("demo", "cpu")
    latents = pipe("red heart", num_inference_steps=2, output_type="latent", return_dict=False)[0]
    if not torch.isfinite(latents).all():
        raise ValueError("its pictures hold NaN")
    return f"samples {tuple(latents.shape)}"


def _planned() -> str:
    pipe = load_pipeline("demo", "cpu")

    def run() -> Any:
        return pipe("red heart", num_inference_steps=4, output_type="latent", return_dict=False)[0]

    plan = hand_plan(pipe, CachePoint(), run, lambda steps: (0, 1))
    with apply_plan(pipe, plan) as session:
        run()
        return str(session.report()).splitlines()[0]


def _stored() -> str:
    with tempfile.TemporaryDirectory() as folder:
        array = zarr.create_array(f"{folder}/x.zarr", shape=(4,), dtype="float32")
        array[...] = np.arange(4)
        if np.asarray(zarr.open_array(f"{folder}/x.zarr")[...]).tolist() != [0, 1, 2, 3]:
            raise ValueError("Zarr does not return what it was given")
    free = human_bytes(Folder(".").free_bytes() or 0)
    return f"Zarr writes and reads; {free} free here"
