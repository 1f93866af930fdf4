"""Pictures and clips as data URIs, side by side, so that clips of one row cannot fall out of step."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

AMPLIFY = 20
GAP = 2
FRAME_MS = 110
LARGEST = 256
"""Pixels of a picture's longer side; larger ones are shrunk."""


@dataclass(frozen=True)
class Strip:
    """Data URIs; `still` is the first frame, for people who want no motion."""

    moving: str
    still: str


def strip(clips: Sequence[Tensor]) -> Strip:
    """One sample in several ways: clips ``(frame, 3, height, width)`` in [0, 1] as PNG, or as animated WebP."""
    frames = [_frame([clip[i] for clip in clips]) for i in range(len(clips[0]))]
    return Strip(_uri(frames), _uri(frames[:1]))


def _frame(pictures: Sequence[Tensor]) -> Image.Image:
    height = pictures[0].shape[1]
    gap = torch.ones(3, height, GAP)
    parts = [part for picture in pictures for part in (picture.clamp(0, 1), gap)][:-1]
    pixels = (torch.cat(parts, dim=2).permute(1, 2, 0) * 255).round().byte().numpy()
    frame = Image.fromarray(np.ascontiguousarray(pixels))
    longest = max(pictures[0].shape[1:])
    if longest > LARGEST:
        share = LARGEST / longest
        frame = frame.resize((round(frame.width * share), round(frame.height * share)), Image.Resampling.LANCZOS)
    return frame


def _uri(frames: Sequence[Image.Image]) -> str:
    file, first = io.BytesIO(), frames[0]
    if len(frames) == 1:
        first.save(file, "PNG", optimize=True)
        kind = "png"
    else:
        first.save(
            file, "WEBP", save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0, lossless=True, method=4
        )
        kind = "webp"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
