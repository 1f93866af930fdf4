"""Ways of writing the taps of a plan as parameters that are refined."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hyca_calib.science.loop.bed import Bed, Expand
from hyca_calib.search.assemble import build_section, group_labels, plan_taps

__all__ = ["parameterisations"]

SHRINK = 0.3
"""How far a channel's own offset moves when its group's row moves by one: Adam's steps are equal for all."""
RANKS = (2, 8)


def parameterisations(bed: Bed) -> dict[str, tuple[Tensor, Expand]]:
    """Name, start and the way to taps ``(predicted step, depth, channel)`` of each."""
    found: dict[str, tuple[Tensor, Expand]] = {}
    for groups in (1, 16):
        found[f"{groups} group{'s' * (groups > 1)}"] = _rows_of_groups(bed, groups)
    found["channel"] = (bed.start, lambda theta: theta)
    found["channel, shrunk to 16 groups"] = _shrunk(bed)
    for rank in RANKS:
        found[f"channel, offsets of rank {rank}"] = _low_rank(bed, rank)
    return found


def _rows_of_groups(bed: Bed, groups: int) -> tuple[Tensor, Expand]:
    candidate = replace(bed.candidate, settings=replace(bed.candidate.settings, groups=groups, taps="group"))
    section = build_section(bed.context.problem, candidate, bed.context.seed)
    labels = torch.from_numpy(group_labels(section))
    first = torch.stack([(labels == group).nonzero()[0, 0] for group in range(int(labels.max()) + 1)])
    return torch.from_numpy(plan_taps(section)).float()[:, :, first], lambda theta: theta[:, :, labels]


def _shrunk(bed: Bed) -> tuple[Tensor, Expand]:
    """A row of moves for every group, and smaller ones for every channel."""
    labels = torch.from_numpy(group_labels(bed.section))
    groups, start = int(labels.max()) + 1, bed.start
    zeros = start.new_zeros(*start.shape[:2], groups + start.shape[2])
    return zeros, lambda theta: start + theta[:, :, labels] + SHRINK * theta[:, :, groups:]


def _low_rank(bed: Bed, rank: int) -> tuple[Tensor, Expand]:
    """Offsets ``A B``: `rank` patterns over steps and history, weighed by every channel."""
    start = bed.start
    rows = start.shape[0] * start.shape[1]
    generator = torch.Generator().manual_seed(bed.context.seed)
    patterns = torch.randn(rows, rank, generator=generator) / rank**0.5
    theta = torch.cat([patterns, start.new_zeros(start.shape[2], rank)])
    return theta, lambda t: start + 0.1 * (t[:rows] @ t[rows:].T).view(start.shape)
