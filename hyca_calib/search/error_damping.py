r"""How much of an error made at one step is left in the end.

The sampler's impulse response says what a change of the network's output does to the final latent if every
later output stays as it is. It does not: the network sees the changed latent and takes most of the change
back, the more, the earlier it was made. With :math:`r_j` the sampler's response, an error e at step j ends as
:math:`d_j\, r_j\, e`, and the damping d, the factor that is left, is measured here by pushing the feature of
single steps of full runs. Schedules that are searched without it spend their computed steps too early.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from hyca_calib.pipelines.outputs import tensors_of
from hyca_calib.pipelines.rollout import runs_on, sample_latents
from hyca_calib.pipelines.workload import Job
from hyca_calib.search.options import SearchOptions
from hyca_calib.search.problem import Problem
from hyca_calib.search.replay import Array
from hyca_calib.search.storage import Storage, open_study
from hyca_calib.trace.streamed import Piece, StreamedCalls, is_asked
from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.calls import CallResolver
from hyca_runtime.feature import Feature

CPU = torch.device("cpu")
JOBS = 4
PUSH = 0.3
"""A push over the feature's change since the step before: the size and direction that forecast errors have."""
BANDWIDTH = 0.12
"""Bandwidth of the smoothing over steps, as a share of all steps."""
LEAST, MOST = 1e-3, 1e3
"""Factors beyond these are taken for them."""


def with_damping(
    pipe: Any,
    problem: Problem,
    storage: Storage,
    probes: int = SearchOptions.probes,
    on_progress: Callable[[float], None] = lambda share: None,
) -> Problem:
    """`problem` with its damping: measured, or as `storage` remembers it."""
    if not probes:
        return problem
    study = open_study(storage, f"healing {problem.identity} probes {probes}")
    if "healing" not in study.user_attrs:
        found = measure_damping(pipe, problem, probes, on_progress)
        if "healing" not in study.user_attrs:  # else another worker was faster, whose numbers are all workers'
            study.set_user_attr("healing", json.dumps(found.tolist()))
    return replace(problem, damping=tuple(json.loads(study.user_attrs["healing"])))


def carried_over(damping: Sequence[float], problem: Problem) -> Problem:
    """`problem` with what was measured on another trace of the model, perhaps of other steps."""
    if not len(damping):
        return problem
    places = np.linspace(0, len(damping) - 1, problem.trace.num_steps)
    found = np.interp(places, np.arange(len(damping)), np.asarray(damping, dtype=np.float64))
    return replace(problem, damping=tuple(found.tolist()))


def measure_damping(
    pipe: Any,
    problem: Problem,
    probes: int = SearchOptions.probes,
    on_progress: Callable[[float], None] = lambda share: None,
) -> Array:
    """The factor of an error at each step that is left in the end, ``(step,)``; 1 at the last step.

    The first few jobs of the fit split are sampled.

    Cost: `probed_work`. What is before a push is taken from the run without one.
    """
    steps, response = problem.trace.num_steps, np.abs(problem.trace.response)
    used = problem.workload.of("fit")[: _num_jobs(probes)]
    found: list[tuple[int, float]] = []
    for number, (job, pushed) in enumerate(zip(used, _pushed_steps(steps, len(used), probes), strict=True)):
        plain = _run(pipe, problem, job)
        left = {}
        for i, step in enumerate(pushed):
            run = _run(pipe, problem, job, step, plain.calls)
            changed = (run.latents - plain.latents).pow(2).mean().sqrt().item()
            left[step] = changed / max(run.push * response[step], 1e-30)
            on_progress((number + (i + 1) / len(pushed)) / len(used))
        last = left.pop(steps - 1)
        found += [(step, factor / last) for step, factor in left.items() if last > 0]
    return smoothed(found, steps)


def probed_work(steps: int, probes: int, chunks: int = 1) -> tuple[int, int]:
    """How many samples are drawn, each alone, and how many of their steps computed, in a whole measurement.

    Args:
        chunks: of a sample, of which only the first is known up to the push.
    """
    jobs = _num_jobs(probes)
    pushed = [step for each in _pushed_steps(steps, jobs, probes) for step in each]
    return jobs + len(pushed), jobs * steps + sum(steps - max(0, step - 1) // chunks for step in pushed)


def smoothed(found: Sequence[tuple[int, float]], steps: int) -> Array:
    """Local lines through the logarithms of measured factors, ``(step,)``, which end at 1."""
    usable = [(step, factor) for step, factor in found if np.isfinite(factor) and factor > 0]
    if not usable:
        return np.ones(steps)
    at = np.array([*(step for step, _ in usable), steps - 1]) / steps
    logs = np.log(np.clip([*(factor for _, factor in usable), 1.0], LEAST, MOST))
    trust = np.array([1.0] * len(usable) + [len(usable)])  # the last is known, not measured
    curve = np.empty(steps)
    for step in range(steps):
        apart = at - step / steps
        weight = trust * np.exp(-0.5 * (apart / BANDWIDTH) ** 2) + 1e-9
        line = np.polynomial.polynomial.polyfit(apart, logs, 1, w=np.sqrt(weight))
        curve[step] = line[0]
    return np.asarray(np.exp(np.minimum(curve - curve[-1], np.log(MOST))))


def _num_jobs(probes: int) -> int:
    return max(1, min(JOBS, probes // 3))


def _pushed_steps(steps: int, jobs: int, probes: int) -> list[list[int]]:
    """The steps that are pushed in runs of each job: spread over all, the last one always."""
    each = max(1, probes // jobs - 1)
    wanted = np.unique(np.linspace(1, steps - 2, each * jobs).round().astype(int)).tolist()
    return [[*wanted[job::jobs], steps - 1] for job in range(jobs)]


@dataclass(frozen=True)
class _Call:
    """A call of the network: its step, of chunks the furthest, and what it returned.

    The step is None if it does not come to the cache point.
    """

    step: float | None
    output: Any


@dataclass(frozen=True)
class _Run:
    """Final latents of a run, its calls, and the push as the output shows it.

    That is the root mean square change of the network's output; 0 without a push.
    """

    latents: Tensor
    calls: Sequence[_Call]
    push: float


def _run(pipe: Any, problem: Problem, job: Job, step: int | None = None, known: Sequence[_Call] = ()) -> _Run:
    """A run whose feature is pushed at one step, if any; of a video in chunks that of each that was traced.

    Args:
        known: calls of the run without a push, which answer for those before the push.
    """
    module = find_transformer(pipe, problem.trace.attributes.model.component)
    attachment, clock = Attachment(module, problem.trace.point), Clock(module, pipe)
    resolver, streamed, device = CallResolver(clock), StreamedCalls(module), runs_on(pipe)
    calls, pushes, chunks = list[_Call](), list[float](), problem.trace.attributes.chunks
    latest = dict[tuple[str, int], Feature]()  # of each branch

    def answer(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        before = known[len(calls)] if len(calls) < len(known) else None
        alike = step is not None and before and before.step is not None and before.step < step - 1
        if before and alike and not pushes:
            resolver.resolve(args, kwargs, attachment.context.said.branch)
            calls.append(before)
            return _copied(before.output, device)
        output, feature = attachment.compute(args, kwargs)
        if feature is None:
            calls.append(_Call(None, None))
            return output
        call = resolver.resolve(args, kwargs, attachment.context.said.branch)
        pieces = streamed.pieces(getattr(pipe, "scheduler", None), args, kwargs)
        if not pieces and call.progress == "begins":
            latest.clear()
        whole = Piece(call.part, int(resolver.track.position), 0.0, 0.0, (args, kwargs), 0.0, 1.0)
        pieces = pieces or [whole]
        calls.append(_Call(max(piece.step for piece in pieces), None if known else _copied(output, CPU)))
        return pushed(output, feature, call.branch, pieces, args, kwargs)

    def pushed(output: Any, feature: Feature, branch: str, pieces: list[Piece], args: Any, kwargs: Any) -> Any:
        further, moved = Feature((part.detach().clone() for part in feature), feature.form), list[Piece]()
        for piece in pieces:
            asked = piece.step == step and (chunks is None or is_asked(piece.chunk, chunks.which))
            if _push(piece.of({"": further})[""], latest, (branch, piece.chunk), asked):
                moved.append(piece)
        if not moved:
            return output
        changed = attachment.predict(further, args, kwargs)
        for piece in moved:
            for a, b in zip(*(piece.of({"": Feature(tensors_of(of))})[""] for of in (changed, output)), strict=True):
                pushes.append((a.float() - b.float()).pow(2).mean().sqrt().item())
        return changed

    attachment.install(answer)
    try:
        latents = sample_latents(pipe, [job], problem.workload.num_steps, 1)
    finally:
        attachment.remove()
    return _Run(latents, calls, float(np.sqrt(np.mean(np.square(pushes)))) if pushes else 0.0)


def _push(own: Feature, latest: dict[tuple[str, int], Feature], key: tuple[str, int], asked: bool) -> bool:
    """Remember a feature, and move it in place by a part of its change since the step before, if asked and known.

    Returns:
        Whether it was moved.
    """
    now = Feature((part.clone() for part in own), own.form)
    before, latest[key] = latest.get(key), now
    if not asked or before is None or before[0].shape != now[0].shape:
        return False
    for part, new, old in zip(own, now, before, strict=True):
        part.add_(PUSH * (new - old))
    return True


def _copied(output: Any, device: torch.device) -> Any:
    """What a network returned, its tensors copied: pipelines may write into them."""
    return tree_map_only(Tensor, lambda tensor: tensor.detach().clone().to(device), output)
