"""What was asked of a trace: everything that decides its bytes, kept in it as ``request.json``."""

import re
from functools import cached_property
from typing import Any, Self

from pydantic import BaseModel, ValidationError, model_validator

from hyca_calib.pipelines.load import TracedModel
from hyca_calib.pipelines.workload import Job, Workload, batches
from hyca_calib.trace.digests import MANIFEST
from hyca_calib.trace.documents import REQUEST, checked, read_json, write_json
from hyca_calib.trace.folder import Folder
from hyca_calib.trace.streamed import Which
from hyca_runtime.errors import TraceError
from hyca_runtime.point import CachePoint

TRACE_VERSION = 5
"""Since 5 statistics are joint over guidance branches, which are told apart in one call, too; before, gains were of all
parts of a call's batch, and before 4 of all splits."""


def point_key(point: CachePoint) -> str:
    """The name of a point in a trace, which may be a folder's."""
    return re.sub(r"[^A-Za-z0-9_.+-]", "-", str(point))


class Request(BaseModel, frozen=True):
    """What one trace is made for.

    Attributes:
        points: one or more, all recorded in the same runs.
        across: whether features of different points are multiplied with each other, too.
        batch: samples in one pipeline call; a batch is recorded and stored as a whole.
        tokens: tokens of each sample whose features are stored.
        gram_tokens: tokens of each network call that enter the statistics, chosen at random if there are more.
        chunks: of a video whose calls hold several, those that are recorded.
    """

    version: int = TRACE_VERSION
    model: TracedModel
    points: tuple[CachePoint, ...]
    batch: int
    tokens: int
    gram_tokens: int
    workload: Workload
    across: bool = False
    chunks: Which = "all"

    @model_validator(mode="after")
    def _check(self) -> Self:
        keys = [point_key(point) for point in self.points]
        if not keys or len(set(keys)) < len(keys):
            raise ValueError(f"points: expected one or more, each once, got {', '.join(map(str, self.points))}")
        if self.across and len(keys) < 2:
            raise ValueError(f"across: expected several points to multiply with each other, got {self.points[0]}")
        return self

    @cached_property
    def batches(self) -> tuple[tuple[Job, ...], ...]:
        """The samples, as they are recorded."""
        return tuple(tuple(jobs) for jobs in batches(self.workload.jobs, self.batch))

    @cached_property
    def gain_batches(self) -> tuple[int, ...]:
        """Those in which the gain of the network's tail is measured: all of the fit split, none of another.

        The gain decides groups and schedules, so what candidates are chosen and judged on must not be in it. The
        price: a gradient through the tail, and a mean over, 3/7 of the samples; of all splits half of them would do.
        """
        return tuple(n for n, jobs in enumerate(self.batches) if jobs[0].split == "fit")

    @property
    def num_samples(self) -> int:
        return len(self.workload.jobs)

    @classmethod
    def asked(cls, **content: Any) -> Self:
        """The request for a new trace.

        Raises:
            TraceError: there can be no such trace.
        """
        try:
            return cls(**content)
        except ValidationError as error:
            raise TraceError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error

    @classmethod
    def read(cls, folder: Folder) -> Self:
        """What `folder` was made for.

        Raises:
            TraceError: it does not say, or not clearly, or for another version.
        """
        document = read_json(folder, REQUEST)
        if "limits" in document:
            raise TraceError(f"{folder} is a study, not a trace; give the trace that it was searched on")
        check_version(folder, document.get("version", 0))
        return checked(cls, document, folder, REQUEST)

    def settle(self, folder: Folder) -> None:
        """Write the request, or go on where the same one was begun.

        Raises:
            TraceError: the folder holds something else, or a trace of another version.
        """
        wanted = self.model_dump(mode="json", exclude={"workload": {"excluded"}})
        if not folder.exists(REQUEST):
            strangers = any(not key.startswith(".") for key in folder.listing())
            if not strangers:
                write_json(folder, REQUEST, wanted)
                return
            if not folder.exists(REQUEST):  # not even by now: other processes may have begun with us
                raise TraceError(f"{folder} exists and holds no trace that could be gone on with; choose another --out")
        there = type(self).read(folder)
        same = {name: getattr(there, name) == getattr(self, name) for name in type(self).model_fields}
        same["workload"] = there.workload.digest == self.workload.digest  # its files may lie elsewhere
        if differs := sorted(name for name, equal in same.items() if not equal):
            raise TraceError(
                f"{folder} holds a trace with another {', '.join(differs)}; choose another --out, or --overwrite it"
            )


def holds_trace(folder: Folder) -> bool:
    """Whether a trace lies there, complete or not, of whatever version, even a damaged one."""
    if not folder.exists(REQUEST):
        return folder.exists(MANIFEST)
    try:
        return {"model", "workload"} <= read_json(folder, REQUEST).keys()
    except TraceError:
        return folder.exists(MANIFEST) or folder.exists("zarr.json")


def check_version(folder: Folder, version: object) -> None:
    """Raises TraceError unless a trace of `version` means what this package takes it to mean."""
    if not isinstance(version, int) or isinstance(version, bool):
        raise TraceError(f"{folder}: the trace's version is {version!r}, expected {TRACE_VERSION}; trace again")
    if version > TRACE_VERSION:
        raise TraceError(f"{folder}: trace version {version} is newer than this hyca; upgrade")
    if version < TRACE_VERSION:
        told = f"version {version}" if version else "an unnamed version"
        raise TraceError(
            f"{folder}: trace of {told} is of an older hyca, expected version {TRACE_VERSION} (before, guidance "
            f"branches had no statistics of each other); trace again: give the same `trace` command with --overwrite"
        )
