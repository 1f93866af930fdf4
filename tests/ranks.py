"""Ranks of `torch.distributed` that draw lanes of one sample with the tiny model."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny
import torch
from plans import STEPS, make_plan
from torch import distributed as dist

from hyca_runtime import apply_plan
from hyca_runtime.errors import SamplerError
from hyca_runtime.samplers import sample_chords
from hyca_runtime.samplers.ranks import Ranks

COMMON: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "latent", "return_dict": False}


DOING: dict[str, Callable[[], None]] = {
    "death": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "silence": lambda: time.sleep(1.0),
}


def arguments(seed: int = 0) -> dict[str, Any]:
    told = {"prompt": "red heart", "true_cfg_scale": 2.0, "generator": torch.Generator().manual_seed(seed)}
    return COMMON | told


def draw(folder: Path, rank: int, size: int, starts: tuple[int, ...], fault: str = "", planned: bool = False) -> None:
    """Draw on one rank, and leave what came of it in `folder`: latents, or an error.

    Args:
        fault: what is wrong with rank 1.
    """
    torch.set_num_threads(1)
    wrong = fault if rank == 1 else ""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    pipe = tiny.pipeline(seed=int(wrong == "weights"))
    told = arguments(seed=int(wrong == "noise"))
    told |= {"prompt": "blue cat"} if wrong == "prompt" else {}
    if wrong in DOING:
        _do_in_call(pipe.transformer, 6, DOING[wrong])
    where = Ranks(patience=0.2 if fault == "silence" else 30.0)
    begun = time.monotonic()
    try:
        if planned:
            with apply_plan(pipe, make_plan(pipe.transformer), "adapt") as session:
                run = sample_chords(pipe, starts=starts, where="ranks", session=session, **told)
        else:
            run = sample_chords(pipe, starts=starts[:-1] if wrong == "starts" else starts, where=where, **told)
        found = {"latents": run.output[0], "calls": run.calls, "computed": run.computed, "spare": run.spare}
        torch.save(found | {"passes": run.computed_passes}, folder / f"{rank}.pt")
    except SamplerError as error:
        torch.save({"error": str(error), "seconds": time.monotonic() - begun}, folder / f"{rank}.pt")
        os._exit(0)  # as a script does that ends with an error


def _do_in_call(network: Any, number: int, do: Callable[[], None]) -> None:
    calls, inner = iter(range(1000)), network.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == number:
            do()
        return inner(*args, **kwargs)

    network.forward = forward
