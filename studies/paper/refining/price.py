"""What refinement costs here, and by the same ratios at 12 B parameters."""

from typing import Any

import torch

from hyca_calib.costs.flops import seconds_of
from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.quality.metrics import log_error
from hyca_calib.search.tap_rollout import TapRollout, activation_bytes
from hyca_runtime.attach.points import find_blocks, find_transformer
from studies.paper.refining.setup import RefinementSetup

TOKENS, WIDTH, BLOCKS, TFLOPS_PER_CALL, WEIGHTS_GIB = 4608, 3072, 57, 74.4, 22.2
"""FLUX.1-dev at 1024 x 1024 with 512 text tokens: 19 + 38 blocks; 3,719 TFLOPs for 50 steps (HyCa, table 1)."""
GIB = 2**30


def price(setup: RefinementSetup) -> dict[str, Any]:
    """Measured seconds and bytes for one sample, and what they make for FLUX.1-dev in bfloat16."""
    pipe, steps, section, trace = setup.context.pipe, setup.fit.num_steps, setup.section, setup.context.problem.trace
    jobs, goal = setup.fit.jobs[:2], setup.fit.latents[:2]

    def iterate(checkpointed: bool) -> None:
        with TapRollout(pipe, section, checkpointed) as rollout, torch.enable_grad():
            rollout.follow(setup.start.clone().requires_grad_())
            log_error(sample_latents(pipe, jobs, steps, 2, with_grad=True), goal).mean().backward()  # type: ignore[no-untyped-call]

    def sample() -> None:
        with TapRollout(pipe, section, checkpointed=False) as rollout, torch.no_grad():
            rollout.follow(setup.start)
            sample_latents(pipe, jobs, steps, 2)

    work = {
        "rollout": sample,
        "iteration": lambda: iterate(False),
        "iteration, checkpointed": lambda: iterate(True),
    }
    seconds = {name: min(seconds_of(of) for _ in range(3)) / len(jobs) for name, of in work.items()}
    kept = {
        "whole rollout": activation_bytes(pipe, section, steps, jobs[0]),
        "between calls": activation_bytes(pipe, section, steps, jobs[0], checkpointed=True),
    }
    calls, blocks = len(section.schedule.computed_steps), len(find_blocks(find_transformer(pipe)))
    floats = (kept["whole rollout"] - kept["between calls"]) / 4 / calls
    per_token = floats / (trace.cost.feature_numel * blocks)
    factor = seconds["iteration, checkpointed"] / seconds["rollout"]
    one_block = 2 * TOKENS * WIDTH / GIB  # a float for each channel of each token
    one_call = per_token * one_block * BLOCKS
    return {
        "seconds": seconds,
        "bytes": kept,
        "iteration_over_rollout": factor,
        "saved_floats_per_token_channel_block": per_token,
        "flux": {
            "pflops_per_sample_and_iteration": factor * calls * TFLOPS_PER_CALL / 1e3,
            "gib_one_call": one_call,
            "gib_whole_rollout": one_call * calls,
            "gib_one_call_checkpointed_by_block": one_call / BLOCKS + one_block * BLOCKS,
        },
    }
