r"""How much of an error made at one step is left in the end.

The sampler's impulse response says what a change of the network's output does to the final latent if every
later output stays as it is. It does not: the network sees the changed latent and takes most of the change
back, the more, the earlier it was made. With :math:`r_j` the sampler's response, an error e at step j ends as
:math:`h_j\, r_j\, e`, and h, the share that does not heal, is measured here by pushing the feature of single
steps of full runs. Schedules that are searched without it spend their computed steps too early.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hyca_calib.pipelines.branches import Branches
from hyca_calib.pipelines.outputs import tensors_of
from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Job
from hyca_calib.search.problem import Problem
from hyca_calib.search.storage import Storage, open_study
from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.feature import Feature

__all__ = ["PROBES", "carried_over", "healed", "measure_healing", "smoothed"]

Array = NDArray[np.float64]

PROBES, JOBS = 32, 4
PUSH = 0.3
"""Of the feature's change since the step before: the size and direction that forecast errors have."""
BANDWIDTH = 0.12
"""Of the smoothing over steps, as a share of all."""
LEAST, MOST = 1e-3, 1e3


def healed(
    pipe: Any,
    problem: Problem,
    jobs: Sequence[Job],
    storage: Storage,
    probes: int = PROBES,
    on_progress: Callable[[float], None] = lambda share: None,
) -> Problem:
    """`problem` with its healing: measured, or as `storage` remembers it.

    Args:
        jobs: of the fit split; the first few are sampled.
        probes: full runs with a push; 0 measures nothing.
    """
    if not probes:
        return problem
    study = open_study(storage, f"healing {problem.identity} probes {probes}")
    if "healing" not in study.user_attrs:
        found = measure_healing(pipe, problem, jobs, probes, on_progress)
        study.set_user_attr("healing", json.dumps(found.tolist()))
    return replace(problem, healing=tuple(json.loads(study.user_attrs["healing"])))


def carried_over(shares: Sequence[float], problem: Problem) -> Problem:
    """`problem` with what was measured on another trace of the model, perhaps of other steps."""
    if not len(shares):
        return problem
    places = np.linspace(0, len(shares) - 1, problem.trace.num_steps)
    found = np.interp(places, np.arange(len(shares)), np.asarray(shares, dtype=np.float64))
    return replace(problem, healing=tuple(found.tolist()))


def measure_healing(
    pipe: Any,
    problem: Problem,
    jobs: Sequence[Job],
    probes: int = PROBES,
    on_progress: Callable[[float], None] = lambda share: None,
) -> Array:
    """Share of an error at each step that is left in the end, ``(step,)``; 1 at the last step.

    Cost: `probes` full runs of one sample, and one without a push for each of a few samples.
    """
    steps, response = problem.trace.num_steps, np.abs(problem.trace.response)
    used = jobs[: max(1, min(JOBS, probes // 3))]
    plan = _plan(steps, len(used), probes)
    component = problem.trace.attributes.model.component
    found: list[tuple[int, float]] = []
    with _Pusher(pipe, problem, component) as pusher:
        for number, (job, pushed) in enumerate(zip(used, plan, strict=True)):
            plain = pusher.run(job, None)
            left = {}
            for i, step in enumerate(pushed):
                change = (pusher.run(job, step) - plain).pow(2).mean().sqrt().item()
                left[step] = change / max(pusher.push * response[step], 1e-30)
                on_progress((number + (i + 1) / len(pushed)) / len(used))
            last = left.pop(steps - 1)
            found += [(step, share / last) for step, share in left.items()]
    return smoothed(found, steps)


def smoothed(found: Sequence[tuple[int, float]], steps: int) -> Array:
    """Local lines through the logarithms of measured shares, ``(step,)``, which end at 1."""
    usable = [(step, share) for step, share in found if np.isfinite(share) and share > 0]
    if not usable:
        return np.ones(steps)
    at = np.array([*(step for step, _ in usable), steps - 1]) / steps
    logs = np.log(np.clip([*(share for _, share in usable), 1.0], LEAST, MOST))
    trust = np.array([1.0] * len(usable) + [len(usable)])  # the last is known, not measured
    curve = np.empty(steps)
    for step in range(steps):
        apart = at - step / steps
        weight = trust * np.exp(-0.5 * (apart / BANDWIDTH) ** 2) + 1e-9
        line = np.polynomial.polynomial.polyfit(apart, logs, 1, w=np.sqrt(weight))
        curve[step] = line[0]
    return np.asarray(np.exp(np.minimum(curve - curve[-1], np.log(MOST))))


def _plan(steps: int, jobs: int, probes: int) -> list[list[int]]:
    """For each job the steps that are pushed: spread over all, the last one always."""
    each = max(1, probes // jobs - 1)
    wanted = np.unique(np.linspace(1, steps - 2, each * jobs).round().astype(int)).tolist()
    return [[*wanted[job::jobs], steps - 1] for job in range(jobs)]


@dataclass
class _Seen:
    """A branch of the current run: calls so far, and the latest feature."""

    calls: int = 0
    feature: Feature | None = None


class _Pusher:
    """Runs a pipeline in full, with a push at one step. A context manager."""

    def __init__(self, pipe: Any, problem: Problem, component: str) -> None:
        self._pipe, self._problem = pipe, problem
        module = find_transformer(pipe, component)
        self._attachment = Attachment(module, problem.trace.point)
        self._clock = Clock(module, getattr(pipe, "scheduler", None))
        self._step: int | None = None
        self._seen: dict[str, _Seen] = {}
        self._branches = Branches()
        self._pushes: list[float] = []

    def __enter__(self) -> Self:
        self._attachment.install(self._answer)
        return self

    def __exit__(self, *exc: object) -> None:
        self._attachment.remove()

    @property
    def push(self) -> float:
        """Root mean square change of the network's output at the pushed step of the latest run."""
        return float(np.sqrt(np.mean(np.square(self._pushes)))) if self._pushes else 0.0

    def run(self, job: Job, step: int | None) -> Tensor:
        """Final latents."""
        self._step, self._seen, self._branches, self._pushes = step, {}, Branches(), []
        return sample_latents(self._pipe, [job], self._problem.inference_steps, 1)

    def _answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output, feature = self._attachment.compute(args, kwargs)
        if feature is None:
            return output
        name = self._branches.label(self._attachment.context.branch, self._clock.prompt(args, kwargs))
        seen = self._seen.setdefault(name, _Seen())
        before, seen.feature = seen.feature, Feature((part.detach().clone() for part in feature), feature.form)
        number, seen.calls = seen.calls % self._problem.trace.num_steps, seen.calls + 1
        if number != self._step or before is None:
            return output
        pushed = Feature(
            (now + PUSH * (now - then) for now, then in zip(seen.feature, before, strict=True)), feature.form
        )
        changed = self._attachment.predict(pushed, args, kwargs)
        for a, b in zip(tensors_of(changed), tensors_of(output), strict=True):
            self._pushes.append((a.float() - b.float()).pow(2).mean().sqrt().item())
        return changed
