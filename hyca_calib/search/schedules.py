"""The best schedules within budgets for given settings, judged on the select split."""

import itertools
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyca_calib.costs.budget import Budget
from hyca_calib.search.exact import affordable, best_schedules, gap_table, shortest_paths
from hyca_calib.search.mixed import FreeGaps, MixedGaps, best_mixed, filled
from hyca_calib.search.options import FEW_STEPS
from hyca_calib.search.precision.paths import LOW, OWN, PreciseGaps, cheapest
from hyca_calib.search.precision.variants import summed
from hyca_calib.search.problem import Problem
from hyca_calib.search.replay import grouped
from hyca_calib.search.settings import Settings
from hyca_calib.search.stopwatch import Pulse, no_pulse
from hyca_runtime.errors import BudgetError
from hyca_runtime.schedule import COMPUTE, DEFAULT, EVERY, FEATURE, Action, Schedule

Groups = Sequence[NDArray[np.int64]]

Ways = dict[int, tuple[float, list[tuple[int, ...]]]]
"""By the number of calls, the least cost and the computed steps of each guidance branch so far."""

FEWER = 2
"""So many steps less than a budget allows may be computed, for more steps that run a part."""
LOUDNESS = (1.0, 4.0, 16.0)
"""Errors of a variant resemble each other from step to step and then add up in the latent by more than their squares,
the more, the more steps have them; how much, rollouts tell."""
MOST_WAYS = 4096
"""Ways to forecast a gap that are looked at where all of them are."""
MOST_UNITS = 48
"""Units that what is left of a budget has at most; the price of a part is rounded up to whole ones."""


class _Reach(NamedTuple):
    """What a search of schedules looks at: leading steps that are computed, taps, and the longest gap."""

    start: int
    depth: int
    gap: int


def whole_schedules(
    problem: Problem, settings: Settings, budgets: Sequence[Budget], groups: Groups, pulse: Pulse
) -> list[Schedule]:
    """Schedules of whole steps: computed, or the problem's own point is forecast.

    Raises:
        BudgetError: no schedule fits.
    """
    trace, steps = problem.trace, problem.trace.num_steps
    first = trace.attributes.first_computed
    counts = [budget.computed_steps(trace.cost, steps, settings.depth, first) for budget in budgets]
    reach = _reach(problem, settings, min(counts), len(groups))
    fit, judge = (grouped(gram, problem.channel_gain, groups) for gram in (problem.fit, problem.select))
    times, weights = problem.times(settings.axis), problem.step_weights
    table = gap_table(fit, judge, times, weights, reach.depth, settings.ridge, reach.gap, pulse)
    found = best_schedules(table, range(min(counts), max(counts) + 1), reach.start, pulse)
    found[steps] = Schedule.from_steps(steps, range(steps))
    for budget, count in zip(budgets, counts, strict=True):
        if count not in found:
            raise BudgetError(f"budget {budget.text!r}: no schedule with {count} of {steps} computed steps")
    return [found[count] for count in counts]


def own_schedules(
    problem: Problem, settings: Settings, budgets: Sequence[Budget], groups: Groups, pulse: Pulse
) -> list[Schedule]:
    """Schedules of whole steps; of steps by variants where no others are cheap enough.

    Raises:
        BudgetError: no schedule fits.
    """
    try:
        return whole_schedules(problem, settings, budgets, groups, pulse)
    except BudgetError:
        known = problem.variants.saving(budgets[0].timed is not None) if problem.variants else []
        if not known:
            raise
        if len(budgets) == 1:
            return [_first_that_fits(problem, settings, budgets[0], groups, known)]
        return [own_schedules(problem, settings, [budget], groups, pulse)[0] for budget in budgets]


def _first_that_fits(
    problem: Problem, settings: Settings, budget: Budget, groups: Groups, variants: Sequence[str]
) -> Schedule:
    for variant in variants[:-1]:
        with suppress(BudgetError):
            return precise_schedule(problem, settings, budget, groups, variant)
    return precise_schedule(problem, settings, budget, groups, variants[-1])


def mixed_schedules(
    problem: Problem, settings: Settings, budget: Budget, groups: Groups, pulse: Pulse = no_pulse
) -> list[Schedule]:
    """Schedules of which steps may also run a part of the network, each point's taps fitted on its own past: the best
    of each number of computed steps, the very best first.

    Raises:
        BudgetError: no schedule fits.
    """
    steps = problem.trace.num_steps
    few = steps <= FEW_STEPS
    first = problem.trace.attributes.first_computed
    count = budget.computed_steps(problem.trace.cost, steps, settings.depth, first)
    if count == steps:
        return [Schedule.from_steps(steps, range(steps))]
    counts = range(first if few else max(first, count - FEWER), count + 1)
    units, most = _prices(problem, settings, budget, counts)
    reach = _reach(problem, settings, counts[0], len(groups) * (1 + most[counts[0]]))
    if few:
        reach = reach._replace(gap=min(reach.gap, 1 + int(math.log(MOST_WAYS, len(problem.points)) + 1e-9)))
    most_units = min(most[counts[0]], max(units) * reach.gap)
    gaps = _mixed_gaps(problem, settings, groups, reach, units, most_units, FreeGaps if few else MixedGaps)
    found = best_mixed(gaps, list(problem.named), most, reach.start, pulse)
    if not found:
        raise BudgetError(f"budget {budget.text!r}: no schedule with at most {count} of {steps} computed steps")
    return [schedule for _, schedule in sorted(found.values(), key=lambda way: way[0])]


def filled_schedule(
    problem: Problem, settings: Settings, budget: Budget, groups: Groups, schedule: Schedule
) -> Schedule:
    """A schedule of whole steps, with what it leaves of the budget spent on steps that run a part, at the best."""
    computed = schedule.computed_steps
    longest = max(np.diff([*computed, schedule.num_steps]).tolist())
    if longest < 2:
        return schedule
    units, most = _prices(problem, settings, budget, range(len(computed), len(computed) + 1))
    reach = _Reach(settings.start, settings.depth, longest)
    gaps = _mixed_gaps(problem, settings, groups, reach, units, min(most[len(computed)], max(units) * longest))
    return filled(gaps, list(problem.named), computed, most[len(computed)])


def partial_schedule(
    problem: Problem, settings: Settings, budget: Budget, groups: Groups, schedule: Schedule, pulse: Pulse
) -> Schedule:
    """A schedule within the budget of which steps may run a part: of few steps the best of all, else a filled one."""
    if problem.trace.num_steps <= FEW_STEPS:
        with suppress(BudgetError):  # gaps may be too long
            return mixed_schedules(problem, settings, budget, groups, pulse)[0]
    return filled_schedule(problem, settings, budget, groups, schedule)


def _prices(problem: Problem, settings: Settings, budget: Budget, counts: range) -> tuple[list[int], dict[int, int]]:
    """Units that a step costs which runs a part, by point, and how many are left beside so many computed steps."""
    cost, steps = problem.trace.cost, problem.trace.num_steps
    light = cost.predicted_flops(settings.depth)
    alone = [problem.at(point).trace.cost.predicted_flops(settings.depth) for point in problem.partial]
    total = budget.most_flops(cost.full_flops, light, steps) * (1 + 1e-9)
    left = {k: max(0.0, total - k * cost.full_flops - (steps - k) * light) for k in counts}
    unit = max(min(alone) - light, left[counts[0]] / MOST_UNITS)
    return [int(np.ceil((price - light) / unit - 1e-6)) for price in alone], {k: int(left[k] / unit) for k in counts}


def _mixed_gaps(
    problem: Problem,
    settings: Settings,
    groups: Groups,
    reach: _Reach,
    units: Sequence[int],
    most: int,
    kind: type[MixedGaps] = MixedGaps,
) -> MixedGaps:
    gains = problem.channel_gain
    return kind(
        fit=[grouped(problem.at(point).fit, gains, groups) for point in problem.points],
        judge=grouped(problem.judge, gains, groups),
        times=problem.times(settings.axis),
        step_weights=problem.step_weights,
        depth=reach.depth,
        ridge=settings.ridge,
        max_gap=reach.gap,
        units=units,
        most=most,
    )


def precise_schedule(
    problem: Problem, settings: Settings, budget: Budget, groups: Groups, variant: str, loudness: float = 1.0
) -> Schedule:
    """The best schedule of which computed steps may have the network's own precision or that of a variant.

    Args:
        loudness: the noise is taken as so many times what was traced, see `LOUDNESS`.

    Raises:
        BudgetError: no schedule fits.
    """
    trace, known, steps = problem.trace, problem.variants, problem.trace.num_steps
    if known is None:
        raise BudgetError(f"nothing is known of the variant {variant!r}; search with --precision {variant}")
    full, light = trace.cost.full_flops, trace.cost.predicted_flops(settings.depth)
    price = known.bits if budget.timed is None else known.in_time
    own, low, least = (
        price(flops, Action(variant=of)) for flops, of in ((full, DEFAULT), (full, variant), (light, DEFAULT))
    )
    if low >= own:
        raise BudgetError(
            f"budget {budget.text!r}: computing a step as {variant} costs {low / own:.2f} of what it costs "
            "otherwise, so nothing is saved; leave it out of --precision"
        )
    low = max(low, least + 1e-9 * own)  # where a forecast takes as long
    spare = budget.most_flops(own, least, steps) * (1 + 1e-9) - steps * least
    counts = range(min(steps, max(1, int(spare / (own - least)))), min(steps, int(spare / (low - least))) + 1)
    most = {k: min(k, int((spare - k * (low - least)) / (own - low))) for k in counts}
    depth = min(settings.depth, 2)  # two decide which schedule is best; the plan's rows have all
    reach = _reach(problem, replace(settings, depth=depth), counts[0], 4 * len(groups)) if counts else None
    if reach is None:
        told = (
            f"computing one of {steps} steps as {variant} is {steps * own / (low + (steps - 1) * least):.1f}x already"
        )
        raise BudgetError(f"budget {budget.text!r} cannot be met: {told}; ask for less")
    gains, branches = problem.channel_gain[:, None], len(trace.branches)
    guidance = trace.guidance if len(trace.guidance) == branches and trace.crossed else [1.0] * branches
    noise = [loudness * summed(known.noise[variant], of) * gains for of in ([1.0] * branches, guidance)]
    fit_noise, judge_noise = (np.stack([of[group].sum(0) for group in groups]) for of in noise)
    gaps = PreciseGaps(
        fit=grouped(problem.fit, problem.channel_gain, groups),
        judge=grouped(problem.select, problem.channel_gain, groups),
        fit_noise=fit_noise,
        judge_noise=judge_noise,
        times=problem.times(settings.axis),
        step_weights=problem.step_weights,
        depth=reach.depth,
        ridge=settings.ridge,
        max_gap=reach.gap,
    )
    found = cheapest(gaps.tables(), most, reach.start)
    if not found:
        raise BudgetError(f"budget {budget.text!r}: no schedule with steps of {variant}")
    computed = dict(min(found.values(), key=lambda way: way[0])[1])
    palette = (COMPUTE, Action(forecast=(FEATURE,)), Action(variant=variant))
    places = {OWN: 0, LOW: 2}
    table = tuple(places[computed[step]] if step in computed else 1 for step in range(steps))
    return Schedule(palette=palette, tables={EVERY: table})


def branch_schedule(
    problem: Problem, settings: Settings, budget: Budget, groups: Groups, pulse: Pulse = no_pulse
) -> Schedule:
    """The best schedule whose guidance branches are computed on steps of their own.

    Each branch's best schedules of all lengths are found alone; which lengths go together is a second shortest path.
    What guidance makes of errors of several branches together is left to rollouts.
    """
    trace, steps, branches = problem.trace, problem.trace.num_steps, problem.trace.branches
    full, light = trace.cost.full_flops, trace.cost.predicted_flops(settings.depth)
    spare = budget.most_flops(full, light, steps) * (1 + 1e-9) - steps * light
    calls = min(int(spare / (full - light) * len(branches)), steps * len(branches))
    fewest = max(1, calls // len(branches) - max(1, calls // len(branches) // 3))
    reach, times = _reach(problem, settings, fewest, len(groups)), problem.times(settings.axis)
    ways: Ways = {0: (0.0, [])}
    for branch in branches:
        alone = problem.of(branch)
        fit, judge = (grouped(gram, problem.channel_gain, groups) for gram in (alone.fit, alone.select))
        table = gap_table(fit, judge, times, problem.step_weights, reach.depth, settings.ridge, reach.gap, pulse)
        counts = dict.fromkeys(range(fewest, min(steps, calls) + 1), 0)
        paths = shortest_paths([costs[..., None] for costs in table.histories], counts, reach.start, pulse)
        found: Ways = {}
        for (done, (cost, earlier)), (count, path) in itertools.product(ways.items(), paths.items()):
            total = cost + path.cost
            if done + count <= calls and total < found.get(done + count, (np.inf, []))[0]:
                found[done + count] = total, [*earlier, path.computed]
        ways = found
    if not ways:
        raise BudgetError(f"budget {budget.text!r}: no schedule with {calls} calls of {len(branches)} branches")
    _, computed = min(ways.values(), key=lambda way: way[0])
    tables = {of: Schedule.from_steps(steps, own) for of, own in zip(branches, computed, strict=True)}
    first = next(iter(tables.values()))
    named = {branch: table.tables[EVERY] for branch, table in tables.items()}
    return Schedule(palette=first.palette, tables={**first.tables, **named})


def _reach(problem: Problem, settings: Settings, fewest: int, tables: int) -> _Reach:
    """How far a search looks that computes at least `fewest` steps, with so many tables of gaps."""
    steps = problem.trace.num_steps
    start = min(max(settings.start, problem.trace.attributes.first_computed), fewest)
    widest = -(-(steps - start) // (fewest - start + 1)) + 1  # if all gaps after the start were equal
    wide = min(steps, max(4, 2 * widest))
    return _Reach(start, *affordable(steps, tables, settings.depth, min(widest, wide), wide))
