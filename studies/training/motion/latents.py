"""Clips of captioned scenes as the latents that a video model is trained on."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyca_calib.demo.emoji.text import WordEncoder
from hyca_calib.demo.motion.codec import BlockCodec
from studies.training.flow import FlowRecipe
from studies.training.motion.clips import Scene, scenes

Rendered = tuple[Tensor, Tensor]
"""Clips ``(clip, 3, frame, height, width)`` in uint8, and the scene of each."""


@dataclass(frozen=True)
class Prepared:
    """What a video model is trained on.

    Attributes:
        latents: ``(clip, channel, frame, row, column)``.
        captions: of each clip.
        vocabulary: all words in them.
        facts: of the data, for ``training.json``.
    """

    latents: Tensor
    captions: list[str]
    vocabulary: list[str]
    facts: dict[str, Any]

    def words(self, encoder: WordEncoder) -> Tensor:
        """The words of each clip, beside its latents."""
        return encoder.tokenize(self.captions).to(self.latents.device)


def prepared(
    recipe: FlowRecipe, rendered: Callable[[list[Scene]], Rendered], codec: BlockCodec, device: str
) -> Prepared:
    """Render the scenes that are trained on, fit the codec to some of the clips, and encode them all."""
    kept, held = split_scenes(scenes(recipe.seed), recipe.holdout, recipe.seed)
    clips, which = rendered(kept)
    latents = encoded(codec, clips).to(device)
    fidelity = fidelity_of(codec, latents, clips)
    print(f"{len(clips)} clips of {len(kept)} captions, codec {fidelity:.1f} dB", flush=True)
    facts: dict[str, Any] = {"clips": len(clips), "codec_db": round(fidelity, 1)}
    facts |= {"trained_captions": [s.caption for s in kept], "held_out_captions": [s.caption for s in held]}
    vocabulary = sorted({word for scene in kept for word in scene.caption.split()})
    return Prepared(latents, [kept[i].caption for i in which.tolist()], vocabulary, facts)


def as_clips(drawn: Sequence[NDArray[np.uint8]], count: int) -> Rendered:
    """Clips ``(frame, height, width, 3)`` of so many scenes, as many of each, scene by scene."""
    which = torch.arange(count).repeat_interleave(len(drawn) // count)
    return torch.from_numpy(np.stack(drawn)).permute(0, 4, 1, 2, 3).contiguous(), which


def split_scenes(found: list[Scene], holdout: float, seed: int) -> tuple[list[Scene], list[Scene]]:
    """Scenes to train on, and held-out ones; every object, motion and background is in both kinds."""
    shuffled = random.Random(seed).sample(found, len(found))
    count = round(holdout * len(found))
    return sorted(shuffled[count:], key=lambda s: s.caption), sorted(shuffled[:count], key=lambda s: s.caption)


def encoded(codec: BlockCodec, clips: Tensor) -> Tensor:
    """Latents of all clips; the codec is fitted to a part of them."""
    codec.fit(_floats(clips[:: max(1, len(clips) // 512)]))
    return torch.cat([codec.encode(_floats(part)) for part in clips.split(64)])  # type: ignore[no-untyped-call]


def fidelity_of(codec: BlockCodec, latents: Tensor, clips: Tensor) -> float:
    """What the codec leaves of some clips, in dB."""
    some = range(0, min(512, len(clips)), 8)
    error = torch.cat([codec.decode(latents[i : i + 1].cpu()) - _floats(clips[i : i + 1]) for i in some])
    return float(10 * torch.log10(4 / error.square().mean()))


def _floats(clips: Tensor) -> Tensor:
    return clips.float() / 127.5 - 1
