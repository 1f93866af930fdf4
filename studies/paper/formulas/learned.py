"""Solvers that read the features, replayed: their weights need the Gram matrix of each prompt, not only the mean."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hyca_runtime.solvers import AdaptiveSolver
from studies.paper.replay_setup import Array, ReplaySetup, Rows


def learn(solver: AdaptiveSolver, setup: ReplaySetup, gram: Array) -> list[Tensor]:
    """What the runtime's own solver learns in each gap, ``(...)``.

    Args:
        gram: plain inner products of the features ``(..., step, step)``; the axes in front count
            prompts, guidance branches and groups, which a run never mixes.

    Raises:
        ValueError: a gap has fewer features than the solver needs.
    """
    found = []
    for history, targets in setup.gaps:
        if len(history) < solver.depth:
            raise ValueError(f"step {targets[0]}: {solver.name} needs {solver.depth} features, got {len(history)}")
        recent = history[: solver.depth]
        past = gram[..., np.asarray(recent)[:, None], recent]
        differences = np.diff(np.diff(past, axis=-1), axis=-2)
        newest_first = torch.from_numpy(np.moveaxis(differences, (-2, -1), (0, 1)))
        found.append(solver.learn(newest_first, setup.times[list(recent)]))
    return found


def learned_rows(solver: AdaptiveSolver, setup: ReplaySetup, learnt: list[Tensor]) -> Rows:
    """The weights ``(..., history, target)`` of each gap."""
    rows = []
    for (history, targets), known in zip(setup.gaps, learnt, strict=True):
        times = setup.times[list(history[: solver.depth])]
        columns = [solver.adapted(known, times, float(setup.times[t])).numpy() for t in targets]
        rows.append(np.moveaxis(np.stack(columns, axis=-1), 0, -2))
    return rows
