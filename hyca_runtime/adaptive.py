"""Groups whose weights depend on the features: from the history to rows in the table of weights.

Nothing here waits for the device, and nothing is kept but what a solver learnt, one number for each
sample and group, until the history changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from hyca_runtime.history import History
from hyca_runtime.solvers import AdaptiveSolver, Solver

SLICE = 1 << 24
"""Numbers of one sample whose differences are in memory at once."""


@dataclass(frozen=True)
class _Place:
    """Where a part has channels of the groups.

    Attributes:
        part: its number.
        labels: ``(width,)`` group of each channel, 0 for those of other solvers.
        chosen: ``(width,)`` whether a channel is of any group.
    """

    part: int
    labels: Tensor
    chosen: Tensor


@dataclass(frozen=True)
class _Layout:
    """The parts with channels of the groups, and ``order``: their channels, group by group."""

    places: tuple[_Place, ...]
    order: Tensor


class AdaptiveGroups:
    """The groups of a section that share one adaptive solver.

    The outermost axis of every part counts samples, or a multiple of them (frames of a video as a
    batch), unless it is the channel axis.

    Args:
        groups: channel indices of each.
        channel_axis: of the cache point.
    """

    def __init__(self, solver: AdaptiveSolver, groups: Sequence[np.ndarray], channel_axis: int) -> None:
        self.solver = solver
        self._groups, self._axis = tuple(groups), channel_axis
        self._layouts: dict[tuple[object, ...], _Layout] = {}

    def adapt(
        self, weights: tuple[Tensor, ...], history: History, times: np.ndarray, target: float
    ) -> tuple[Tensor, ...]:
        """`weights` with the rows of these groups in their channels, one row for each sample.

        Args:
            weights: of each part, ``(tap, 1, ..., width, ..., 1)``.
            times: ``(tap,)``, of the newest features; unless the solver has all it needs of them,
                its closed form stays.
            target: the time to predict.

        Returns:
            Of each part that has such channels ``(tap, sample, 1, ..., width, ..., 1)``.
        """
        depth = self.solver.depth
        if len(times) < depth:
            return weights
        layout, times = self._layout(history.buffers), times[:depth]
        learnt = history.learnt.get(self)
        if learnt is None:
            learnt = history.learnt[self] = self.solver.learn(self._gram(history, layout), times)
        rows = self.solver.adapted(learnt, times, target)
        rows = pad(rows, (0, 0, 0, 0, 0, len(weights[0]) - depth))
        found = list(weights)
        for place in layout.places:
            found[place.part] = self._put(rows, place, weights[place.part], history.buffers[place.part])
        return tuple(found)

    def _layout(self, buffers: Sequence[Tensor]) -> _Layout:
        widths = [buffer[0].shape[self._axis] for buffer in buffers]
        key = (*widths, *[buffer.device for buffer in buffers])
        if key not in self._layouts:
            labels = np.full(sum(widths), -1)
            for number, channels in enumerate(self._groups):
                labels[channels] = number
            pieces = np.split(labels, np.cumsum(widths)[:-1])
            used = [(i, piece, buffers[i].device) for i, piece in enumerate(pieces) if (piece >= 0).any()]
            there = np.concatenate([piece for _, piece, _ in used])
            order = np.concatenate([np.flatnonzero(there == number) for number in range(len(self._groups))])
            places = [
                _Place(i, torch.from_numpy(piece.clip(0)).to(device), torch.from_numpy(piece >= 0).to(device))
                for i, piece, device in used
            ]
            self._layouts[key] = _Layout(tuple(places), torch.from_numpy(order).to(places[0].labels.device))
        return self._layouts[key]

    def _gram(self, history: History, layout: _Layout) -> Tensor:
        """Inner products of the newest differences ``(depth - 1, depth - 1, sample, group)``."""
        slots = history.slots[: self.solver.depth]
        parts = [history.buffers[place.part] for place in layout.places]
        samples = math.gcd(*(1 if self._counts_channels(part) else part.shape[1] for part in parts))
        sums = [self._channel_gram([part[slot] for slot in slots], samples) for part in parts]
        channels = torch.cat([found.to(layout.order.device) for found in sums], dim=-1)
        groups = torch.split(channels.index_select(-1, layout.order), [len(group) for group in self._groups], dim=-1)
        return torch.stack([group.sum(-1) for group in groups], dim=-1)

    def _channel_gram(self, features: Sequence[Tensor], samples: int) -> Tensor:
        """Inner products over all axes but two, in float32 or better, ``(depth - 1, depth - 1, sample, channel)``."""
        views = [_sample_first(feature, self._axis % feature.ndim, samples) for feature in features]
        shape, axes = views[0].shape, tuple(range(1, views[0].ndim - 1))
        longest = max(axes, key=lambda axis: shape[axis])
        size = max(1, SLICE * shape[0] * shape[longest] // max(1, views[0].numel()))
        order, dtype = len(features) - 1, torch.promote_types(features[0].dtype, torch.float32)
        total: dict[tuple[int, int], Tensor] = {}
        for pieces in zip(*(torch.split(view, size, longest) for view in views), strict=True):
            differences = [newer.to(dtype) - older for newer, older in pairwise(pieces)]
            for i, j in combinations_with_replacement(range(order), 2):
                product = (differences[i] * differences[j]).sum(axes)
                total[i, j] = total[i, j] + product if (i, j) in total else product
        pairs = [total[min(i, j), max(i, j)] for i in range(order) for j in range(order)]
        return torch.stack(pairs).reshape(order, order, *pairs[0].shape)

    def _put(self, rows: Tensor, place: _Place, weight: Tensor, buffer: Tensor) -> Tensor:
        """`rows` ``(tap, sample, group)`` in the place of those channels' rows of `weight`."""
        shape = list(weight.shape)
        chosen = place.chosen.reshape([1, *shape[1:]])
        by_channel = rows.to(weight).index_select(-1, place.labels)
        if not self._counts_channels(buffer):
            shape[1] = buffer.shape[1]
            by_channel = by_channel[:, :, None].expand(-1, -1, shape[1] // rows.shape[1], -1)
        return torch.where(chosen, by_channel.reshape(shape), weight).contiguous()

    def _counts_channels(self, buffer: Tensor) -> bool:
        """Whether the outermost axis of a part counts channels, so that all of it is one sample."""
        return self._axis % (buffer.ndim - 1) == 0


def adaptive_groups(groups: Sequence[tuple[np.ndarray, Solver]], channel_axis: int) -> tuple[AdaptiveGroups, ...]:
    """The adaptive ones of a section's groups, by solver; none for most plans."""
    found: dict[AdaptiveSolver, list[np.ndarray]] = {}
    for channels, solver in groups:
        if isinstance(solver, AdaptiveSolver):
            found.setdefault(solver, []).append(channels)
    return tuple(AdaptiveGroups(solver, members, channel_axis) for solver, members in found.items())


def _sample_first(feature: Tensor, axis: int, samples: int) -> Tensor:
    """A view ``(sample, ..., channel)`` of at least three axes."""
    if axis == 0:
        feature, axis = feature[None], 1
    return feature.view(samples, len(feature) // samples, *feature.shape[1:]).movedim(axis + 1, -1)
