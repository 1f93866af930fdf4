"""Gram matrices of single prompts, sets of prompts and tokens, from the stored trajectories."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hyca_calib.pipelines.workload import Split
from hyca_calib.search.replay import Array
from hyca_calib.trace.store import Trace

FEW_TOKENS = 4


@dataclass(frozen=True)
class Recorded:
    """What the stored trajectories say; every Gram is one prompt's or the mean over prompts.

    Attributes:
        prompts: single prompts of the fit split, ``(prompt, channel, step, step)``.
        sparse: the same prompts, of each only a few tokens.
        sets: disjoint sets of fit prompts, ``(set, channel, step, step)``.
        fit: all fit prompts read, ``(channel, step, step)``.
        judged: prompts of the select split, ``(prompt, channel, step, step)``.
        fit_tokens, judged_tokens: channels summed with the squared gain of the network's tail,
            ``(prompt, token, step, step)``.
    """

    prompts: Array
    sparse: Array
    sets: Array
    fit: Array
    judged: Array
    fit_tokens: Array
    judged_tokens: Array


def channel_gram(values: Array) -> Array:
    """``(channel, step, step)`` of one sample ``(branch, step, token, channel)``."""
    rows = values.transpose(3, 1, 0, 2).reshape(values.shape[3], values.shape[1], -1)
    return np.asarray(rows @ rows.transpose(0, 2, 1))


def token_gram(values: Array, gain: Array) -> Array:
    """``(token, step, step)`` of one sample ``(branch, step, token, channel)``, channels weighted by ``gain``."""
    return channel_gram((values * np.sqrt(gain)).swapaxes(2, 3))


def read(trace: Trace, gain: Array, seed: int, *, prompts: int, sets: int, most: int | None = None) -> Recorded:
    """Read the fit and select splits once, sample by sample.

    Args:
        prompts: how many single prompts are kept.
        sets: how many disjoint sets the fit prompts are dealt to.
        most: of each split no more samples than this.
    """
    few = np.random.default_rng(seed).permutation(trace.values("fit", 1).shape[3])[:FEW_TOKENS]
    fit, judged = (samples(trace, split, most) for split in ("fit", "select"))
    return reduce(fit, judged, gain, few, prompts=prompts, sets=sets)


def samples(trace: Trace, split: Split, most: int | None = None) -> Iterator[Array]:
    """The first `most` stored samples ``(branch, step, token, channel)`` of a split, one at a time."""
    return (trace.sample_values(index).astype(np.float64) for index in trace.samples(split)[:most])


def reduce(
    fit: Iterable[Array], judged: Iterable[Array], gain: Array, few: NDArray[np.int64], *, prompts: int, sets: int
) -> Recorded:
    """Samples ``(branch, step, token, channel)`` of both splits to Gram matrices; no sample is kept.

    Args:
        few: the tokens of `Recorded.sparse`.
    """
    fitted = [(channel_gram(sample), channel_gram(sample[:, :, few]), token_gram(sample, gain)) for sample in fit]
    grams, sparse, fit_tokens = (np.stack(kind) for kind in zip(*fitted, strict=True))
    held = [(channel_gram(sample), token_gram(sample, gain)) for sample in judged]
    dealt = [grams[i::sets] for i in range(min(sets, len(grams)))]
    return Recorded(
        prompts=grams[:prompts],
        sparse=sparse[:prompts],
        sets=np.stack([sum(of) / len(of) for of in dealt]),
        fit=np.asarray(sum(sum(of) for of in dealt)) / len(grams),
        judged=np.stack([channels for channels, _ in held]),
        fit_tokens=fit_tokens,
        judged_tokens=np.stack([tokens for _, tokens in held]),
    )
