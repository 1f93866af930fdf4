"""What a plan does on the steps of a trace, its own or others, and what that costs there."""

from dataclasses import dataclass

import numpy as np

from hyca_calib.search.problem import Problem
from hyca_calib.search.replay import Array, gap_cost, gaps, residual_gram
from hyca_calib.search.rows import plan_taps, rows_of
from hyca_calib.trace.store import Trace
from hyca_runtime.moment import Moment
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.policies.scheduled import Scheduled
from hyca_runtime.schedule import Schedule

BROKEN = 1e30


@dataclass(frozen=True)
class Retimed:
    """A plan on the steps of one run.

    Attributes:
        weights: of each predicted step, ``(tap, channel)``, newest first.
        adapted: whether those are not the plan's own steps.
        joint: the section, where on its own steps its rows weigh more than their branch's past.
    """

    schedule: Schedule
    weights: dict[int, Array]
    adapted: bool
    joint: NetworkPlan | None = None

    @property
    def depth(self) -> int:
        """Most computed features that a forecast weighs."""
        return max((len(rows) for rows in self.weights.values()), default=1)


def is_on_grid(section: NetworkPlan, trace: Trace) -> bool:
    """Whether the traced runs have the section's own times."""
    own, theirs = grids(section, trace)
    return len(own) == len(theirs) and np.allclose(own, theirs, rtol=1e-4, atol=1e-6)


def retime(section: NetworkPlan, trace: Trace) -> Retimed:
    """What the runtime does on the traced steps with ``on_mismatch="adapt"``.

    Groups whose solver reads the features (`AdaptiveSolver`) are replayed by their closed form.
    """
    if is_on_grid(section, trace):
        rows = {step: np.asarray(taps.weights, dtype=np.float64) for step, taps in section.taps().items()}
        return Retimed(section.schedule, rows, adapted=False, joint=section if section.is_joint else None)
    own, theirs = grids(section, trace)
    sign = 1.0 if own[0] <= own[-1] else -1.0
    positions = np.interp(sign * theirs, sign * own, np.arange(len(own)))
    moments = [Moment(0, n, b, len(own)) for n, b in zip(positions.tolist(), [-1.0, *positions[:-1]], strict=True)]
    actions = [Scheduled().decide((), moment, section.schedule)[0] for moment in moments]
    schedule = Schedule.from_steps(len(theirs), [i for i, action in enumerate(actions) if action.computes])
    rows = {
        step: section.weights_at(positions[list(history)].tolist(), float(positions[step])).astype(np.float64)
        for history, targets in gaps(schedule, section.forecast.free_depth)
        for step in targets
    }
    return Retimed(schedule, rows, adapted=True)


def retimed_cost(problem: Problem, retimed: Retimed) -> float:
    """Cost of a plan on the select split, see `hyca_calib.search.replay`; `BROKEN` if its weights are not finite."""
    if retimed.joint is not None:
        return _joint_cost(problem, retimed.joint)
    total = 0.0
    for history, targets in gaps(retimed.schedule, retimed.depth):
        rows = [retimed.weights[step] for step in targets]
        padded = [np.pad(row, ((0, len(history) - len(row)), (0, 0))) for row in rows]
        residuals = residual_gram(problem.select, np.stack(padded, axis=-1).swapaxes(0, 1), history, targets)
        total += float(gap_cost(residuals, problem.step_weights[list(targets)]) @ problem.channel_gain)
    return total if np.isfinite(total) else BROKEN


def _joint_cost(problem: Problem, section: NetworkPlan) -> float:
    """The same of rows over more than their own branch's past: of what guidance makes of all branches' errors."""
    rows, taps, gram = rows_of(section), plan_taps(section), problem.joint("select")
    weights = dict(zip(problem.trace.branches, problem.trace.guidance, strict=True))
    errors = dict[
        int, Array
    ]()  # of each gap, by the computed step before it: of each channel a row over all regressors
    for row, table, (history, target) in zip(rows, taps, problem.places(section), strict=True):
        effect = problem.step_weights[row.step] * weights[row.branch]
        error = errors.setdefault(row.newest, np.zeros(gram.shape[:2]))
        error[:, history] += effect * table[: len(history)].T
        error[:, target] -= effect
    total = sum(
        float(np.einsum("cr,crs,cs->c", e, gram, e, optimize=True) @ problem.channel_gain) for e in errors.values()
    )
    return total if np.isfinite(total) else BROKEN


def grids(section: NetworkPlan, trace: Trace) -> tuple[Array, Array]:
    """Times of the section's steps and of the traced ones; the scheduler's own where both are known."""
    theirs = trace.attributes.scheduler_timesteps
    if section.grid.scheduler_timesteps is not None and theirs:
        return np.asarray(section.grid.scheduler_timesteps), np.asarray(theirs, dtype=np.float64)
    return np.asarray(section.grid.timesteps), np.asarray(trace.timesteps, dtype=np.float64)
