"""Taps fitted again on the history that the accelerated run itself sees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.search.tap_rollout import TapRollout
from hyca_runtime.feature import Feature
from studies.paper.loop.refinement_setup import RefinementSetup
from studies.paper.replay_setup import Array


def refitted(setup: RefinementSetup, taps: Tensor) -> Tensor:
    r"""Least squares of the full run's features on the accelerated run's history, drawn towards `taps`.

    .. math:: w = w_0 + (H^T H + \\lambda I)^{-1} H^T (F_t - H w_0)

    with H the history under `taps` and F the stored features of the full run, for every channel and
    predicted step over all fit samples and tokens. Needs a trace that stores every token.

    Args:
        taps: ``(predicted step, depth, channel)``.
    """
    trace, section = setup.context.problem.trace, setup.section
    values = trace.array(f"points/{trace.point.kind}/values")
    steps = section.schedule.predicted_steps
    row = {step: i for i, step in enumerate(steps)}
    depth, channels = taps.shape[1:]
    past, cross = np.zeros((len(steps), channels, depth, depth)), np.zeros((len(steps), channels, depth))
    index = {label: i for i, label in enumerate(trace.branches)}
    offset = 0

    def note(branch: str, step: int, history: Sequence[Feature]) -> None:
        seen = np.stack([_rows(feature, size) for feature in history])  # (history, sample, token, channel)
        target = values[offset : offset + size, index[branch], step]
        used = len(seen)
        past[row[step], :, :used, :used] += np.einsum("ksnc,lsnc->ckl", seen, seen, optimize=True)
        cross[row[step], :, :used] += np.einsum("ksnc,snc->ck", seen, target, optimize=True)

    with TapRollout(setup.context.pipe, section, checkpointed=False, on_history=note) as rollout, torch.no_grad():
        rollout.follow(taps)
        for begin in range(0, len(setup.fit.jobs), 8):
            jobs = setup.fit.jobs[begin : begin + 8]
            offset, size = jobs[0].index, len(jobs)
            sample_latents(setup.context.pipe, jobs, setup.context.problem.workload.num_steps, size)
    start = taps.double().numpy().transpose(0, 2, 1)[..., None]
    ridge = setup.candidate.settings.ridge * np.trace(past, axis1=-2, axis2=-1) / depth + 1e-12
    damped = past + ridge[..., None, None] * np.eye(depth)
    move = np.linalg.solve(damped, cross[..., None] - past @ start)
    return torch.from_numpy((start + move)[..., 0].transpose(0, 2, 1)).float()


def _rows(feature: Feature, samples: int) -> Array:
    """``(sample, token, channel)``; halves of a batched guidance call become tokens, as in the trace."""
    part = torch.cat(list(feature), dim=-1).double()
    return part.reshape(-1, samples, *part.shape[1:]).transpose(0, 1).flatten(1, 2).cpu().numpy()
