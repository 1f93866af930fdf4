"""NaN and infinity in forecasts, noticed without ever waiting for the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hyca_runtime.agreement import ALONE, Agreement


class FiniteGuard:
    """Looks at forecasts of one stream.

    On the CPU a bad one is seen at once. A GPU is not waited for: what it found is read when it is there,
    so a bad forecast is seen a step or two later. Ranks that share samples see it all on the same step: on a GPU on the
    next that is forecast, when the answer has long been there.

    Args:
        ranks: those that must see the same.
    """

    def __init__(self, ranks: Agreement = ALONE) -> None:
        self._asked: deque[tuple[Tensor, Any]] = deque()
        self._ranks = ranks

    def is_sound(self, feature: Sequence[Tensor]) -> bool:
        """Whether no forecast of which the answer is known held NaN or infinity."""
        # a sum over all is finite if and only if every term is, and no copy of the feature is made
        total = torch.stack([part.sum(dtype=torch.float32) for part in feature]).sum()
        sound = self._ranks.everywhere(torch.isfinite(total))
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
        while self._is_due():
            sound = bool(self._asked.popleft()[0]) and sound
        return sound

    def _is_due(self) -> bool:
        """Whether the oldest answer is there; where ranks must agree, whether it is not of this very forecast."""
        if self._ranks.alone or not self._asked:
            return bool(self._asked) and bool(self._asked[0][1].query())
        if len(self._asked) > 1:
            self._asked[0][1].synchronize()
        return len(self._asked) > 1
