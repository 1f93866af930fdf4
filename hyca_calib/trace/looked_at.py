"""Which tokens of a call are looked at, and where they are in its tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hyca_calib.trace.recorded_call import Shown
from hyca_calib.trace.statistics import choose_tokens
from hyca_runtime.feature import Feature


@dataclass(frozen=True)
class LookedAt:
    """At most so many tokens of a call, a random subset.

    Attributes:
        seed: of that subset.
    """

    most: int
    seed: int

    def of(self, part: Tensor) -> Tensor:
        """A copy ``(batch, token, channel)`` of the tokens that are looked at; the network may reuse its memory."""
        if part.shape[1] <= self.most:
            return part.clone()
        return part.index_select(1, torch.from_numpy(self._chosen(part.shape[1])).to(part.device))

    def last(self, shown: Shown, counts: tuple[int, ...]) -> Shown:
        """What was shown, of only so many tokens of each part, the last."""
        parts = zip(shown.feature, counts, strict=True)
        return Shown(Feature(self.of(part[:, -count:]) for part, count in parts), counts, shown.gain)

    def of_sample(self, calls: Sequence[Shown], num_samples: int) -> tuple[list[np.ndarray], list[int]]:
        """Which tokens of one sample `joined` holds, and how many there are, for each part."""
        chosen, counts = [], []
        for i in range(len(calls[0].feature)):
            pieces = [call.num_tokens[i] for call in calls for _ in range(len(call.feature[i]) // num_samples)]
            begins = np.cumsum([0, *pieces[:-1]])
            chosen.append(
                np.concatenate([begin + self._chosen(count) for begin, count in zip(begins, pieces, strict=True)])
            )
            counts.append(sum(pieces))
        return chosen, counts

    def _chosen(self, num_tokens: int) -> np.ndarray:
        return choose_tokens(num_tokens, self.most, self.seed)


def tokens_first(feature: Feature, channel_axis: int, batch: int) -> Feature:
    """Parts as ``(batch, token, channel)``, wherever the batch is; without one, all tokens are one sample's."""
    found = []
    for part in feature:
        last = part.movedim(channel_axis, -1)
        axis = next((i for i, size in enumerate(last.shape[:-1]) if size == batch), None)
        first = last.movedim(axis, 0) if axis is not None else last[None]
        found.append(first.flatten(1, -2) if first.ndim > 2 else first[:, None])
    return Feature(found)
