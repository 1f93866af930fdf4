"""What refinement costs here, and by the same ratios at 12 B parameters."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.quality.metrics import log_error
from hyca_calib.search.tap_rollout import TapRollout, activation_bytes
from hyca_runtime.attach.points import find_blocks, find_transformer
from studies.paper.loop.refinement_setup import RefinementSetup

FLUX = {"tokens": 4608, "width": 3072, "blocks": 57, "tflops_per_call": 74.4, "weights_gib": 22.2}
"""FLUX.1-dev at 1024 x 1024 with 512 text tokens: 19 + 38 blocks; 3,719 TFLOPs for 50 steps (HyCa, table 1)."""
GIB = 2**30


def price(setup: RefinementSetup) -> dict[str, Any]:
    """Measured seconds and bytes for one sample, and what they make for FLUX.1-dev in bfloat16."""
    pipe, steps, section = setup.context.pipe, setup.context.problem.workload.num_steps, setup.section
    jobs, goal = setup.fit.jobs[:2], setup.fit.latents[:2]

    def iterate(checkpointed: bool) -> None:
        with TapRollout(pipe, section, checkpointed) as rollout, torch.enable_grad():
            rollout.follow(setup.start.clone().requires_grad_())
            log_error(sample_latents(pipe, jobs, steps, 2, with_grad=True), goal).mean().backward()  # type: ignore[no-untyped-call]

    def sample() -> None:
        with TapRollout(pipe, section, checkpointed=False) as rollout, torch.no_grad():
            rollout.follow(setup.start)
            sample_latents(pipe, jobs, steps, 2)

    seconds = {
        "rollout": _best_of(sample) / 2,
        "iteration": _best_of(lambda: iterate(False)) / 2,
        "iteration, checkpointed": _best_of(lambda: iterate(True)) / 2,
    }
    kept = {
        "whole rollout": activation_bytes(pipe, section, steps, jobs[0]),
        "between calls": activation_bytes(pipe, section, steps, jobs[0], checkpointed=True),
    }
    calls = len(section.schedule.computed_steps)
    module = find_transformer(pipe)
    width = setup.context.problem.trace.num_channels
    tokens = setup.context.problem.trace.cost.feature_numel / width
    floats = (kept["whole rollout"] - kept["between calls"]) / 4 / calls
    per_token = floats / (tokens * width * len(find_blocks(module)))
    factor = seconds["iteration, checkpointed"] / seconds["rollout"]
    one_call = 2 * per_token * FLUX["tokens"] * FLUX["width"] * FLUX["blocks"] / GIB
    return {
        "seconds": seconds,
        "bytes": kept,
        "iteration_over_rollout": factor,
        "saved_floats_per_token_channel_block": per_token,
        "flux": {
            "pflops_per_sample_and_iteration": factor * calls * FLUX["tflops_per_call"] / 1e3,
            "gib_one_call": one_call,
            "gib_whole_rollout": one_call * calls,
            "gib_one_call_checkpointed_by_block": one_call / FLUX["blocks"]
            + 2 * FLUX["tokens"] * FLUX["width"] * FLUX["blocks"] / GIB,
        },
    }


def _best_of(work: Callable[[], None], times: int = 3) -> float:
    found = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        found.append(time.perf_counter() - begun)
    return min(found)
