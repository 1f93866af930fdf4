"""TeaCache, arXiv 2411.19108: a polynomial of the input's change decides."""

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor
from torch.utils._pytree import tree_leaves

from hyca_calib.pipelines.workload import Job
from hyca_calib.search.kept_runs import Rows, measured
from hyca_calib.search.problem import Problem
from hyca_calib.search.sources import TEACACHE
from hyca_calib.search.step_caches.rule import FIT_SAMPLES, STACK, Progress, Rule
from hyca_calib.search.watched_run import WatchedCall, watch
from hyca_runtime.policies import RescaledChange

DEGREE = 4
"""Of the polynomial, as released."""
KEPT = "output_changes.json"


@dataclass(frozen=True)
class TeaCache(Rule):
    """The settings of TeaCache, but the threshold.

    Attributes:
        coefficients, within: of the polynomial, see `RescaledChange`; the output changes as the probe until fitted.
    """

    coefficients: tuple[float, ...] = (1.0, 0.0)
    within: tuple[float, float] = (0.0, 1e9)
    preset: ClassVar[str] = TEACACHE

    def policy(self, threshold: float) -> RescaledChange:
        return RescaledChange(threshold, self.coefficients, self.within, self.probes)

    def fitted(self, pipe: Any, problem: Problem, folder: Path, on_progress: Progress) -> Self:
        def measure(job: Job) -> Rows:
            return self._changes(pipe, problem, job)

        jobs = problem.workload.of("fit")[:FIT_SAMPLES]
        found = measured(folder / KEPT, f"{problem.identity}, changes", jobs, measure, on_progress)
        inputs, outputs = (np.array([x for run in found for x in run[name][0]]) for name in ("input", "output"))
        coefficients, within = fit_polynomial(inputs, outputs)
        return replace(self, coefficients=coefficients, within=within)

    def _changes(self, pipe: Any, problem: Problem, job: Job) -> Rows:
        """Relative changes of the probe and of the output, between calls of a branch, in a full run of one sample."""
        before: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
        found: dict[str, list[float]] = defaultdict(list)
        policy = self.policy(0.0)

        def hear(call: WatchedCall) -> None:
            if call.begins:
                before.clear()
            if call.probe is None:
                return
            now = tuple(part.detach().clone() for part in (call.probe.reached, tree_leaves(call.output)[0]))
            then, before[call.stream] = before.get(call.stream), (now[0], now[1])
            for name, a, b in zip(("input", "output"), then or (), now, strict=False):
                found[name] += policy.measure(b, a).tolist()

        watch(pipe, problem, {STACK: self.point}, job, problem.workload.num_steps, hear, self.probes)
        return {name: [found[name]] for name in ("input", "output")}


def fit_polynomial(inputs: np.ndarray, outputs: np.ndarray) -> tuple[tuple[float, ...], tuple[float, float]]:
    """The least-squares polynomial from changes of the input to those of the output, and the range of the former.

    Returns:
        Coefficients, highest power first.
    """
    if not len(inputs):
        return (1.0, 0.0), (0.0, 1e9)
    degree = min(DEGREE, len(np.unique(inputs)) - 1)
    fitted = np.polynomial.Polynomial.fit(inputs, outputs, degree).convert().coef
    coefficients = np.pad(fitted, (0, degree + 1 - len(fitted)))[::-1]
    return tuple(coefficients.tolist()), (float(inputs.min()), float(inputs.max()))
