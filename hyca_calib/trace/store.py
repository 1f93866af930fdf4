"""A trace for reading."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import zarr

from hyca_calib.costs.flops import CostModel
from hyca_calib.pipelines.workload import SPLITS, Split, Workload
from hyca_calib.trace.attributes import TraceAttributes
from hyca_calib.trace.commits import committed
from hyca_calib.trace.digests import MANIFEST, Manifest
from hyca_calib.trace.documents import REQUEST, damaged, read_as, read_json
from hyca_calib.trace.finish import COST
from hyca_calib.trace.folder import Folder, Where
from hyca_calib.trace.metadata import check_array, check_group
from hyca_calib.trace.request import Request, point_key
from hyca_calib.trace.statistics import joint_size, num_pairs, unpacked_gram
from hyca_runtime.errors import HycaError, TraceError
from hyca_runtime.point import CachePoint


class Trace:
    """A complete trace, as one of its points shows it.

    Args:
        point: the first that was asked for, by default.

    Raises:
        TraceError: missing, incomplete, damaged, of another version, or without that point.
    """

    def __init__(self, where: Where, point: CachePoint | None = None) -> None:
        self.folder = Folder(where)
        _check_complete(self.folder)
        check_group(self.folder)
        with self._readable():
            self._root = zarr.open_group(self.folder.store(read_only=True), mode="r")
            self.attributes = TraceAttributes.of_group(self.folder, self._root.attrs.asdict())
        self.points = tuple(of.point for of in self.attributes.points)
        self.point = self._named(point) if point is not None else self.points[0]
        self.of_point = self.attributes.points[self.points.index(self.point)]
        self.key, self.branches = point_key(self.point), self.attributes.branches
        self._costs = read_as(dict[str, CostModel], self.folder, COST)
        self.cost = self.cost_at(self.point)
        self._excluded = frozenset(self.attributes.excluded)
        self._gram = self.array(f"points/{self.key}/gram")
        self.gain = self.array(f"points/{self.key}/gain")
        self.timesteps = self.array("times/timestep")
        self.sigmas = self.array("times/sigma")
        self.response = self.array("times/response")
        self._check_shapes()

    def _named(self, point: CachePoint) -> CachePoint:
        """The trace's own point of that name: on which axis its channels are, is the trace's to know.

        Raises:
            TraceError: there is none.
        """
        found = next((of for of in self.points if of == point or str(of) == str(point)), None)
        if found is None:
            there, wanted = ", ".join(map(str, self.points)), ",".join(map(str, (*self.points, point)))
            raise TraceError(f"{self.folder} is of {there}, not of {point}; trace with --point {wanted}")
        return found

    def at(self, point: CachePoint) -> Self:
        """The same trace, as another of its points shows it."""
        return self if point == self.point else type(self)(self.folder.where, point)

    def cost_at(self, point: CachePoint) -> CostModel:
        """What steps cost where one of the trace's points is forecast."""
        if (key := point_key(point)) not in self._costs:
            raise damaged(self.folder, COST, f"has nothing of {key}")
        return self._costs[key]

    def array(self, name: str) -> np.ndarray:
        """One whole array, checksums verified."""
        with self._readable():
            values = np.asarray(self._array(name)[...])
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise TraceError(f"{self.folder}: {name} holds NaN or infinity; trace again")
        return values

    def _check_shapes(self) -> None:
        branches, steps, channels = len(self.branches), len(self.timesteps), self._gram.shape[1]
        expected = {
            "gram": (self._gram, (len(SPLITS), channels, num_pairs(joint_size(branches, steps)))),
            "gain": (self.gain, (branches, steps, channels)),
            "sigma": (self.sigmas, (steps + 1,)),
            "response": (self.response, (steps,)),
        }
        for name, (array, shape) in expected.items():
            if array.shape != shape:
                raise TraceError(f"{self.folder}: {name} has shape {array.shape}, expected {shape}; trace again")
        if not all(self.samples(split) for split in SPLITS):
            raise TraceError(f"{self.folder}: a split has no samples; trace again")

    def _array(self, name: str) -> Any:
        check_array(self.folder, name)
        return self._root[name]

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Zarr raises many kinds of errors on damaged stores."""
        try:
            yield
        except HycaError:
            raise
        except Exception as error:
            told = f"{type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}"
            raise damaged(self.folder, "the trace", f"is damaged or truncated ({told})") from error

    @property
    def where(self) -> str:
        """Its path or URL."""
        return self.folder.where

    @property
    def name(self) -> str:
        """Its path or URL, and which of several points this is of."""
        return f"{self.where} at {self.point}" if len(self.points) > 1 else self.where

    @property
    def digest(self) -> str:
        """Short SHA-256 of what it says of itself: that of another model, workload or point is another."""
        told = self.attributes.model_dump(mode="json", exclude_defaults=True)
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def num_steps(self) -> int:
        return len(self.timesteps)

    @property
    def num_channels(self) -> int:
        return int(self._gram.shape[1])

    @property
    def stacked(self) -> int:
        """How many guidance branches each call of the network holds, side by side in its batch."""
        return self.attributes.stacked

    @property
    def calls(self) -> int:
        """How often the network is called on a step."""
        return len(self.branches) // self.stacked

    @property
    def crossed(self) -> bool:
        """Whether all branches have products with each other in `joint_gram`; not where their tokens differ."""
        return self.of_point.crossed

    @property
    def guidance(self) -> tuple[float, ...]:
        """Weight of each branch in what the sampler steps with, as measured; empty where it is not known."""
        return tuple(self.attributes.guidance)

    def gram(self, split: Split) -> np.ndarray:
        """``(channel, step, step)`` of one split, summed over guidance branches."""
        packed, steps = self._gram[SPLITS.index(split)], self.num_steps
        size = joint_size(len(self.branches), steps)
        places = unpacked_gram(np.arange(num_pairs(size)), size)
        return np.asarray(sum(packed[:, places[b : b + steps, b : b + steps]] for b in range(0, size - 1, steps)))

    def joint_gram(self, split: Split) -> np.ndarray:
        """Products of all steps of all branches, and of the constant 1, of one split, ``(channel, row, row)``.

        Row ``b * num_steps + s`` is step s of branch b; the last is the constant, whose products are the sums of the
        features, and with itself the number of tokens. Branches with other tokens, see `crossed`, are as if each were
        zero on the other's.
        """
        return unpacked_gram(self._gram[SPLITS.index(split)], joint_size(len(self.branches), self.num_steps))

    def check_across(self, points: Sequence[CachePoint]) -> None:
        """Raises TraceError unless there are products of these points with each other."""
        missing = [str(point) for point in points if point not in self.points]
        if len(points) > 1 and (missing or not self.attributes.across):
            there, wanted = ", ".join(map(str, self.points)), ",".join(map(str, points))
            lacks = f"is of {there}, not of {missing[0]}" if missing else "has no products of points with each other"
            raise TraceError(f"{self.folder} {lacks}; trace again with --point {wanted} --across")

    def gram_across(self, split: Split, points: Sequence[CachePoint]) -> np.ndarray:
        """As `joint_gram`, with the branches of all these points, one point after the other.

        Raises:
            TraceError: see `check_across`.
        """
        self.check_across(points)
        size = joint_size(len(self.points) * len(self.branches), self.num_steps)
        full, each = unpacked_gram(self._across[SPLITS.index(split)], size), (size - 1) // len(self.points)
        begins = [self.points.index(point) * each for point in points]
        rows = np.concatenate([*(np.arange(begin, begin + each) for begin in begins), [size - 1]])
        return np.asarray(full[:, rows[:, None], rows])

    @cached_property
    def _across(self) -> np.ndarray:
        return self.array("across/gram")

    def samples(self, split: Split) -> list[int]:
        """Numbers of the samples of a split, in the order of `Workload.of`; without those that hold NaN or infinity."""
        splits = enumerate(self.attributes.splits)
        return [i for i, of in splits if of == split and i not in self._excluded]

    def values(self, split: Split, most: int | None = None) -> np.ndarray:
        """Features of the stored tokens ``(sample, branch, step, token, channel)`` of the first `most` samples."""
        return np.stack([self.sample_values(index) for index in self.samples(split)[:most]])

    def sample_values(self, index: int) -> np.ndarray:
        """Features of the stored tokens of one sample, ``(branch, step, token, channel)``."""
        with self._readable():
            return np.asarray(self._array(f"points/{self.key}/values")[index])

    def sample_gram(self, index: int) -> np.ndarray:
        """``(channel, step, step)`` of the stored tokens of one sample, summed over guidance branches."""
        values = self.sample_values(index).astype(np.float64)
        rows = values.transpose(3, 1, 0, 2).reshape(self.num_channels, self.num_steps, -1)
        return np.asarray(rows @ rows.transpose(0, 2, 1))

    def latents_of(self, split: Split) -> np.ndarray:
        """Final latents of the full run, in the order of `Workload.of`."""
        with self._readable():
            return np.stack([np.asarray(self._array("latents")[index]) for index in self.samples(split)])

    def check_same_samples(self, other: Self) -> None:
        """Raises TraceError unless both have the same samples in each split."""
        if self.attributes.workload.digest != other.attributes.workload.digest:
            raise TraceError(
                f"{self.where} and {other.where} are of other prompts, samples, steps or seeds; trace them alike"
            )
        if self._excluded != other._excluded:
            raise TraceError(f"{self.where} and {other.where} hold NaN or infinity in other samples; trace again")

    def workload(self) -> Workload:
        """What was sampled; samples that hold NaN or infinity are in no split."""
        return replace(Request.read(self.folder).workload, excluded=self._excluded)


def newest_trace(folder: Path) -> Path:
    """The complete trace in `folder` that was finished last.

    Raises:
        TraceError: there is none.
    """
    traces = sorted(folder.glob(f"*.zarr/{MANIFEST}"), key=lambda path: path.stat().st_mtime)
    if not traces:
        raise TraceError(f"no trace in {folder}/; make one: python -m hyca_calib trace")
    return traces[-1].parent


def _check_complete(folder: Folder) -> None:
    if folder.exists(MANIFEST):
        listed = read_as(Manifest, folder, MANIFEST).files
        if missing := sorted(listed.keys() - set(folder.listing())):  # which Zarr would read as zeros
            raise damaged(folder, missing[0], "is missing")
        return
    if not folder.exists(REQUEST):
        if folder.exists("zarr.json"):
            TraceAttributes.of_group(folder, read_json(folder, "zarr.json").get("attributes"))
            raise damaged(folder, REQUEST, "is missing")
        if folder.listing():
            raise TraceError(f"{folder} is there, but no trace; give the path of a trace")
        raise TraceError(f"{folder}: no such trace; make one: python -m hyca_calib trace --out {folder}")
    request = Request.read(folder)
    done = sum(len(request.batches[n]) for n in committed(folder) if n < len(request.batches))
    raise TraceError(
        f"{folder}: incomplete, {done} of {request.num_samples} samples; give the same `trace` command again"
    )
