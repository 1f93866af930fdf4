"""What else a forecast could use: how much of the fitted taps' error is within reach of a linear map."""

from __future__ import annotations

import numpy as np

from hyca_calib.pipelines.workload import Split
from studies.paper.loop.refinement_setup import RefinementSetup
from studies.paper.replay_setup import Array

RANKS = (1, 8)
RIDGES = (1e1, 1e2, 1e3, 1e4)
TAP_RIDGE = 1e-6


def reach(setup: RefinementSetup, target: int) -> dict[str, float]:
    """Held-out squared error of a forecast of `target`, in dB below that of taps of depth 3 per channel.

    Fitted on the stored tokens of the fit split, judged on the select split. Mixing adds a linear map
    of all channels of the history, its ridge and rank chosen in its favour on the judged split.
    """
    trace, schedule = setup.context.problem.trace, setup.section.schedule
    scale = np.sqrt(setup.context.problem.channel_gain)
    values: dict[Split, Array] = {split: trace.values(split) * scale for split in ("fit", "select")}
    computed = [s for s in schedule.computed_steps if s < target][::-1]

    def rows(split: Split, step: int) -> Array:
        return np.asarray(values[split][:, :, step], dtype=np.float64).reshape(-1, len(scale))

    def residuals(depth: int) -> tuple[Array, Array]:
        history = computed[:depth]
        fit, judge = (np.stack([rows(split, s) for s in history]) for split in values)
        goal, held = (rows(split, target) for split in values)
        past = np.einsum("knc,lnc->ckl", fit, fit, optimize=True)
        ridge = TAP_RIDGE * np.trace(past, axis1=1, axis2=2)[:, None, None] / depth * np.eye(len(history))
        taps = np.linalg.solve(past + ridge, np.einsum("knc,nc->ck", fit, goal, optimize=True)[..., None])[..., 0]
        left, right = (b - np.einsum("knc,ck->nc", a, taps, optimize=True) for a, b in ((fit, goal), (judge, held)))
        return left, right

    errors, held = residuals(3)
    base = (held**2).sum()
    found = {f"history {depth}": float((residuals(depth)[1] ** 2).sum() / base) for depth in (2, 4)}
    found["a constant for each channel"] = float(((held - errors.mean(0)) ** 2).sum() / base)
    found |= _mixing([(rows("fit", s), rows("select", s)) for s in computed[:3]], errors, held)
    return {name: float(-10 * np.log10(ratio)) for name, ratio in found.items()}


def _mixing(history: list[tuple[Array, Array]], errors: Array, held: Array) -> dict[str, float]:
    """The residual regressed on all channels of the newest feature and of the differences before it."""
    newest, older = history[0], history[1:]
    pairs = [newest, *((a[0] - b[0], a[1] - b[1]) for a, b in zip(history, older, strict=False))]
    fit, judge = (np.concatenate([pair[i] for pair in pairs], axis=1) for i in (0, 1))
    deviation = fit.std(0) + 1e-9
    fit, judge = fit / deviation, judge / deviation
    gram, cross = fit.T @ fit, fit.T @ errors
    maps = [np.linalg.solve(gram + ridge * np.eye(len(gram)), cross) for ridge in RIDGES]
    best = min(maps, key=lambda m: float(((held - judge @ m) ** 2).sum()))
    directions = np.linalg.svd(fit @ best, full_matrices=False)[2]
    base = (held**2).sum()
    found = {"mixing of all channels": float(((held - judge @ best) ** 2).sum() / base)}
    for rank in RANKS:
        kept = best @ directions[:rank].T @ directions[:rank]
        found[f"mixing of rank {rank}"] = float(((held - judge @ kept) ** 2).sum() / base)
    return found
