"""From all batches to a trace: sums in the order of the batches, whoever recorded them, then the manifest."""

from typing import Any

import numpy as np

from hyca_calib.pipelines.workload import SPLITS
from hyca_calib.trace.arrays import Arrays, write_array
from hyca_calib.trace.attributes import TraceAttributes
from hyca_calib.trace.commits import Commit
from hyca_calib.trace.digests import Manifest
from hyca_calib.trace.documents import read_as
from hyca_calib.trace.folder import Folder
from hyca_calib.trace.guidance import agreed
from hyca_calib.trace.layout import LAYOUT, Layout
from hyca_calib.trace.request import Request
from hyca_calib.trace.shard_lock import Shard, sole_writer
from hyca_runtime.errors import TraceError

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
    gain_of = [n for n in request.gain_batches if not commits[n].excluded] or request.gain_batches  # NaN spoils a batch
    measured = sum(len(set(commits[n].samples) - commits[n].excluded) for n in gain_of)
    sums = np.zeros((len(SPLITS), *arrays.gram.shape[1:]))
    gain = np.zeros(arrays.gain.shape[1:])
    with folder.clear_errors():
        for number, jobs in enumerate(request.batches):
            sums[SPLITS.index(jobs[0].split)] += arrays.gram[number]
            if number in gain_of:
                gain += arrays.gain[number]
        attributes = TraceAttributes(
            branches=layout.branches,
            stacked=layout.stacked,
            crossed=layout.crossed,
            guidance=agreed([list(c.guidance) for c in commits if set(c.samples) - c.excluded]),
            num_tokens=layout.num_tokens,
            scheduler_timesteps=layout.scheduler_timesteps,
            model=request.model,
            point=request.point,
            workload=request.workload.describe(),
            splits=[job.split for job in request.workload.jobs],
            batch=request.batch,
            gram_share=layout.gram_share,
            gram_error=layout.gram_error,
            excluded=excluded,
            nonfinite=[found for commit in commits for found in commit.nonfinite],
            first_computed=layout.first_computed,
        )
        summarise(arrays.root, sums, gain / measured, layout, attributes)
    Manifest.of(folder, {key: of for commit in commits for key, of in commit.files.items()}).write(folder)


def summarise(root: Any, gram: np.ndarray, gain: np.ndarray, layout: Layout, attributes: TraceAttributes) -> None:
    """Write what is known of a trace as a whole.

    Args:
        gram: ``(split, channel, pair)``.
        gain: ``(branch, step, channel)``.
    """
    point = f"points/{attributes.point.kind}"
    arrays = {
        f"{point}/gram": gram,
        f"{point}/gain": gain,
        f"{point}/tokens": np.asarray(layout.stored),
        "times/timestep": np.asarray(layout.timesteps),
        "times/sigma": np.asarray(layout.sigmas),
        "times/response": np.asarray(layout.response),
    }
    for name, values in arrays.items():
        write_array(root, name, values)
    root.attrs.update(attributes.model_dump(mode="json", exclude_none=True))
