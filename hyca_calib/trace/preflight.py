"""What a trace needs, known before it begins."""

import os
from dataclasses import dataclass
from typing import Self

import torch

from hyca_calib.costs.flops import TIMED_TAPS
from hyca_calib.pipelines.workload import SPLITS
from hyca_calib.records.console import human_bytes
from hyca_calib.trace.folder import Folder
from hyca_calib.trace.recording import PointRecording, Recording
from hyca_calib.trace.request import Request
from hyca_calib.trace.statistics import BLOCK_BYTES, joint_size, num_pairs
from hyca_calib.trace.writer import WAITING
from hyca_runtime.errors import TraceError


@dataclass(frozen=True)
class _Need:
    """Bytes that a point takes of one batch; its feature of one call with all tokens among them, and a block of what
    its products are made of."""

    call: int
    features: int
    values: int
    gram: int
    block: int

    @classmethod
    def of(cls, probe: PointRecording, request: Request, stacked: int = 1) -> Self:
        branches, steps, samples = len(probe.features), request.workload.num_steps, len(request.batches[0])
        first = probe.features[0][0][0]
        channels, looked_at, each = probe.channels, first.shape[1], samples * branches * steps
        size, rows = joint_size(branches, steps), samples * looked_at
        parts = zip(probe.features[0][0], probe.num_tokens[0], strict=True)
        return cls(
            call=samples * stacked * first.element_size() * sum(tokens * part.shape[2] for part, tokens in parts),
            features=each * looked_at * channels * first.element_size(),
            values=4 * each * min(request.tokens, looked_at) * channels,
            gram=8 * channels * num_pairs(size),
            block=min(BLOCK_BYTES, 8 * channels * size * max(rows, size)),
        )


@dataclass(frozen=True)
class Preflight:
    """The bytes that a trace of all its points needs beside what the pipeline itself takes, and those that are free.

    Attributes:
        disk: before compression, of all batches that are to be recorded.
        host: buffers of two batches, and one that is compressed.
        device: features of all steps of one batch, those of one call while it is timed, and working memory.
        free_disk: None if nobody knows.
    """

    disk: int
    host: int
    device: int
    free_disk: int | None
    free_host: int
    free_device: int

    @classmethod
    def of(cls, probe: Recording, request: Request, batches: int, folder: Folder) -> Self:
        """What a run of the first batch over a few steps lets expect."""
        needs = [_Need.of(of, request, probe.stacked) for of in probe.points.values()]
        crossed = [_Need.of(probe.across(), request, probe.stacked)] if request.across else []
        grams = [need.gram for need in (*needs, *crossed)]
        stored = sum(need.values for need in needs) + sum(grams) + 4 * probe.latents.numel()
        return cls(
            disk=batches * stored + len(SPLITS) * sum(grams),
            host=(WAITING + 1) * stored,
            device=sum(need.features + need.values + need.call for need in needs)
            + sum(grams)
            + (TIMED_TAPS + 1) * max(need.call for need in needs)
            + 3 * max(need.block for need in (*needs, *crossed)),
            free_disk=folder.free_bytes(),
            free_host=available_bytes(torch.device("cpu")),
            free_device=available_bytes(probe.device),
        )

    def _resources(self) -> tuple[tuple[str, int, int | None, str], ...]:
        """Name, bytes needed and free, and the options that change the need."""
        return (
            ("disk", self.disk, self.free_disk, "--tokens, --samples, or another --out"),
            ("host memory", self.host, self.free_host, "--batch or --tokens"),
            ("device memory", self.device, self.free_device, "--batch or --gram-tokens"),
        )

    def __str__(self) -> str:
        return ", ".join(
            f"{name.removesuffix(' memory')} {human_bytes(need)}"
            + (f" of {human_bytes(free)} free" if free is not None else "")
            for name, need, free, _ in self._resources()
        )

    def check(self) -> None:
        """Raises TraceError if something does not fit."""
        for name, need, free, options in self._resources():
            if free is not None and need > free:
                raise TraceError(
                    f"the trace needs {human_bytes(need)} of {name}, {human_bytes(free)} are free; "
                    f"change {options}, or insist with --force"
                )


def available_bytes(device: torch.device) -> int:
    """Free memory of a GPU; for others that of the host which programs can have, caches included."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123  (no file on a disk)
            found = dict(line.split(":") for line in file)
        return int(found["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
