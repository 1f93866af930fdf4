"""Two ranks of `torch.distributed` with parts of one sample, or with samples of their own, that follow one plan."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import plans
import tiny
import torch
from diffusers import ContextParallelConfig
from processes import forked
from torch import Tensor, nn
from torch import distributed as dist

from hyca_runtime import Plan, apply_plan
from hyca_runtime.agreement import ALONE
from hyca_runtime.compiled_plan import OnMismatch
from hyca_runtime.errors import PlanMismatchError
from hyca_runtime.integrations.parallel import AcrossRanks, across_ranks

PLANS = {"static": plans.make_plan, "policy": plans.probing_plan}
SAMPLES = (("red heart", 0), ("green dog", 2))
"""Prompt and seed of each rank, where they differ."""

COMPUTED = ((0, 1, 4, 8), (0, 1, 5, 8))
"""Steps of each rank's plan, where they differ."""


def call(sample: int = 0) -> dict[str, Any]:
    """Arguments of a run with guidance."""
    prompt, seed = SAMPLES[sample]
    told = {"num_inference_steps": plans.STEPS, "true_cfg_scale": 2.0, "output_type": "latent", "return_dict": False}
    return told | {"prompt": prompt, "generator": torch.Generator().manual_seed(seed)}


def on_two_ranks(target: Callable[..., None], folder: Path, *arguments: Any) -> list[dict[str, Any]]:
    """What both ranks left in `folder`."""
    processes = [forked().Process(target=target, args=(folder, rank, *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode == 0, "a rank failed, or one waits for the other"
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def meet(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)


def cut(network: Any) -> None:
    """Let diffusers cut the tokens over both ranks; it divides by the number of accelerators, here none."""
    with mock.patch("torch.accelerator.device_count", return_value=1):
        network.set_attention_backend("native")
        network.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))


def drawn(pipe: Any, plan: Plan, ranks: Any, sample: int = 0) -> tuple[tuple[int, ...], Tensor]:
    """The computed steps, and the latents."""
    with apply_plan(pipe, plan, ranks=ranks) as session:
        latents = pipe(**call(sample))[0]
        return session.report().computed_at, latents


def parts(folder: Path, rank: int) -> None:
    """Every rank has half of the tokens; both plans, in either order of plan and cutting, and what is refused."""
    meet(folder, rank)
    found: dict[str, Any] = {}
    for name, make in PLANS.items():
        pipe = tiny.pipeline()
        plan = make(pipe.transformer)
        cut(pipe.transformer)
        try:
            found[f"{name} alone"] = drawn(pipe, plan, ALONE)
        except PlanMismatchError as error:
            found[f"{name} alone"] = str(error)
        found[name] = drawn(pipe, plan, across_ranks(pipe))
    torch.save(found, folder / f"{rank}.pt")


def different(folder: Path, rank: int) -> None:
    """Every rank has another plan, then another way with runs that are not the plan's."""
    meet(folder, rank)
    pipe = tiny.pipeline()
    found = []
    ways: tuple[OnMismatch, OnMismatch] = ("compute", "adapt")
    for computed, way in ((COMPUTED[rank], ways[0]), (COMPUTED[0], ways[rank])):
        try:
            apply_plan(pipe, plans.make_plan(pipe.transformer, computed), way, ranks=AcrossRanks())
        except PlanMismatchError as error:
            found.append(str(error))
    apply_plan(pipe, plans.make_plan(pipe.transformer), ranks=AcrossRanks()).remove()
    torch.save({"told": found}, folder / f"{rank}.pt")


def page(folder: Path, rank: int, code: str) -> None:
    """Every rank runs the lines of a page, in a folder with a plan."""
    meet(folder, rank)
    os.chdir(folder)
    names: dict[str, Any] = {"pipe": tiny.pipeline()}
    with mock.patch("torch.accelerator.device_count", return_value=1):
        exec(code, names)  # noqa: S102  # of this repository
    torch.save({"computed": names["session"].report().computed_at, "size": names["image"].size}, folder / f"{rank}.pt")


def own_samples(folder: Path, rank: int) -> None:
    """Every rank sees other numbers, and on rank 1 the fifth computed call is not finite."""
    meet(folder, rank)
    found = {}
    for label, ranks in (("agreed", AcrossRanks()), ("alone", ALONE)):
        pipe = tiny.pipeline()
        found[f"policy {label}"] = drawn(pipe, plans.probing_plan(pipe.transformer), ranks, rank)
        plan = plans.make_plan(pipe.transformer)
        if rank == 1:
            _spoil(pipe.transformer, 5)
        found[f"spoilt {label}"] = drawn(pipe, plan, ranks)
    torch.save(found, folder / f"{rank}.pt")


def _spoil(network: Any, number: int) -> None:
    calls = iter(range(1000))

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        return tuple(part * float("nan") for part in output) if next(calls) == number else output

    network.single_transformer_blocks[-1].register_forward_hook(hook)
