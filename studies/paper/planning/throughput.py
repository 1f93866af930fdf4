"""How many schedules can be scored per second, with the table of gap costs and without it?"""

from __future__ import annotations

from functools import partial

from hyca_calib.quality.metrics import interval
from hyca_calib.search.replay import schedule_cost
from hyca_calib.search.taps import fit_solver
from hyca_runtime.schedule import Schedule
from hyca_runtime.solvers import Newton, Solver
from studies.paper.chapter import Part, Table
from studies.paper.planning.instance import Instance, timed
from studies.paper.planning.rivals import draw
from studies.paper.planning.table_cost import table_cost

Rate = tuple[float, float, float]

BATCH = 8192


def throughput(s: Instance) -> Part:
    """Schedules per second of one core: the time is processor time, so load and threads do not flatter it."""
    tabled = {count: _tabled(s, count) for count in s.counts}
    middle = s.counts[len(s.counts) // 2]
    closed, fitted = (_single(s, middle, fitted=taps) for taps in (False, True))
    pays_after = s.table_seconds / (1 / fitted[0] - 1 / tabled[middle][0])
    numbers = {
        "from_table": {str(count): list(rate) for count, rate in tabled.items()},
        "one_by_one": {"steps": middle, "closed form": list(closed), "fitted taps": list(fitted)},
        "table_seconds": s.table_seconds,
        "pays_after": pays_after,
    }
    rows = [("from the table", str(count), *rate) for count, rate in tabled.items()]
    rows += [("one by one, closed form", str(middle), *closed), ("one by one, fitted taps", str(middle), *fitted)]
    caption = (
        f"Schedules scored per second of one core, mean with 95 % interval over batches; {len(s.fit)} groups. The "
        f"table of all gaps takes {s.table_seconds:.1f} s once, which pays after {pays_after:,.0f} schedules."
    )
    head = ("scored", "computed steps", "schedules / s", "from", "to")
    return Part((Table(caption, head, tuple(rows)),), numbers)


def _tabled(s: Instance, count: int) -> Rate:
    """A batch of random schedules, summed over their gaps, again and again."""
    score = partial(table_cost, s.table, draw(s.steps, count, BATCH, s.rng(count)))
    score()
    return interval([BATCH / timed(score)[1] for _ in range(10 if s.quick else 200)], s.seed)


def _single(s: Instance, count: int, *, fitted: bool) -> Rate:
    """Random schedules, each replayed through the runtime's solvers."""
    drawn = draw(s.steps, count, 4 if s.quick else 40, s.rng(count)).tolist()
    schedules = [Schedule.from_steps(s.steps, computed) for computed in drawn]
    return interval([1 / timed(partial(_replay, s, schedule, fitted))[1] for schedule in schedules], s.seed)


def _replay(s: Instance, schedule: Schedule, fitted: bool) -> None:
    solvers: list[Solver] = [Newton(1)] * len(s.fit)
    if fitted:
        solvers = [fit_solver(gram[None], schedule, s.times, s.settings.depth, s.settings.ridge) for gram in s.fit]
    schedule_cost(s.judge, schedule, s.times, s.step_weights, solvers)
