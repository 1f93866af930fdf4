"""The classifier: a small 3-D convolutional network, for pictures as clips of one frame."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

FEATURES = 24
"""Few enough for a covariance of 48 samples."""
WIDTHS = (24, 48, 96)
SIZE = 32
"""Pixels of a frame's side."""


class Judge(nn.Module):
    """Which of `labels`, words or classes, a clip of `frames` frames shows.

    Attributes:
        mean, covariance: of the features of real clips, ``(feature,)`` and ``(feature, feature)``.
    """

    mean: Tensor
    covariance: Tensor

    def __init__(self, labels: tuple[str, ...], frames: int) -> None:
        super().__init__()
        self.labels, self.frames = labels, frames
        stages: list[nn.Module] = []
        for before, width in zip((3, *WIDTHS), WIDTHS, strict=False):
            stages += [
                nn.Conv3d(before, width, 3, padding=1),
                nn.GroupNorm(8, width),
                nn.SiLU(),
                nn.AvgPool3d((1 if frames == 1 else 2, 2, 2)),
            ]
        self.stages = nn.Sequential(*stages)
        halved = 2 ** len(WIDTHS)
        self.neck = nn.Linear(WIDTHS[-1] * (SIZE // halved) ** 2 * max(1, frames // halved), FEATURES)
        self.head = nn.Linear(FEATURES, len(labels))
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("covariance", torch.eye(FEATURES))

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits ``(sample, label)`` of clips ``(sample, 3, frame, height, width)`` in [0, 1]."""
        features = self.neck(self.stages(2 * clips - 1).flatten(1))
        return features, self.head(nn.functional.silu(features))

    @torch.no_grad()
    def judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Does as `forward` for pictures ``(sample, 3, frames * height, width)`` with frames below one another."""
        clips = images.clamp(0, 1).reshape(len(images), 3, self.frames, SIZE, SIZE)
        found = [self(part) for part in torch.split(clips, 64)]
        return torch.cat([features for features, _ in found]), torch.cat([logits for _, logits in found])

    def target(self, labels: Sequence[str]) -> Tensor:
        """The known ones of `labels`, each with the same share of 1, ``(label,)``."""
        share = torch.zeros(len(self.labels))
        share[[self.labels.index(label) for label in set(labels) if label in self.labels]] = 1.0
        return share / share.sum().clamp(min=1)

    def recalled(self, logits: Tensor, labels: Sequence[Sequence[str]]) -> list[float]:
        """The share of each sample's `labels` that are among as many top logits; its accuracy if it has one label."""
        shares = []
        for row, wanted in zip(logits, labels, strict=True):
            known = self.target(wanted).nonzero().flatten()
            top = row.topk(max(1, len(known))).indices
            shares.append(float(torch.isin(known, top).float().mean()) if len(known) else math.nan)
        return shares


def labels_of(call: Mapping[str, Any]) -> tuple[str, ...]:
    """What a pipeline is asked for: the words of the prompt, or the class."""
    if "class_labels" in call:
        return (str(call["class_labels"]),)
    return tuple(re.findall(r"[a-z0-9]+", str(call.get("prompt", "")).lower()))
