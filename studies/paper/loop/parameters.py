"""Ways of writing the taps of a plan as parameters that are refined."""

from __future__ import annotations

from dataclasses import replace

import torch

from hyca_calib.search.assemble import build_section, group_labels
from hyca_calib.search.refine import Refinement
from hyca_calib.search.whitening import coordinates, drawn_to_groups
from studies.paper.loop.bed import Bed, Parameters

__all__ = ["parameterisations"]

PLAIN = 2e-3 / Refinement.lr
"""A step of the taps themselves over one of whitened coordinates."""
RANKS = (2, 8)


def parameterisations(bed: Bed) -> dict[str, Parameters]:
    """Name, start and the way to taps ``(predicted step, depth, channel)`` of each."""
    found: dict[str, Parameters] = {}
    for groups in (1, 16):
        found[f"{groups} group{'s' * (groups > 1)}"] = _rows_of_groups(bed, groups)
    found["channel"] = bed.own_coordinates
    found["channel, plain taps"] = torch.zeros_like(bed.start), lambda theta: bed.start + PLAIN * theta
    found["channel, shrunk to 16 groups"] = _shrunk(bed)
    for rank in RANKS:
        found[f"channel, offsets of rank {rank}"] = _low_rank(bed, rank)
    return found


def _rows_of_groups(bed: Bed, groups: int) -> Parameters:
    candidate = replace(bed.candidate, settings=replace(bed.candidate.settings, groups=groups, taps="group"))
    problem = bed.context.problem
    return coordinates(problem, build_section(problem, candidate, bed.context.seed), "group")


def _shrunk(bed: Bed) -> Parameters:
    """What the search refines."""
    zeros, expand = bed.own_coordinates
    return drawn_to_groups(expand, torch.from_numpy(group_labels(bed.section)), zeros.shape)


def _low_rank(bed: Bed, rank: int) -> Parameters:
    """Offsets ``A B``: `rank` patterns over steps and history, weighed by every channel."""
    zeros, expand = bed.own_coordinates
    rows = zeros.shape[0] * zeros.shape[1]
    generator = torch.Generator().manual_seed(bed.context.seed)
    patterns = torch.randn(rows, rank, generator=generator) / rank**0.5
    theta = torch.cat([patterns, zeros.new_zeros(zeros.shape[2], rank)])
    return theta, lambda t: expand((t[:rows] @ t[rows:].T).view(zeros.shape))
