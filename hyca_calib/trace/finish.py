"""From all batches to a trace: sums in the order of the batches, whoever recorded them, then the manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from hyca_calib.pipelines.workload import SPLITS
from hyca_calib.trace.arrays import Arrays, write_array
from hyca_calib.trace.commits import Commit
from hyca_calib.trace.digests import FileDigest
from hyca_calib.trace.documents import Document, write_json
from hyca_calib.trace.folder import Folder, LocalFolder
from hyca_calib.trace.layout import Facts
from hyca_calib.trace.request import TRACE_VERSION, Request
from hyca_calib.trace.run_log import RUNS
from hyca_calib.trace.shard_lock import LOCKS, Share, nobody_else
from hyca_calib.trace.statistics import unpacked_gram
from hyca_runtime.errors import TraceError

__all__ = ["COST", "MANIFEST", "UNCOUNTED", "finish", "manifest_of", "summarise"]

MANIFEST = "manifest.json"
COST = "cost.json"
UNCOUNTED = (MANIFEST, f"{RUNS}/", f"{LOCKS}/")
"""Files that differ between equal traces."""


def finish(folder: Folder, request: Request, share: Share) -> None:
    """Complete a trace of which all batches are committed; a second process that does it writes the same bytes.

    Args:
        share: what the caller has claimed.

    Raises:
        TraceError: NaN or infinity in every sample of a split.
    """
    _drop_partial(folder, share)
    facts = Facts.read(folder)
    commits = [Commit.read(folder, n) for n in range(len(request.batches))]
    arrays = Arrays.open(folder, request, facts)
    excluded = sorted(set().union(*(commit.excluded for commit in commits)))
    left = {split: sum(job.index not in excluded for job in request.workload.of(split)) for split in SPLITS}
    if empty := [split for split, count in left.items() if not count]:
        raise TraceError(f"{folder}: every sample of {' and '.join(empty)} holds NaN or infinity; check the model")
    gain_of = [n for n in request.gain_batches if not commits[n].excluded] or request.gain_batches  # NaN spoils a batch
    measured = sum(len(set(commits[n].samples) - commits[n].excluded) for n in gain_of)
    steps = len(facts.timesteps)
    sums = np.zeros((len(SPLITS), *arrays.gram.shape[1:]))
    gain = np.zeros(arrays.gain.shape[1:])
    with folder.clear_errors():
        for number, jobs in enumerate(request.batches):
            sums[SPLITS.index(jobs[0].split)] += arrays.gram[number]
            if number in gain_of:
                gain += arrays.gain[number]
        attributes = _attributes(request, facts, commits, excluded)
        gram, gain = unpacked_gram(sums, steps), gain / measured
        summarise(arrays.root, request.point.kind, gram, gain, facts, attributes)
    write_json(folder, MANIFEST, manifest_of(folder, commits))


def _drop_partial(folder: Folder, share: Share) -> None:
    """Delete what killed processes left half written, unless a living one may be writing."""
    if isinstance(folder, LocalFolder):
        with nobody_else(folder.local, share) as alone:
            if alone:
                folder.drop_partial()


def summarise(root: Any, point: str, gram: np.ndarray, gain: np.ndarray, facts: Facts, attributes: Document) -> None:
    """Write what is known of a trace as a whole.

    Args:
        gram: ``(split, branch, channel, step, step)``.
        gain: ``(branch, step, channel)``.
    """
    arrays = {
        f"points/{point}/gram": gram,
        f"points/{point}/gain": gain,
        f"points/{point}/tokens": np.asarray(facts.stored),
        "times/timestep": np.asarray(facts.timesteps),
        "times/sigma": np.asarray(facts.sigmas),
        "times/response": np.asarray(facts.response),
    }
    for name, values in arrays.items():
        write_array(root, name, values)
    root.attrs.update({"format": "hyca-trace", "version": TRACE_VERSION, **attributes})


def manifest_of(folder: Folder, commits: Sequence[Commit]) -> Document:
    """Digests of all files; those of batches as they were when written."""
    files = {key: digest for commit in commits for key, digest in commit.files.items()}
    for key in folder.listing():
        if key not in files and not key.startswith(UNCOUNTED):
            files[key] = FileDigest.of(folder.read(key))
    listed = {key: files[key].to_json() for key in sorted(files)}
    return {"files": listed, "sha256": hashlib.sha256(json.dumps(listed).encode()).hexdigest()}


def _attributes(request: Request, facts: Facts, commits: Sequence[Commit], excluded: list[int]) -> Document:
    return {
        "branches": facts.branches,
        "num_tokens": facts.num_tokens,
        "scheduler_timesteps": facts.scheduler_timesteps,
        "model": request.model,
        "point": request.point.model_dump(),
        "workload": request.workload.describe(),
        "splits": [job.split for job in request.workload.jobs],
        "batch": request.batch,
        "gram_share": facts.gram_share,
        "gram_error": facts.gram_error,
        "excluded": excluded,
        "nonfinite": [dict(found) for commit in commits for found in commit.nonfinite],
    }
