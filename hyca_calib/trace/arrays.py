"""The Zarr v3 arrays of a trace: sharded, zstd, CRC-32C.

Layout::

    points/<point>/values      (sample, branch, step, token, channel)  float32, a recorded subset of tokens
    points/<point>/batch_gram  (batch, channel, pair)                  float64, over all tokens of a batch
    points/<point>/batch_gain  (batch, branch, step, channel)          float64
    latents                    (sample, ...)                           float32, final latents of the full run
    points/<point>/gram        (split, channel, pair)                  float64, sums over batches
    points/<point>/gain        (branch, step, channel)                 float64, squared gain to the output
    points/<point>/tokens      (branch, part, token)                   which tokens `values` holds
    across/batch_gram, across/gram                                     as of a point, of all points' branches together
    times/timestep, times/sigma                                        (step,), (step + 1,)
    times/response             (step,)  change of the final latent per change of the network's output

A pair is an entry of the upper triangle of the joint matrix over all steps of all branches and the constant, see
`statistics`. The first four are written batch by batch, every batch in files of its own, so writers never meet; the
others are computed from them in the end.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.errors import ContainsArrayError, ContainsGroupError

from hyca_calib.trace.digests import Witness
from hyca_calib.trace.folder import Folder
from hyca_calib.trace.layout import Layout
from hyca_calib.trace.request import Request
from hyca_calib.trace.statistics import joint_size, num_pairs
from hyca_runtime.errors import TraceError

Sizes = tuple[int, ...]
WIDTH = 64
"""Channels of a chunk."""


@dataclass(frozen=True)
class PointArrays:
    """What is written of one point."""

    values: Any
    gram: Any
    gain: Any


@dataclass(frozen=True)
class Arrays:
    """The arrays that batches are written to, and the store that sees what is written.

    Attributes:
        points: by key.
        across: sums of all points' products with each other, where they are recorded.
    """

    root: Any
    witness: Witness
    points: dict[str, PointArrays]
    latents: Any
    across: Any = None

    @classmethod
    def open(cls, folder: Folder, request: Request, layout: Layout) -> Self:
        """The arrays in `folder`, made if they are not there; several processes may do that at once."""
        witness = Witness(folder.store(read_only=False))
        with folder.clear_errors():
            root = _root(witness)
            points = {key: _of_point(root, key, request, layout) for key in layout.points}
            of_latents = (request.num_samples, *layout.latent)
            latents = _at(root, "latents", of_latents, "float32", (1, *layout.latent))
            across = _across(root, request, layout) if layout.across else None
        return cls(root, witness, points, latents, across)


def _of_point(root: Any, key: str, request: Request, layout: Layout) -> PointArrays:
    steps, batches, branches = len(layout.timesteps), len(request.batches), len(layout.branches)
    channels, tokens = layout.points[key].channels, len(layout.points[key].stored[0][0])
    (width, padded), at = _widths(channels), f"points/{key}"
    of_values = (request.num_samples, branches, steps, tokens, channels)
    chunk, shard = (1, 1, steps, tokens, width), (1, branches, steps, tokens, padded)
    values = _at(root, f"{at}/values", of_values, "float32", chunk, shard)
    gram = _grams(root, at, batches, channels, num_pairs(joint_size(branches, steps)))
    each = (branches, steps, channels)
    gain = _at(root, f"{at}/batch_gain", (batches, *each), "float64", (1, *each))
    return PointArrays(values, gram, gain)


def _across(root: Any, request: Request, layout: Layout) -> Any:
    channels = next(iter(layout.points.values())).channels
    pairs = num_pairs(joint_size(len(layout.points) * len(layout.branches), len(layout.timesteps)))
    return _grams(root, "across", len(request.batches), channels, pairs)


def _grams(root: Any, at: str, batches: int, channels: int, pairs: int) -> Any:
    width, padded = _widths(channels)
    return _at(root, f"{at}/batch_gram", (batches, channels, pairs), "float64", (1, width, pairs), (1, padded, pairs))


def _widths(channels: int) -> tuple[int, int]:
    """Channels of a chunk, and those of a file."""
    width = min(channels, WIDTH)
    return width, -(-channels // width) * width


def write_array(root: Any, name: str, values: np.ndarray) -> None:
    """An array whole; Gram matrices, whose channels are second, in chunks of these."""
    chunks = (1, min(values.shape[1], WIDTH), values.shape[2]) if name.endswith("/gram") else values.shape
    _at(root, name, values.shape, str(values.dtype), chunks)[...] = values


def _root(store: Any) -> Any:
    try:
        return zarr.open_group(store, mode="a", zarr_format=3)
    except ContainsGroupError:  # another process made it between our look and our write
        return zarr.open_group(store, mode="r+", zarr_format=3)


def _at(root: Any, name: str, shape: Sizes, dtype: str, chunks: Sizes, shards: Sizes | None = None) -> Any:
    """The array `name`, made if it is not there.

    Args:
        chunks, shards: what is compressed as one, and what is one file; a chunk is by default.
    """
    codecs = [ZstdCodec(level=3), Crc32cCodec()]
    try:
        return root.create_array(name, shape=shape, dtype=dtype, chunks=chunks, shards=shards, compressors=codecs)
    except ContainsArrayError:
        found = root[name]
        if found.shape != shape:
            raise TraceError(f"{name} holds {found.shape}, expected {shape}; trace into another --out") from None
        return found
