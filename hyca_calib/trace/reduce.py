"""A recording becomes what is stored of it; all on the device of the features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyca_calib.trace.layout import Facts
from hyca_calib.trace.recorder import Recording
from hyca_calib.trace.statistics import packed_gram

__all__ = ["reduced"]

SHOWN = 8
"""Channels that are named where NaN or infinity was."""


def reduced(
    recording: Recording, facts: Facts, samples: Sequence[int]
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """What is stored of a batch, and where it holds NaN or infinity.

    Args:
        samples: numbers of the samples in the batch.

    Returns:
        ``values`` (sample, branch, step, token, channel) float32, ``gram`` (branch, channel, pair) float64,
        ``gain`` (branch, step, channel) float64, a sum over samples, and ``latents`` (sample, ...). Statistics leave
        samples with NaN or infinity out.
    """
    everyone = torch.arange(len(samples), device=recording.features[0][0][0].device)
    scales = [
        [count / len(seen) for count, seen in zip(counts, tokens, strict=True)]
        for counts, tokens in zip(recording.num_tokens, recording.tokens, strict=True)
    ]
    gram = packed_gram(recording.features, everyone, scales)
    nonfinite: list[dict[str, Any]] = []
    good = everyone
    if not bool(gram.isfinite().all() & recording.latents.isfinite().all()):
        nonfinite = _nonfinite(recording, facts, samples)
        bad = {found["sample"] for found in nonfinite}
        good = everyone[[number not in bad for number in samples]]
        gram = packed_gram(recording.features, good, scales)
    gain = torch.stack([torch.stack(steps) for steps in recording.gains]).double()
    tensors = {
        "values": _values(recording, facts),
        "gram": gram,
        "gain": (gain * len(good)).nan_to_num(0, 0, 0),
        "latents": recording.latents,
    }
    return tensors, nonfinite


def _values(recording: Recording, facts: Facts) -> Tensor:
    """Features of the stored tokens, channels of all parts side by side."""
    branches = []
    for steps, looked_at, stored in zip(recording.features, recording.tokens, facts.stored, strict=True):
        places = [
            torch.from_numpy(np.searchsorted(seen, wanted)).to(steps[0][0].device)
            for seen, wanted in zip(looked_at, stored, strict=True)
        ]
        picked = [
            torch.cat([part.index_select(1, place) for part, place in zip(step, places, strict=True)], dim=-1)
            for step in steps
        ]
        branches.append(torch.stack(picked, 1))
    return torch.stack(branches, 1).float()


def _nonfinite(recording: Recording, facts: Facts, samples: Sequence[int]) -> list[dict[str, Any]]:
    """The first place of each bad sample: branch, step, and some of the channels."""
    found: list[dict[str, Any]] = []
    for i, number in enumerate(samples):
        place = next(
            (
                {"branch": facts.branches[b], "step": s, "channels": channels[:SHOWN], "num_channels": len(channels)}
                for b, steps in enumerate(recording.features)
                for s, feature in enumerate(steps)
                if (channels := _bad_channels(feature, i))
            ),
            None,
        )
        if place is None and not recording.latents[i].isfinite().all():
            place = {"latents": True}
        if place is not None:
            found.append({"sample": number, **place})
    return found


def _bad_channels(feature: Sequence[Tensor], sample: int) -> list[int]:
    good = torch.cat([part[sample].isfinite().all(0) for part in feature])
    return [int(channel) for channel in (~good).nonzero().flatten()]
