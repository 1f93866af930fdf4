"""From all batches to a trace: sums in the order of the batches, whoever recorded them, then the manifest."""

from typing import Any

import numpy as np

from hyca_calib.pipelines.workload import SPLITS
from hyca_calib.trace.arrays import Arrays, write_array
from hyca_calib.trace.attributes import TraceAttributes, TracedPoint
from hyca_calib.trace.commits import Commit
from hyca_calib.trace.digests import Manifest
from hyca_calib.trace.documents import read_as
from hyca_calib.trace.folder import Folder
from hyca_calib.trace.guidance import agreed
from hyca_calib.trace.layout import LAYOUT, Layout, PointLayout
from hyca_calib.trace.request import Request, point_key
from hyca_calib.trace.shard_lock import Shard, sole_writer
from hyca_runtime.errors import TraceError
from hyca_runtime.point import CachePoint

COST = "cost.json"


def finish(folder: Folder, request: Request, shard: Shard) -> None:
    """Complete a trace of which all batches are committed; a second process that does it writes the same bytes.

    Args:
        shard: what the caller has locked.

    Raises:
        TraceError: NaN or infinity in every sample of a split.
    """
    with sole_writer(folder, shard) as alone:
        if alone:
            folder.drop_partial()
    layout = read_as(Layout, folder, LAYOUT)
    commits = [Commit.read(folder, n) for n in range(len(request.batches))]
    arrays = Arrays.open(folder, request, layout)
    excluded = sorted(set().union(*(commit.excluded for commit in commits)))
    left = {split: sum(job.index not in excluded for job in request.workload.of(split)) for split in SPLITS}
    if empty := [split for split, count in left.items() if not count]:
        raise TraceError(f"{folder}: every sample of {' and '.join(empty)} holds NaN or infinity; check the model")
    gain_of = [n for n in request.gain_batches if not commits[n].excluded] or request.gain_batches
    measured = sum(len(set(commits[n].samples) - commits[n].excluded) for n in gain_of)
    attributes = TraceAttributes(
        branches=layout.branches,
        stacked=layout.stacked,
        guidance=agreed([list(c.guidance) for c in commits if set(c.samples) - c.excluded]),
        scheduler_timesteps=layout.scheduler_timesteps,
        model=request.model,
        points=[traced_point(point, layout.points[point_key(point)]) for point in request.points],
        workload=request.workload.describe(),
        splits=[job.split for job in request.workload.jobs],
        batch=request.batch,
        excluded=excluded,
        nonfinite=[found for commit in commits for found in commit.nonfinite],
        first_computed=layout.first_computed,
        across=layout.across,
        chunks=layout.chunks,
    )
    with folder.clear_errors():
        for key, of in arrays.points.items():
            gain = sum((of.gain[number] for number in gain_of), np.zeros(of.gain.shape[1:]))
            summarise_point(arrays.root, key, _by_split(of.gram, request), gain / measured, layout.points[key])
        if arrays.across is not None:
            write_array(arrays.root, "across/gram", _by_split(arrays.across, request))
        summarise(arrays.root, layout, attributes)
    Manifest.of(folder, {key: of for commit in commits for key, of in commit.files.items()}).write(folder)


def _by_split(gram: Any, request: Request) -> np.ndarray:
    """``(batch, channel, pair)`` summed, ``(split, channel, pair)``."""
    sums = np.zeros((len(SPLITS), *gram.shape[1:]))
    for number, jobs in enumerate(request.batches):
        sums[SPLITS.index(jobs[0].split)] += gram[number]
    return sums


def traced_point(point: CachePoint, layout: PointLayout) -> TracedPoint:
    """What a trace says of a point."""
    told = layout.model_dump(include=TracedPoint.model_fields.keys() - {"point"})
    return TracedPoint(point=point.model_copy(update={"channel_axis": layout.channel_axis}), **told)


def summarise_point(root: Any, key: str, gram: np.ndarray, gain: np.ndarray, layout: PointLayout) -> None:
    """Write what is known of a point as a whole.

    Args:
        gram: ``(split, channel, pair)``.
        gain: ``(branch, step, channel)``.
    """
    for name, values in {"gram": gram, "gain": gain, "tokens": np.asarray(layout.stored)}.items():
        write_array(root, f"points/{key}/{name}", values)


def summarise(root: Any, layout: Layout, attributes: TraceAttributes) -> None:
    """Write what is known of a trace as a whole, besides its points."""
    write_array(root, "times/timestep", np.asarray(layout.timesteps))
    write_array(root, "times/sigma", np.asarray(layout.sigmas))
    write_array(root, "times/response", np.asarray(layout.response))
    root.attrs.update(attributes.model_dump(mode="json", exclude_none=True))
