"""Does dynamic programming find the best schedule, and do other ways of search reach it?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyca_calib.quality.metrics import interval
from hyca_runtime.schedule import Schedule
from studies.paper.chapter import Claim, Part, Table, Verdict
from studies.paper.effects import over
from studies.paper.planning.instance import Instance, timed
from studies.paper.planning.rivals import anneal, enumerate_all, even_schedule, random_search
from studies.paper.replay_setup import Array, ReplaySetup
from studies.paper.ruling import all_above, ruled, told

Ratios = dict[tuple[str, int], tuple[float, float, float]]

EXACT, ANNEALING, RANDOM = "dynamic programming", "annealing", "random search"
RULE, EVEN = "published rule", "even spacing"
RESTARTS = 16
ENUMERABLE = 2_000_000
SAME = 1e-9  # relative difference of costs that are equal but for rounding
MISSED = 0.001  # runs that end this far above the optimum on average have not found it


@dataclass(frozen=True)
class Run:
    """What one way of search found for one number of computed steps.

    Attributes:
        evaluations: schedules that each restart scored.
        seconds: processor time of each restart.
        found: the best schedule of each restart.
        excess: its cost over the optimum's, minus one.
    """

    method: str
    steps: int
    evaluations: int
    seconds: float
    found: tuple[Schedule, ...]
    excess: tuple[float, ...]

    @property
    def hits(self) -> float:
        """Share of the restarts that found the optimum."""
        return float(np.mean(np.array(self.excess) <= SAME))

    def mean(self, seed: int) -> tuple[float, float, float]:
        """Mean excess, with its 95 % interval over restarts."""
        return interval(self.excess, seed)


def comparison(s: Instance) -> Part:
    """All ways of search at the same objective; then what they found, on unseen prompts."""
    runs = [run for count in s.counts for run in _runs(s, count)]
    enumerated = _enumerated(s)
    ratios = _unseen(s, [run for run in runs if run.evaluations in (1, usual(s))])
    numbers = {
        "optimum": {str(count): list(schedule.computed_steps) for count, schedule in s.optimum.items()},
        "table_seconds": s.table_seconds,
        "search_seconds": s.search_seconds,
        "runs": [_facts(run) for run in runs],
        "enumerated": enumerated,
        "unseen": [{"method": method, "steps": steps, "ratio": list(r)} for (method, steps), r in ratios.items()],
    }
    tables = (_table(s, runs), _unseen_table(s, ratios))
    return Part(tables, numbers)


def usual(s: Instance) -> int:
    """Evaluations of a usual run of annealing: what claims are about."""
    return 100 if s.quick else 10_000


def unseen_costs(s: Instance, schedules: Sequence[Schedule]) -> Array:
    """Cost of each prompt of the test split, ``(prompt,)``, mean over schedules; taps are those of the fit split."""
    costs = {}
    for schedule in set(schedules):
        setup = ReplaySetup.of(schedule, s.times, s.step_weights, s.settings.depth)
        costs[schedule] = setup.cost(s.test, setup.fit(s.fit, s.settings.ridge)).sum(-1)
    return np.asarray(np.mean([costs[schedule] for schedule in schedules], axis=0))


def _runs(s: Instance, count: int) -> list[Run]:
    """Every way of search at one number of computed steps."""
    best, restarts = s.optimum[count], 4 if s.quick else RESTARTS
    runs = [Run(EXACT, count, math.comb(s.steps - 1, count - 1), s.search_seconds, (best,), (0.0,))]
    for each in (usual(s) // 10, usual(s), usual(s) * 10):
        (found, _), seconds = timed(partial(anneal, s.table, count, each, restarts, s.rng(count, each)))
        runs.append(_run(s, ANNEALING, each, [_schedule(s, computed) for computed in found], seconds))
    once = partial(random_search, s.table, count, usual(s), s.rng(count))
    drawn, seconds = timed(lambda: [once()[0] for _ in range(restarts)])
    runs.append(_run(s, RANDOM, usual(s), [_schedule(s, computed) for computed in drawn], seconds))
    rules = {RULE: s.rule(count), EVEN: even_schedule(s.steps, count)}
    return runs + [_run(s, method, 1, [schedule], 0.0) for method, schedule in rules.items()]


def _run(s: Instance, method: str, each: int, found: Sequence[Schedule], seconds: float) -> Run:
    excess = tuple(s.excess(schedule) - 1 for schedule in found)
    return Run(method, len(found[0].computed_steps), each, seconds / len(found), tuple(found), excess)


def _schedule(s: Instance, computed: NDArray[np.int64]) -> Schedule:
    return Schedule.from_steps(s.steps, computed.tolist())


def _enumerated(s: Instance) -> dict[str, dict[str, float]]:
    """Cost of the best of all schedules over dynamic programming's, where all can be tried."""
    found = {}
    for count in range(2, s.steps):
        options = math.comb(s.steps - 1, count - 1)
        if options > (5_000 if s.quick else ENUMERABLE):
            break
        (_, cost), seconds = timed(partial(enumerate_all, s.table, count))
        over = cost / s.cost(s.optimum[count])
        found[str(count)] = {"schedules": options, "seconds": seconds, "ratio": over}
    return found


def _unseen(s: Instance, runs: Sequence[Run]) -> Ratios:
    """Cost of each run's schedules over the optimum's, on unseen prompts."""
    return {
        (run.method, run.steps): over(
            unseen_costs(s, run.found), unseen_costs(s, (s.optimum[run.steps],)), s.seed, s.prompts
        )
        for run in runs
    }


def _facts(run: Run) -> dict[str, Any]:
    told = ("method", "steps", "evaluations", "seconds", "excess", "hits")
    return {name: getattr(run, name) for name in told}


def _table(s: Instance, runs: Sequence[Run]) -> Table:
    def cells(run: Run) -> tuple[str | float, ...]:
        mean, low, high = (100 * part for part in run.mean(s.seed))
        spread = f"{mean:.2f} ({low:.2f} to {high:.2f})" if len(run.excess) > 1 else f"{mean:.2f}"
        among = f"all {run.evaluations:.3g}" if run.method == EXACT else f"{run.evaluations:,}"
        seconds = f"{run.seconds:.2g}" if run.seconds else "-"
        return (str(run.steps), run.method, among, seconds, spread, 100 * min(run.excess), f"{100 * run.hits:.0f} %")

    restarts = max(len(run.excess) for run in runs)
    caption = (
        "Schedules found at the same objective, from the same table of gap costs "
        f"({s.table_seconds:.1f} s of one core, no gap too long for it). Excess: cost over the optimum's, less "
        f"one; annealing, random search: mean of {restarts} independent runs with 95 % interval, seconds of one core "
        "for each run; dynamic programming: for all numbers of steps at once."
    )
    head = ("computed steps", "found by", "schedules", "seconds", "excess %", "best run %", "runs at the optimum")
    return Table(caption, head, tuple(cells(run) for run in runs))


def _unseen_table(s: Instance, ratios: Ratios) -> Table:
    methods = dict.fromkeys(method for method, _ in ratios)
    cells = {str(count): [told(ratios[method, count]) for method in methods] for count in s.counts}
    caption = (
        f"Cost of those schedules on {len(s.test)} prompts of the test split over that of dynamic programming's, with "
        f"95 % interval over prompts; taps from the fit split. Annealing and random search: {usual(s):,} evaluations, "
        "mean of their runs."
    )
    return Table.of(caption, ("computed steps", *methods), cells)


def claims(found: dict[str, Any]) -> tuple[Claim, ...]:
    """Verdicts of the numbers of `comparison`."""
    annealed = [run for run in found["runs"] if run["method"] == ANNEALING]
    evaluations = sorted({run["evaluations"] for run in annealed})[1]  # a tenth, usual, and ten times as many
    return (
        ruled(
            f"Annealing with {evaluations:,} evaluations misses the optimum (on average more than {100 * MISSED:g} % "
            "above, at every number of computed steps).",
            lambda: _misses([run for run in annealed if run["evaluations"] == evaluations]),
        ),
        ruled(
            "On unseen prompts the optimal schedule is cheaper than the published rule and than even spacing with as "
            "many computed steps.",
            lambda: _cheaper([cell for cell in found["unseen"] if cell["method"] in (RULE, EVEN)]),
        ),
    )


def _misses(runs: list[dict[str, Any]]) -> tuple[Verdict, str]:
    """By the independent runs at each number of computed steps."""
    means = [interval(run["excess"]) for run in runs]
    told_of = ", ".join(
        f"{100 * mean:.2f} % ({100 * low:.2f} to {100 * high:.2f}) at {run['steps']} steps, "
        f"{100 * run['hits']:.0f} % of runs at the optimum"
        for run, (mean, low, high) in zip(runs, means, strict=True)
    )
    return all_above(means, MISSED), f"mean excess {told_of}."


def _cheaper(fixed: list[dict[str, Any]]) -> tuple[Verdict, str]:
    told_of = ", ".join(f"{cell['ratio'][0]:.2f} ({cell['method']}, {cell['steps']} steps)" for cell in fixed)
    return all_above((cell["ratio"] for cell in fixed), 1), f"they cost {told_of} times as much."
