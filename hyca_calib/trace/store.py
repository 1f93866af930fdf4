"""A trace on disk: Zarr v3, sharded by sample, zstd, CRC-32C.

Layout::

    points/<point>/values  (sample, branch, step, token, channel)  float32, a recorded subset of tokens
    points/<point>/gram    (split, branch, channel, step, step)    float64, over all tokens
    points/<point>/gain    (branch, step, channel)                 float64, squared gain to the output
    points/<point>/tokens  (branch, part, token)                   which tokens `values` holds
    times/timestep, times/sigma                                    (step,), (step + 1,)
    times/response                         (step,)  change of the final latent per change of the output
    latents                (sample, ...)                           float32, final latents of the full run

A trace is written beside its final name and renamed when complete: what has the name is whole.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from hyca_calib.cost import CostModel
from hyca_calib.workload import SPLITS, Split, Workload
from hyca_runtime.errors import TraceError
from hyca_runtime.point import CachePoint

__all__ = ["Trace", "TraceWriter", "newest_trace", "stored_bytes"]

TRACE_VERSION = 2


@dataclass(frozen=True)
class Layout:
    """Sizes of one trace."""

    samples: int
    branches: int
    steps: int
    tokens: int
    channels: int
    latent: tuple[int, ...]


def stored_bytes(layout: Layout) -> int:
    """Size before compression."""
    values = 4 * layout.samples * layout.branches * layout.steps * layout.tokens * layout.channels
    gram = 8 * len(SPLITS) * layout.branches * layout.channels * layout.steps**2
    return values + gram + 4 * layout.samples * int(np.prod(layout.latent))


class TraceWriter:
    """Writes a trace sample by sample; nothing has the final name before `commit`."""

    def __init__(self, path: Path, point: CachePoint, layout: Layout) -> None:
        self._path = path
        self._partial = path.with_name(path.name + ".partial")
        shutil.rmtree(self._partial, ignore_errors=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._root = zarr.create_group(self._partial)
        n = layout
        self._at = f"points/{point.kind}"
        width = min(n.channels, 64)
        per_sample = (1, n.branches, n.steps, n.tokens, n.channels)
        self._values = self._create(
            f"{self._at}/values",
            (n.samples, *per_sample[1:]),
            "float32",
            (1, 1, n.steps, n.tokens, width),
            (*per_sample[:-1], -(-n.channels // width) * width),
        )
        self._latents = self._create("latents", (n.samples, *n.latent), "float32", (1, *n.latent))

    def _create(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: str,
        chunks: tuple[int, ...] | None = None,
        shards: tuple[int, ...] | None = None,
    ) -> Any:
        return self._root.create_array(
            name,
            shape=shape,
            dtype=dtype,
            chunks=chunks or shape,
            shards=shards,
            compressors=[ZstdCodec(level=3), Crc32cCodec()],
        )

    def write_sample(self, index: int, values: np.ndarray, latent: np.ndarray) -> None:
        """Store one sample: `values` ``(branch, step, token, channel)`` and its final latent."""
        self._values[index] = values
        self._latents[index] = latent

    def commit(self, arrays: dict[str, np.ndarray], attributes: dict[str, Any]) -> None:
        """Write what is known at the end, then give the trace its name."""
        for name, array in arrays.items():
            where = name if name.startswith("times/") else f"{self._at}/{name}"
            chunks = (1, 1, min(array.shape[2], 64), *array.shape[3:]) if name == "gram" else None
            self._create(where, array.shape, str(array.dtype), chunks)[...] = array
        self._root.attrs.update({"format": "hyca-trace", "version": TRACE_VERSION, **attributes})
        if self._path.exists():
            shutil.rmtree(self._path)
        self._partial.rename(self._path)


class Trace:
    """A complete trace, opened for reading.

    Raises:
        TraceError: missing, incomplete, damaged, or of a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            left = path.with_name(path.name + ".partial")
            hint = f" (an interrupted one is at {left}; trace again)" if left.exists() else ""
            raise TraceError(f"{path}: no such trace{hint}; make one: python -m hyca_calib trace --out {path}")
        try:
            self._root = zarr.open_group(path, mode="r")
            self.attributes: dict[str, Any] = json.loads(json.dumps(self._root.attrs.asdict()))
            if self.attributes.get("format") != "hyca-trace":
                raise TraceError(f"{path}: not a HyCa trace, or an incomplete one; trace again")
            if self.attributes["version"] > TRACE_VERSION:
                raise TraceError(f"{path}: trace version {self.attributes['version']} is newer than this hyca; upgrade")
            if self.attributes["version"] < TRACE_VERSION:
                raise TraceError(f"{path}: trace version {self.attributes['version']} is of an older hyca; trace again")
            self.point = CachePoint(**self.attributes["point"])
            self.cost = CostModel(**self.attributes["cost"])
            self.branches: list[str] = self.attributes["branches"]
            self._gram = self.array(f"points/{self.point.kind}/gram")
            self.gain = self.array(f"points/{self.point.kind}/gain")
            self.timesteps = self.array("times/timestep")
            self.sigmas = self.array("times/sigma")
            self.response = self.array("times/response")
            self.latents = self.array("latents")
        except TraceError:
            raise
        except Exception as error:  # zarr raises many kinds on damaged stores
            raise TraceError(f"{path}: the trace is damaged or truncated ({_one_line(error)}); trace again") from error

    def array(self, name: str) -> np.ndarray:
        """One whole array, checksums verified."""
        values = np.asarray(self._root[name][...])  # type: ignore[index]
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise TraceError(f"{self.path}: {name} holds NaN or infinity; trace again")
        return values

    @property
    def num_steps(self) -> int:
        return len(self.timesteps)

    @property
    def num_channels(self) -> int:
        return int(self._gram.shape[2])

    def gram(self, split: Split) -> np.ndarray:
        """``(channel, step, step)`` of one split, summed over guidance branches."""
        return np.asarray(self._gram[SPLITS.index(split)].sum(axis=0))

    def sample_gram(self, index: int) -> np.ndarray:
        """``(channel, step, step)`` of the stored tokens of one sample, summed over guidance branches."""
        values = np.asarray(self._root[f"points/{self.point.kind}/values"][index], dtype=np.float64)  # type: ignore[index]
        rows = values.transpose(3, 1, 0, 2).reshape(self.num_channels, self.num_steps, -1)
        return np.asarray(rows @ rows.transpose(0, 2, 1))

    def latents_of(self, split: Split) -> np.ndarray:
        """Final latents of the full run, in the order of `Workload.of`."""
        chosen = [i for i, s in enumerate(self.attributes["splits"]) if s == split]
        return np.asarray(self.latents[chosen])

    def check_workload(self, workload: Workload) -> None:
        """Raises TraceError if `workload` is not the one that was traced."""
        if workload.digest != self.attributes["workload"]["digest"]:
            raise TraceError(
                f"{self.path} was traced with other prompts, samples, steps or seed; give the same --prompts again"
            )


def newest_trace(folder: Path) -> Path:
    """The trace in `folder` that was finished last.

    Raises:
        TraceError: there is none.
    """
    traces = sorted(folder.glob("*.zarr"), key=lambda path: path.stat().st_mtime)
    if not traces:
        raise TraceError(f"no trace in {folder}/; make one: python -m hyca_calib trace")
    return traces[-1]


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}"
