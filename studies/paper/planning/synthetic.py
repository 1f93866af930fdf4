"""A trace of any size with made-up statistics."""

import itertools
from dataclasses import asdict
from pathlib import Path

import numpy as np
import zarr

from hyca_calib.pipelines.workload import SPLITS
from hyca_calib.search.replay import Array
from hyca_calib.trace.digests import Manifest
from hyca_calib.trace.documents import write_json
from hyca_calib.trace.finish import COST, summarise, summarise_point, traced_point
from hyca_calib.trace.folder import Folder
from hyca_calib.trace.layout import Layout, PointLayout
from hyca_calib.trace.statistics import joint_size, num_pairs, unpacked_gram
from hyca_calib.trace.store import Trace

WAVES, DRAWS, NOISE = 8, 32, 0.01
SMOOTHNESS = (0.3, 0.7)


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


def write_trace(path: Path, channels: int, steps: int, branches: int, like: Trace, seed: int) -> None:
    """A trace of a rectified flow with made-up Gram matrices, costs and names those of another; no sample is stored."""
    rng, sigmas = np.random.default_rng(seed), np.linspace(1, 0, steps + 1)
    size = joint_size(branches, steps)
    gram = np.zeros((len(SPLITS), channels, num_pairs(size)))
    places = unpacked_gram(np.arange(num_pairs(size)), size)
    upper = np.triu_indices(steps)
    for split, begin in itertools.product(range(len(SPLITS)), range(0, branches * steps, steps)):
        places_of_branch = places[begin : begin + steps, begin : begin + steps][upper]
        gram[split][:, places_of_branch] = smooth_gram(channels, steps, rng)[:, *upper]
    point = PointLayout(
        num_tokens=[[1]] * branches,
        crossed=False,
        stored=[[[0]]] * branches,
        gram_share=1.0,
        gram_error=0.0,
        channels=channels,
    )
    layout = Layout(
        branches=[f"branch {i}" for i in range(branches)],
        stacked=1,
        timesteps=sigmas[:-1].tolist(),
        scheduler_timesteps=[],
        sigmas=sigmas.tolist(),
        response=np.diff(sigmas).tolist(),
        points={like.key: point},
        latent=[1],
    )
    told = {
        **layout.model_dump(include={"branches", "stacked", "scheduler_timesteps"}),
        "guidance": [],
        "points": [traced_point(like.point, point)],
        "splits": list(SPLITS),
        "excluded": [],
        "nonfinite": [],
    }
    attributes = like.attributes.model_copy(update=told)
    folder = Folder(path)
    root = zarr.open_group(folder.store(read_only=False), mode="w")
    summarise_point(root, like.key, gram, np.ones((branches, steps, channels)), point)
    summarise(root, layout, attributes)
    write_json(folder, COST, {like.key: asdict(like.cost)})
    Manifest.of(folder, {}).write(folder)
