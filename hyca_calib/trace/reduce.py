"""A recording becomes what is stored of it; all on the device of the features."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hyca_calib.trace.commits import NonFinite
from hyca_calib.trace.layout import Layout
from hyca_calib.trace.recording import PointRecording, Recording
from hyca_calib.trace.statistics import comparable, packed_gram

SHOWN = 8
"""Channels that are named where NaN or infinity was."""

ACROSS = ("across", "gram")

Reduced = dict[tuple[str, ...], Tensor]
"""By the key of a point and what it is, or ``("latents",)``, or `ACROSS` points."""


def reduced(recording: Recording, layout: Layout, samples: Sequence[int]) -> tuple[Reduced, tuple[NonFinite, ...]]:
    """What is stored of a batch, and where it holds NaN or infinity.

    Returns:
        Of each point ``values`` (sample, branch, step, token, channel) float32, ``gram`` (channel, pair) float64,
        ``gain`` (branch, step, channel) float64, a sum over samples; ``latents`` (sample, ...); and where points are
        multiplied with each other, their common ``gram``. Statistics leave samples with NaN or infinity out.
    """
    good = everyone = torch.arange(len(samples), device=recording.device)
    grams = {key: gram_of(of, everyone) for key, of in recording.points.items()}
    nonfinite: tuple[NonFinite, ...] = ()
    if not all(bool(of.isfinite().all()) for of in (*grams.values(), recording.latents)):
        places = [_first_nonfinite(recording, layout, i, number) for i, number in enumerate(samples)]
        nonfinite = tuple(place for place in places if place is not None)
        good = everyone[[place is None for place in places]]
        grams = {key: gram_of(of, good) for key, of in recording.points.items()}
    tensors: Reduced = {("latents",): recording.latents}
    for key, of in recording.points.items():
        gain = torch.stack([torch.stack(steps) for steps in of.gains]).double()
        tensors[key, "values"] = _values(of, layout.points[key].stored)
        tensors[key, "gram"] = grams[key]
        tensors[key, "gain"] = (gain * len(good)).nan_to_num(0, 0, 0)
    if layout.across:
        tensors[ACROSS] = gram_of(recording.across(), good)
    return tensors, nonfinite


def gram_of(of: PointRecording, samples: Tensor) -> Tensor:
    """The joint Gram matrices of a point over these samples, see `packed_gram`."""
    scales = [
        [count / len(seen) for count, seen in zip(counts, tokens, strict=True)]
        for counts, tokens in zip(of.num_tokens, of.tokens, strict=True)
    ]
    return packed_gram(of.features, samples, scales, comparable(of.tokens, of.num_tokens))


def _values(of: PointRecording, stored: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    """Features of the stored tokens, channels of all parts side by side.

    Args:
        stored: ``[branch][part]``.
    """
    branches = []
    for steps, looked_at, wanted in zip(of.features, of.tokens, stored, strict=True):
        places = [
            torch.from_numpy(np.searchsorted(seen, tokens)).to(steps[0][0].device)
            for seen, tokens in zip(looked_at, wanted, strict=True)
        ]
        picked = [
            torch.cat([part.index_select(1, place) for part, place in zip(step, places, strict=True)], dim=-1)
            for step in steps
        ]
        branches.append(torch.stack(picked, 1))
    return torch.stack(branches, 1).float()


def _first_nonfinite(recording: Recording, layout: Layout, place: int, number: int) -> NonFinite | None:
    """Where the sample at `place` in the batch first holds NaN or infinity; None if it does not."""
    for of in recording.points.values():
        for branch, steps in zip(layout.branches, of.features, strict=True):
            for step, feature in enumerate(steps):
                if bad := _bad_channels(feature, place):
                    shown, count = tuple(bad[:SHOWN]), len(bad)
                    return NonFinite(sample=number, branch=branch, step=step, channels=shown, num_channels=count)
    return None if recording.latents[place].isfinite().all() else NonFinite(sample=number, latents=True)


def _bad_channels(feature: Sequence[Tensor], sample: int) -> list[int]:
    good = torch.cat([part[sample].isfinite().all(0) for part in feature])
    return [int(channel) for channel in (~good).nonzero().flatten()]
