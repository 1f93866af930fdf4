r"""Coordinates in which every move of a row of taps matters equally.

Computed features resemble each other: a move of all taps one way changes a forecast far more than one that bends it,
and Adam steps equally far in each tap. With :math:`G = L L^T` the Gram matrix of the history and
:math:`r` the root mean square of what the row :math:`w_0` misses, both on the fit split,

.. math:: w(u) = w_0 + r L^{-T} u \quad\Rightarrow\quad \| \textstyle\sum_k (w - w_0)_k F_k \| = r \| u \|,

so a step of a tenth changes any forecast by a tenth of its error, whatever the direction, the channel or the step.

A channel moves with its group, and a little on its own: what its group needs is known from many gradients, and
Adam steps equally far in both.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from hyca_calib.search.assemble import group_labels
from hyca_calib.search.options import Grain
from hyca_calib.search.problem import Problem
from hyca_calib.search.replay import Array, forecast_error, grouped, in_own_units
from hyca_calib.search.rows import Places, plan_taps
from hyca_runtime.network_plan import NetworkPlan

RIDGE, TINY = 1e-5, 1e-30
OWN = 0.3
"""A channel's own step, over its group's; the study's chapter on refinement compares both with each alone."""


def coordinates(problem: Problem, section: NetworkPlan, grain: Grain) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Where refinement of the section's taps begins, zeros, and the way from there to a row for every channel."""
    taps, labels = plan_taps(section), torch.from_numpy(group_labels(section))
    gram, places = problem.regressions(section)
    if grain == "channel":
        return drawn_to_groups(preconditioned(taps, places, gram), labels, taps.shape)
    groups = [np.flatnonzero(labels.numpy() == group) for group in range(int(labels.max()) + 1)]
    first = [int(channels[0]) for channels in groups]
    expand = preconditioned(taps[:, :, first], places, grouped(gram, problem.channel_gain, groups))
    return torch.zeros(*taps.shape[:2], len(groups)), lambda u: expand(u)[:, :, labels.to(u.device)]


def drawn_to_groups(
    expand: Callable[[Tensor], Tensor], labels: Tensor, shape: Sequence[int]
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Zeros and the way to taps: a row of moves for every group, and smaller ones for every channel.

    Args:
        expand: from coordinates of the taps' own `shape`, ``(row, tap, channel)``.
    """
    groups = int(labels.max()) + 1

    def moved(u: Tensor) -> Tensor:
        return expand(u[:, :, labels.to(u.device)] + OWN * u[:, :, groups:])

    return torch.zeros(*shape[:2], groups + shape[2]), moved


def preconditioned(taps: Array, places: Places, gram: Array) -> Callable[[Tensor], Tensor]:
    """The map from coordinates u to taps, both ``(row, tap, column)``; zero gives `taps`.

    Args:
        taps: shorter rows padded with zeros, which they stay.
        places: of each row in the Gram matrices.
        gram: ``(column, regressor, regressor)``; a column is a channel or a group.
    """
    depth = taps.shape[1]
    moves = np.zeros((len(taps), depth, depth, taps.shape[2]))
    for i, (history, target) in enumerate(places):
        used = len(history)
        past = gram[:, history][:, :, history]
        alike, size = in_own_units(past)
        missed = np.sqrt(np.maximum(forecast_error(gram, taps[i, :used].T, history, target), TINY))
        inverse = np.linalg.inv(np.linalg.cholesky(alike + RIDGE * np.eye(used))) / size[:, None]
        moves[i, :used, :used] = missed * inverse.transpose(2, 1, 0)  # (history, direction, column)
    start, directions = torch.from_numpy(taps).float(), torch.from_numpy(moves).float()

    def expand(u: Tensor) -> Tensor:
        return start.to(u.device) + torch.einsum("skdc,sdc->skc", directions.to(u.device), u)

    return expand
