"""What is measured in each picture on its own: its detail, and how sure the judge is of what was asked for.

Chosen from damaged pictures of the embedded models for their power at 48 samples: on `demo-class` a blur to 40 dB moves
the finest detail by 50 standard errors, where the Fréchet distance, the share that is recognised and a kernel distance
show nothing. A shift of colour or brightness that keeps detail and meaning may escape all of them.
"""

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.nn.functional import avg_pool2d

from hyca_calib.demo.judge.network import Judge

SCALES = (1, 2, 4)
"""Pixels of the blocks whose neighbours are compared."""
CONFIDENCE = "confidence"
FLOOR = 1e-6
"""Energy of neighbours that differ by a quarter of a grey level of 255."""


def detail(images: Tensor, frames: int) -> dict[str, tuple[float, ...]]:
    """Energy in dB of the differences between neighbouring blocks of `SCALES` pixels, and from frame to frame.

    Blur takes it away, noise adds to it, and another picture of the same kind has about as much.

    Args:
        images: ``(sample, 3, frames * height, width)`` in [0, 1], frames below one another.
    """
    clips = images.double().reshape(len(images), 3, frames, -1, images.shape[-1])
    found = {}
    for scale in SCALES:
        blocks = avg_pool2d(clips.flatten(0, 2), scale)
        apart = [blocks.diff(dim=axis).square().reshape(len(images), -1).mean(1) for axis in (-1, -2)]
        found[f"detail, {scale} px"] = _db(apart[0] + apart[1])
    if frames > 1:
        found["flicker"] = _db(clips.diff(dim=2).square().flatten(1).mean(1))
    return found


def _db(energy: Tensor) -> tuple[float, ...]:
    return tuple((10 * np.log10(energy.numpy() + FLOOR)).tolist())


def confidence(judge: Judge, logits: Tensor, labels: Sequence[Sequence[str]]) -> tuple[float, ...]:
    """Mean logit of what was asked for over the log-sum-exp of all else, in nats; NaN where the judge knows none of it.

    Unlike the share that is recognised, and unlike the probability, it does not saturate.
    """
    found = []
    for row, wanted in zip(logits.double(), labels, strict=True):
        known = judge.target(wanted) > 0
        inside = bool(known.any()) and not bool(known.all())
        found.append(float(row[known].mean() - row[~known].logsumexp(0)) if inside else math.nan)
    return tuple(found)
