"""A small SkyReels-V2 with diffusion forcing, and plans for its chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2Transformer3DModel,
    UniPCMultistepScheduler,
)
from torch import Tensor

from hyca_runtime.chunking import Chunking
from hyca_runtime.fingerprint import config_digest
from hyca_runtime.forecast import Forecast
from hyca_runtime.group import DimensionGroup, encode_channels
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan import Plan
from hyca_runtime.plan_facts import ModelFingerprint, TimeGrid
from hyca_runtime.point import parse_point
from hyca_runtime.policies import PolicySpec
from hyca_runtime.schedule import EVERY, FEATURE, Schedule
from hyca_runtime.solvers import Hold, Solver
from hyca_runtime.streaming.retention import All, Retention

STEPS, LAG, FRAMES, CHUNKS = 6, 2, 2, 4
TOKENS = FRAMES * 2 * 2
"""Of a chunk."""
EVERYTHING, HOLD = All(), Hold()


def network(dtype: torch.dtype = torch.float64, kind: Any = SkyReelsV2Transformer3DModel) -> Any:
    """Two blocks with random weights; also of a Wan."""
    torch.manual_seed(0)
    made = kind(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=64,
    )
    return made.to(dtype).eval()


def pipeline(dtype: torch.dtype = torch.float64, order: int = 2) -> SkyReelsV2DiffusionForcingPipeline:
    """Without text encoder and decoder; with a sampler of order 2, that of its release, or 1, which is Euler's."""
    kind = UniPCMultistepScheduler if order == 2 else DPMSolverMultistepScheduler
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 8.0}
    scheduler = kind(solver_order=order, **flow)
    pipe = SkyReelsV2DiffusionForcingPipeline(None, None, network(dtype), None, scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def film(pipe: SkyReelsV2DiffusionForcingPipeline, seed: int = 0, chunks: int = CHUNKS, **options: Any) -> Tensor:
    """The latents of a clip, chunk behind chunk."""
    return clip(pipe, seed, chunks, **{"ar_step": LAG, "causal_block_size": FRAMES} | options)


def clip(pipe: Any, seed: int = 0, chunks: int = CHUNKS, **options: Any) -> Tensor:
    """The latents of a clip of any pipeline for videos of this family."""
    words = torch.Generator().manual_seed(100)
    given: dict[str, Any] = {
        "prompt": None,
        "prompt_embeds": torch.randn(1, 5, 16, generator=words),
        "negative_prompt_embeds": torch.randn(1, 5, 16, generator=words),
        "height": 32,
        "width": 32,
        "num_frames": 4 * (FRAMES * chunks - 1) + 1,
        "num_inference_steps": STEPS,
        "guidance_scale": 3.0,
        "generator": torch.Generator().manual_seed(seed),
        "output_type": "latent",
        "return_dict": False,
    }
    latents: Tensor = pipe(**given | options)[0]
    return latents


def chunk_plan(
    pipe: Any,
    computed: Sequence[int] = range(STEPS),
    retention: Retention | None = EVERYTHING,
    point: str = "trunk:residual",
    solver: Solver = HOLD,
    policy: PolicySpec | None = None,
    lag: int = LAG,
    frames: int = FRAMES,
) -> Plan:
    """A plan for the pipeline above, or one like it."""
    module = pipe.transformer
    pipe.scheduler.set_timesteps(STEPS)
    times = tuple(float(time) for time in pipe.scheduler.timesteps)
    axis = tuple(float(time) for time in np.linspace(1.0, 1.0 / STEPS, STEPS))
    channels = module.config.in_channels if point == "output" else module.config.num_attention_heads * 12
    group = DimensionGroup(
        name="all", channels=encode_channels(range(channels)), solver=solver.spec(), fallback=HOLD.spec()
    )
    at = parse_point(point).model_copy(update={"channel_axis": 1 if point == "output" else -1})
    forecast = Forecast(at=at, num_channels=channels, groups={EVERY: (group,)})
    section = NetworkPlan(
        model=ModelFingerprint(
            transformer=type(module).__name__, config_digest=config_digest(module, num_frame_per_block=frames)
        ),
        grid=TimeGrid(
            scheduler=type(pipe.scheduler).__name__,
            timesteps=tuple(float(int(time)) for time in times),
            axis="step",
            axis_times=axis,
            scheduler_timesteps=times,
        ),
        points={FEATURE: forecast},
        schedule=Schedule.from_steps(STEPS, computed),
        policy=policy,
        chunks=Chunking(frames=frames, lag=lag, keys=None if retention is None else retention.spec()),
    )
    return Plan(name="test", sections=(section,))
