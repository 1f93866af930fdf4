"""Made-up smooth trajectories, for sizes that no small model has."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import zarr

from hyca_calib.costs.flops import CostModel
from hyca_calib.pipelines.load import TracedModel
from hyca_calib.pipelines.workload import SPLITS, WorkloadSummary
from hyca_calib.trace.attributes import TraceAttributes
from hyca_calib.trace.digests import Manifest
from hyca_calib.trace.documents import write_json
from hyca_calib.trace.finish import COST, summarise
from hyca_calib.trace.folder import Folder
from hyca_calib.trace.layout import Layout
from hyca_runtime.point import CachePoint
from studies.paper.replay_setup import Array

WAVES, DRAWS, NOISE = 8, 32, 0.01
SMOOTHNESS = (0.3, 0.7)
MODEL = TracedModel(
    name="synthetic",
    pipeline="",
    component="transformer",
    transformer="",
    scheduler="",
    config_digest="",
    weights_digest="",
)


def smooth_gram(channels: int, steps: int, rng: np.random.Generator) -> Array:
    r"""Gram matrices ``(channel, step, step)`` of 32 random trajectories per channel.

    A trajectory is :math:`\sum_{k<8} a_k r_c^k \cos(\pi k t)` with standard normal :math:`a_k`, plus noise of standard
    deviation 0.01; how smooth a channel is, :math:`r_c`, is uniform in 0.3 to 0.7.
    """
    waves = np.cos(np.pi * np.outer(np.arange(WAVES), np.linspace(1, 1 / steps, steps)))
    decay = rng.uniform(*SMOOTHNESS, (channels, 1, 1)) ** np.arange(WAVES)
    features = rng.normal(size=(channels, DRAWS, WAVES)) * decay @ waves
    features += NOISE * rng.normal(size=features.shape)
    return np.asarray(features.transpose(0, 2, 1) @ features)


def write_trace(path: Path, channels: int, steps: int, branches: int, cost: CostModel, seed: int) -> None:
    """A trace of a rectified flow with made-up Gram matrices; each split has one sample, none is stored."""
    rng, sigmas = np.random.default_rng(seed), np.linspace(1, 0, steps + 1)
    gram = np.stack([[smooth_gram(channels, steps, rng) for _ in range(branches)] for _ in SPLITS])
    layout = Layout(
        branches=[f"branch {i}" for i in range(branches)],
        timesteps=sigmas[:-1].tolist(),
        scheduler_timesteps=[],
        sigmas=sigmas.tolist(),
        response=np.diff(sigmas).tolist(),
        num_tokens=[[1]] * branches,
        stored=[[[0]]] * branches,
        gram_share=1.0,
        gram_error=0.0,
        channels=channels,
        latent=[1],
    )
    attributes = TraceAttributes(
        branches=layout.branches,
        num_tokens=layout.num_tokens,
        scheduler_timesteps=layout.scheduler_timesteps,
        model=MODEL,
        point=CachePoint(),
        workload=WorkloadSummary(
            digest="", prompts_digest="", num_prompts=0, num_samples=len(SPLITS), num_steps=steps, seed=seed
        ),
        splits=list(SPLITS),
        batch=1,
        gram_share=layout.gram_share,
        gram_error=layout.gram_error,
        excluded=[],
        nonfinite=[],
    )
    folder = Folder(path)
    root = zarr.open_group(folder.store(read_only=False), mode="w")
    summarise(root, gram, np.ones((branches, steps, channels)), layout, attributes)
    write_json(folder, COST, asdict(cost))
    Manifest.of(folder, {}).write(folder)
