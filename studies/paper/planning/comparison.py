"""Do other ways of search reach what dynamic programming finds, at some numbers of steps and on the whole front?"""

import math
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import numpy as np

from hyca_calib.costs.budget import Budget
from hyca_calib.quality.metrics import interval
from hyca_calib.search.replay import Array
from hyca_calib.search.tune import solve
from hyca_runtime.errors import BudgetError
from hyca_runtime.schedule import Schedule
from studies.paper.chapter import Cell, Numbers, Part, Rulings
from studies.paper.intervals import all_above, decide, over, told
from studies.paper.planning.baselines import anneal, even_schedule, random_search
from studies.paper.planning.instance import SETTINGS, Instance, timed
from studies.paper.replay import ReplaySetup
from studies.paper.words import claims, paragraphs, table

EXACT, ANNEALING, RANDOM = "dynamic programming", "annealing", "random search"
RULE, EVEN = "published rule", "even spacing"
BUDGETS = ("1.5x", "2x", "2.5x", "3x", "4x", "5x", "6x", "7x", "8x", "10x")
RESTARTS, FRONT_RESTARTS = 16, 8
SAME = 1e-9  # relative difference of costs that are equal but for rounding
MISSED = 0.001  # runs that end this far above the optimum on average have not found it

Run = tuple[Numbers, Sequence[Schedule]]
"""What one way of search costs and reaches, see `_run`, and the best schedule of each of its restarts."""


def comparison(s: Instance) -> Part:
    """All ways of search at the same objective; then what they found, on unseen prompts."""
    runs = [run for count in s.counts for run in _runs(s, count)]
    unseen = {
        (run["method"], run["steps"]): _unseen(s, found) for run, found in runs if run["evaluations"] in (1, s.usual)
    }
    methods = dict.fromkeys(method for method, _ in unseen)
    numbers = {
        "optimum": {str(count): list(schedule.computed_steps) for count, schedule in s.optimum.items()},
        "table_seconds": s.table_seconds,
        "search_seconds": s.search_seconds,
        "runs": [run for run, _ in runs],
        "unseen": [{"method": method, "steps": steps, "ratio": ratio} for (method, steps), ratio in unseen.items()],
    }
    told_runs = {_row(run, s.seed): () for run, _ in runs}
    ratios = {str(count): [told(unseen[method, count]) for method in methods] for count in s.counts}
    restarts = max(len(found) for _, found in runs)
    tables = (
        table("schedules", "found", told_runs, seconds=s.table_seconds, restarts=restarts),
        table("schedules", "unseen_costs", ratios, prompts=len(s.test), usual=s.usual, columns=methods),
    )
    return Part(numbers, tables, paragraphs("schedules", "objective"))


def unseen_costs(s: Instance, schedules: Sequence[Schedule]) -> Array:
    """Cost of each prompt of the test split, ``(prompt,)``, mean over schedules; taps are those of the fit split."""
    setups = {schedule: ReplaySetup(schedule, s.times, s.problem.step_weights) for schedule in schedules}
    costs = {schedule: a.cost(s.test, a.fit(s.fit, SETTINGS.ridge)).sum(-1) for schedule, a in setups.items()}
    return np.asarray(np.mean([costs[schedule] for schedule in schedules], axis=0))


def _unseen(s: Instance, found: Sequence[Schedule]) -> Sequence[float]:
    """Cost over the optimum's, on unseen prompts."""
    best = s.optimum[len(found[0].computed_steps)]
    return over(unseen_costs(s, found), unseen_costs(s, (best,)), s.seed, s.prompts)


def _runs(s: Instance, count: int) -> list[Run]:
    """Every way of search at one number of computed steps."""
    restarts = 4 if s.quick else RESTARTS
    runs = [_run(s, EXACT, math.comb(s.steps - 1, count - 1), [s.optimum[count]], s.search_seconds)]
    for each in (s.usual // 10, s.usual, s.usual * 10):
        (found, _), seconds = timed(partial(anneal, s.table, count, each, restarts, s.rng(count, each)))
        runs.append(_run(s, ANNEALING, each, [Schedule.from_steps(s.steps, at.tolist()) for at in found], seconds))
    once = partial(random_search, s.table, count, s.usual, s.rng(count))
    drawn, seconds = timed(lambda: [once()[0] for _ in range(restarts)])
    runs.append(_run(s, RANDOM, s.usual, [Schedule.from_steps(s.steps, at.tolist()) for at in drawn], seconds))
    return [*runs, _run(s, RULE, 1, [s.rule(count)], 0.0), _run(s, EVEN, 1, [even_schedule(s.steps, count)], 0.0)]


def _run(s: Instance, method: str, evaluations: int, found: Sequence[Schedule], seconds: float) -> Run:
    """Of each restart: schedules it scored, processor seconds, cost of its best over the optimum's minus one; and the
    share of the restarts that found the optimum."""
    excess = [s.excess(schedule) - 1 for schedule in found]
    facts = {"method": method, "steps": len(found[0].computed_steps), "evaluations": evaluations}
    facts |= {"seconds": seconds / len(found), "excess": excess}
    return facts | {"hits": float(np.mean(np.array(excess) <= SAME))}, found


def _row(run: Numbers, seed: int) -> tuple[Cell, ...]:
    mean, low, high = (100 * part for part in interval(run["excess"], seed))
    spread = f"{mean:.2f} ({low:.2f} to {high:.2f})" if len(run["excess"]) > 1 else f"{mean:.2f}"
    among = f"all {run['evaluations']:.3g}" if run["method"] == EXACT else f"{run['evaluations']:,}"
    seconds = f"{run['seconds']:.2g}" if run["seconds"] else "-"
    best, hits = 100 * min(run["excess"]), f"{100 * run['hits']:.0f} %"
    return str(run["steps"]), run["method"], among, seconds, spread, best, hits


def rulings(found: Numbers) -> Rulings:
    """By the numbers of `comparison`."""
    annealed = [run for run in found["runs"] if run["method"] == ANNEALING]
    evaluations = sorted({run["evaluations"] for run in annealed})[1]  # the usual
    usual = [(run, interval(run["excess"])) for run in annealed if run["evaluations"] == evaluations]
    fixed = [cell for cell in found["unseen"] if cell["method"] in (RULE, EVEN)]
    verdicts = {
        "annealing": all_above((excess for _, excess in usual), MISSED),
        "unseen": all_above((cell["ratio"] for cell in fixed), 1),
    }
    return claims("schedules", verdicts, evaluations=evaluations, missed=MISSED, usual=usual, fixed=fixed)


def front(s: Instance) -> Part:
    """Cost at every number of computed steps between the first and the last budget, and at each budget."""
    cost, depth, counts = s.problem.trace.cost, SETTINGS.depth, dict[Budget, int]()
    for budget in map(Budget.parse, BUDGETS):
        with suppress(BudgetError):  # predicted steps may cost too much here
            counts[budget] = budget.computed_steps(cost, s.steps, depth)
    shown = range(max(2, min(counts.values())), max(counts.values()) + 1)
    annealed = {n: anneal(s.table, n, s.usual, FRONT_RESTARTS, s.rng(n, 1))[1] for n in shown}
    lines = {
        EXACT: {n: s.cost(s.optimum[n]) for n in shown},
        ANNEALING: {n: float(costs.mean()) for n, costs in annealed.items()},
        RULE: {len(s.rule(n).computed_steps): s.cost(s.rule(n)) for n in shown},
        EVEN: {n: s.cost(even_schedule(s.steps, n)) for n in shown},
    }
    searched = zip(counts, solve(s.problem, SETTINGS, list(counts), s.seed), strict=True)
    numbers = {
        "lines": {
            name: [[n, cost.flops_ratio(s.steps, n, depth), of] for n, of in sorted(line.items())]
            for name, line in lines.items()
        },
        "limited_gap": {budget.text: s.excess(candidate.schedule) for budget, candidate in searched},
    }
    cells = {}
    for budget, count in counts.items():
        best, rule = s.cost(s.optimum[count]), s.rule(count)
        cells[budget.text] = (
            str(count),
            best,
            lines[ANNEALING].get(count, best) / best,
            f"{s.cost(rule) / best:.4g} ({len(rule.computed_steps)} steps)",
            s.cost(even_schedule(s.steps, count)) / best,
            " ".join(map(str, s.optimum[count].computed_steps)) if count < s.steps / 4 else "",
        )
    return Part(numbers, (table("schedules", "front", cells, restarts=FRONT_RESTARTS, usual=s.usual),))


def front_rulings(found: Numbers) -> Rulings:
    """By the numbers of `front`; both costs are of one table, so nothing is estimated."""
    limited = list(found["limited_gap"].values())
    return claims("schedules", {"limit": decide([over <= 1 + SAME for over in limited])}, limited=limited)
