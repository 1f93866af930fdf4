"""NaN and infinity in forecasts, noticed without ever waiting for the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class FiniteGuard:
    """Looks at forecasts of one stream.

    On the CPU a bad one is seen at once. A GPU is not waited for: what it found is read when it is there,
    so a bad forecast is seen a step or two later.
    """

    def __init__(self) -> None:
        self._asked: deque[tuple[Tensor, Any]] = deque()

    def is_sound(self, feature: Sequence[Tensor]) -> bool:
        """Whether no forecast of which the answer is known held NaN or infinity."""
        # a sum over all is finite if and only if every term is, and no copy of the feature is made
        total = torch.stack([part.sum(dtype=torch.float32) for part in feature]).sum()
        sound = torch.isfinite(total)
        if sound.device.type != "cuda":
            return bool(sound)
        if not torch.cuda.is_current_stream_capturing():
            answer = torch.empty((), dtype=torch.bool, pin_memory=True).copy_(sound, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
            self._asked.append((answer, event))
        return self._answers()

    def forget(self) -> None:
        """Another run begins."""
        self._asked.clear()

    def _answers(self) -> bool:
        sound = True
        while self._asked and self._asked[0][1].query():
            sound = bool(self._asked.popleft()[0]) and sound
        return sound
