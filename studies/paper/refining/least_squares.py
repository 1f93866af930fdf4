"""What least squares do instead: refits on the accelerated run's own history, and maps of all channels."""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Split, batches
from hyca_calib.search.replay import Array
from hyca_calib.search.tap_rollout import TapRollout
from hyca_runtime.feature import Feature
from hyca_runtime.stacked import stacked_labels
from studies.paper.refining.setup import RefinementSetup

RANKS = (1, 8)
RIDGES = (1e1, 1e2, 1e3, 1e4)
TAP_RIDGE = 1e-6


def refitted(setup: RefinementSetup, taps: Tensor) -> Tensor:
    r"""Least squares of the full run's features on the accelerated run's history, drawn towards `taps`.

    .. math:: w = w_0 + (H^T H + \\lambda I)^{-1} H^T (F_t - H w_0)

    with H the history under `taps` and F the stored features of the full run, for every channel and
    predicted step over all fit samples and tokens. Needs a trace that stores every token.

    Args:
        taps: ``(predicted step, depth, channel)``.
    """
    trace, section = setup.context.problem.trace, setup.section
    values = trace.array(f"points/{trace.key}/values")
    row = {step: i for i, step in enumerate(section.schedule.predicted_steps)}
    depth, channels = taps.shape[1:]
    past, cross = np.zeros((len(row), channels, depth, depth)), np.zeros((len(row), channels, depth))
    offset = size = 0

    def note(branch: str, step: int, history: Sequence[Feature]) -> None:
        seen = np.stack([_rows(feature, size) for feature in history])  # (history, sample, token, channel)
        of_call = [trace.branches.index(label) for label in stacked_labels(branch, trace.stacked)]
        target = np.concatenate([values[offset : offset + size, own, step] for own in of_call], axis=1)
        used = len(seen)
        past[row[step], :, :used, :used] += np.einsum("ksnc,lsnc->ckl", seen, seen, optimize=True)
        cross[row[step], :, :used] += np.einsum("ksnc,snc->ck", seen, target, optimize=True)

    with TapRollout(setup.context.pipe, section, checkpointed=False, on_history=note) as rollout, torch.no_grad():
        rollout.follow(taps)
        for jobs in batches(setup.fit.jobs, 8):
            offset, size = jobs[0].index, len(jobs)
            sample_latents(setup.context.pipe, jobs, setup.fit.num_steps, size)
    start = taps.double().numpy().transpose(0, 2, 1)[..., None]
    ridge = setup.candidate.settings.ridge * np.trace(past, axis1=-2, axis2=-1) / depth + 1e-12
    damped = past + ridge[..., None, None] * np.eye(depth)
    move = np.linalg.solve(damped, cross[..., None] - past @ start)
    return torch.from_numpy((start + move)[..., 0].transpose(0, 2, 1)).float()


def _rows(feature: Feature, samples: int) -> Array:
    """``(sample, token, channel)``; the branches of a call become tokens."""
    part = torch.cat(list(feature), dim=-1).double()
    return part.reshape(-1, samples, *part.shape[1:]).transpose(0, 1).flatten(1, 2).cpu().numpy()


def reach(setup: RefinementSetup, target: int) -> dict[str, float]:
    """Held-out squared error of a forecast of `target`, in dB below that of taps of depth 3 per channel.

    Fitted on the stored tokens of the fit split, judged on the select split. Mixing adds a linear map
    of all channels of the history, its ridge and rank chosen in its favour on the judged split.
    """
    trace, schedule = setup.context.problem.trace, setup.section.schedule
    scale = np.sqrt(setup.context.problem.channel_gain)
    values: dict[Split, Array] = {split: trace.values(split) * scale for split in ("fit", "select")}
    computed = [s for s in schedule.computed_steps if s < target][::-1]

    def rows(step: int) -> list[Array]:
        """Features of both splits, ``(token, channel)``."""
        return [np.asarray(of[:, :, step], dtype=np.float64).reshape(-1, len(scale)) for of in values.values()]

    def residuals(depth: int) -> list[Array]:
        """What fitted taps leave of both splits."""
        history = [np.stack(of) for of in zip(*map(rows, computed[:depth]), strict=True)]
        fit, goal = history[0], rows(target)
        past = np.einsum("knc,lnc->ckl", fit, fit, optimize=True)
        ridge = TAP_RIDGE * np.trace(past, axis1=1, axis2=2)[:, None, None] / depth * np.eye(len(fit))
        cross = np.einsum("knc,nc->ck", fit, goal[0], optimize=True)
        taps = np.linalg.solve(past + ridge, cross[..., None])[..., 0]
        return [b - np.einsum("knc,ck->nc", a, taps, optimize=True) for a, b in zip(history, goal, strict=True)]

    errors, held = residuals(3)
    left = {f"history {depth}": residuals(depth)[1] for depth in (2, 4)}
    left["a constant for each channel"] = held - errors.mean(0)
    mixing, judged = _mixing([rows(s) for s in computed[:3]], errors, held)
    left |= {name: held - judged @ mixed for name, mixed in mixing.items()}
    return {name: float(-10 * np.log10((of**2).sum() / (held**2).sum())) for name, of in left.items()}


def _mixing(history: list[list[Array]], errors: Array, held: Array) -> tuple[dict[str, Array], Array]:
    """Maps of the newest feature and of the differences before it, all channels, to the residual; and what is judged of
    them."""
    changes = ([a - b for a, b in zip(new, old, strict=True)] for new, old in itertools.pairwise(history))
    fit, judge = (np.concatenate(of, axis=1) for of in zip(history[0], *changes, strict=True))
    deviation = fit.std(0) + 1e-9
    fit, judge = fit / deviation, judge / deviation
    gram, cross = fit.T @ fit, fit.T @ errors
    maps = [np.linalg.solve(gram + ridge * np.eye(len(gram)), cross) for ridge in RIDGES]
    best = min(maps, key=lambda m: float(((held - judge @ m) ** 2).sum()))
    directions = np.linalg.svd(fit @ best, full_matrices=False)[2]
    ranks = {f"mixing of rank {rank}": best @ directions[:rank].T @ directions[:rank] for rank in RANKS}
    return {"mixing of all channels": best, **ranks}, judge
