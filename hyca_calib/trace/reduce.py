"""A recording becomes what is stored of it; all on the device of the features."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hyca_calib.trace.commits import NonFinite
from hyca_calib.trace.layout import Layout
from hyca_calib.trace.recorder import Recording
from hyca_calib.trace.statistics import comparable, packed_gram

SHOWN = 8
"""Channels that are named where NaN or infinity was."""


def reduced(
    recording: Recording, layout: Layout, samples: Sequence[int]
) -> tuple[dict[str, Tensor], tuple[NonFinite, ...]]:
    """What is stored of a batch, and where it holds NaN or infinity.

    Returns:
        ``values`` (sample, branch, step, token, channel) float32, ``gram`` (channel, pair) float64, ``gain``
        (branch, step, channel) float64, a sum over samples, and ``latents`` (sample, ...). Statistics leave samples
        with NaN or infinity out.
    """
    everyone = torch.arange(len(samples), device=recording.features[0][0][0].device)
    scales = [
        [count / len(seen) for count, seen in zip(counts, tokens, strict=True)]
        for counts, tokens in zip(recording.num_tokens, recording.tokens, strict=True)
    ]
    groups = comparable(recording.tokens, recording.num_tokens)
    gram = packed_gram(recording.features, everyone, scales, groups)
    nonfinite: tuple[NonFinite, ...] = ()
    good = everyone
    if not bool(gram.isfinite().all() & recording.latents.isfinite().all()):
        places = [_first_nonfinite(recording, layout, i, number) for i, number in enumerate(samples)]
        nonfinite = tuple(place for place in places if place is not None)
        good = everyone[[place is None for place in places]]
        gram = packed_gram(recording.features, good, scales, groups)
    gain = torch.stack([torch.stack(steps) for steps in recording.gains]).double()
    tensors = {
        "values": _values(recording, layout),
        "gram": gram,
        "gain": (gain * len(good)).nan_to_num(0, 0, 0),
        "latents": recording.latents,
    }
    return tensors, nonfinite


def _values(recording: Recording, layout: Layout) -> Tensor:
    """Features of the stored tokens, channels of all parts side by side."""
    branches = []
    for steps, looked_at, stored in zip(recording.features, recording.tokens, layout.stored, strict=True):
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


def _first_nonfinite(recording: Recording, layout: Layout, place: int, number: int) -> NonFinite | None:
    """Where the sample at `place` in the batch first holds NaN or infinity; None if it does not."""
    for branch, steps in zip(layout.branches, recording.features, strict=True):
        for step, feature in enumerate(steps):
            if bad := _bad_channels(feature, place):
                shown, count = tuple(bad[:SHOWN]), len(bad)
                return NonFinite(sample=number, branch=branch, step=step, channels=shown, num_channels=count)
    return None if recording.latents[place].isfinite().all() else NonFinite(sample=number, latents=True)


def _bad_channels(feature: Sequence[Tensor], sample: int) -> list[int]:
    good = torch.cat([part[sample].isfinite().all(0) for part in feature])
    return [int(channel) for channel in (~good).nonzero().flatten()]
