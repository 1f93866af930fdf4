"""The bench of lanes: lanes alone, plans alone, both, and fewer steps; quality against computed passes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hyca_calib.bench.documents.lanes_picture import draw_lanes
from hyca_calib.bench.documents.lanes_table import NAMES, lanes_page
from hyca_calib.bench.notebook import Notebook
from hyca_calib.commands.bench_options import BenchOptions
from hyca_calib.commands.benching import trace_of
from hyca_calib.commands.lane_search import TRIES, WATCHED, LaneSearch
from hyca_calib.commands.options import STUDIES, short_name
from hyca_calib.lanes.choosing import Confirmed, best_of
from hyca_calib.lanes.joint import Wall
from hyca_calib.lanes.measure import Bench, LaneRow
from hyca_calib.lanes.results import LANES_PAGE, LANES_PICTURE, LanesTable, Starts, with_best
from hyca_calib.lanes.surrogate import search_starts, surrogate_error
from hyca_calib.pipelines.defaults import batch_of
from hyca_calib.pipelines.load import load_traced
from hyca_calib.pipelines.rollout import runs_on
from hyca_calib.quality.metrics import prompt_groups
from hyca_calib.records.atomic import write_text
from hyca_calib.records.provenance import command_line, provenance, versions
from hyca_calib.search.problem import Problem
from hyca_calib.trace.store import Trace
from hyca_runtime import load_plan
from hyca_runtime.errors import WorkloadError
from hyca_runtime.plan import plan_file
from hyca_runtime.samplers import Lanes, as_lanes

LANES, WALLS, SAMPLES = "4", "6,10,16", 12
"""Devices, computed passes that are searched for, and test samples, unless told."""


@dataclass(frozen=True)
class LanesBench:
    """One model's bench on the test split."""

    options: BenchOptions
    search: LaneSearch
    test: Bench

    def lanes_alone(self, counts: Sequence[int], walls: Sequence[int]) -> tuple[list[Starts], list[LaneRow]]:
        """Published starts to the end of all lanes, and searched ones for the walls that are lower."""
        starts, rows, reaction = list[Starts](), list[LaneRow](), self.search.reaction
        for count in counts:
            published = as_lanes(count, self.test.num_steps)
            rows += self._of_starts(f"{count} lanes, published starts", published, None)
            before = surrogate_error(reaction, published)
            starts.append(_told(f"{count} lanes, published", published, 0.0))
            for wall in walls:
                if count < wall < published.passes(1):
                    found = search_starts(reaction, count, wall)
                    gained = 10 * math.log10(before / max(surrogate_error(reaction, found), 1e-300))
                    starts.append(_told(f"{count} lanes, searched for {wall} passes", found, gained))
                    rows += self._of_starts(f"{count} lanes, searched starts", found, 1)
        return starts, rows

    def _of_starts(self, way: str, lanes: Lanes, hits: int | None) -> tuple[LaneRow, ...]:
        return self.search.rows(way, lambda: self.test.lanes(way, lanes, hits), starts=lanes.starts, hits=hits)

    def given(self, most: int) -> Iterator[LaneRow]:
        """Plans that were searched and refined, alone, as far as they compute no more steps; and what they are worth
        with rows that are fitted, as those of lanes are."""
        usual = sorted((STUDIES / "bench" / short_name(self.options.model)).glob("*.plan.json"))
        for path in map(plan_file, self.options.plans or usual):
            plan = load_plan(path)
            if len(plan.section.schedule.computed_steps) > most:
                continue
            way = f"refined plan {path.name.removesuffix('.plan.json')}"
            yield from self.search.alone(self.test, plan, way)
            yield from self.search.fitted_alone(self.test, plan)

    def fewer(self, steps: int) -> tuple[LaneRow, ...]:
        """The sampler alone with other steps."""
        return self.search.rows(f"{steps} steps", lambda: [self.test.fewer_steps(steps)], steps=steps)


def bench_lanes(options: BenchOptions) -> Path:
    """``hyca_calib bench lanes``; returns the path of the page.

    Raises:
        SamplerError: the model's sampler cannot be run in lanes.
        WorkloadError: options that cannot be read.
    """
    folder = options.out or STUDIES / "bench" / "lanes" / short_name(options.model)
    counts, walls = numbers("lanes", options.lanes or LANES), sorted(numbers("wall", options.walls or WALLS))
    bench, table = _begun(options, folder)
    starts, rows = bench.lanes_alone(counts, walls)
    most = max(*walls, *(each.passes for each in starts))
    rows += bench.given(most)
    _write(table, folder, starts, [], rows)
    confirmed = list[Confirmed]()
    several = range(2, max(counts) + 1)
    for wall in walls:
        confirmed += bench.search.confirmed(Wall(wall), range(1, several.stop))
        for lanes in (range(1, 2), several):
            best = best_of(confirmed, wall, lanes)
            rows += bench.search.on(bench.test, best) if best is not None else ()
        _write(table, folder, starts, confirmed, rows)
    for steps in sorted({row.computed_passes for row in rows if row.computed_passes <= most} - {table.num_steps}):
        rows += bench.fewer(steps)
    return _write(table, folder, starts, confirmed, rows)


def _begun(options: BenchOptions, folder: Path) -> tuple[LanesBench, LanesTable]:
    trace = Trace(options.trace or trace_of(replace(options, out=folder, samples=None)))
    workload, model = trace.workload(), trace.attributes.model
    pipe = load_traced(model, options.model)
    jobs = workload.of("test")[: options.samples or SAMPLES]
    batch = batch_of(options.model, options.batch)
    table = LanesTable(
        model=options.model,
        weights=model.weights_digest,
        trace=Path(trace.where).name,
        scheduler=type(pipe.scheduler).__name__,
        num_steps=workload.num_steps,
        groups=prompt_groups(jobs),
        workload=workload.describe(),
        starts=(),
        confirmed=(),
        rows=(),
        command=command_line(),
        made=provenance(str(runs_on(pipe))),
    )
    told = table.model_dump(mode="json", include={"model", "weights", "groups", "workload"})
    facts = {**told, "trace": trace.digest, "batch": batch, "device": table.made.device, "versions": versions()}
    notebook = Notebook(folder, facts)
    watched = workload.of("select")[: min(WATCHED, len(jobs))]
    test, select = (Bench.of(pipe, of, workload.num_steps, batch) for of in (jobs, watched))
    search = LaneSearch(Problem(trace), notebook, select, options.settings or TRIES)
    return LanesBench(options, search, test), table


def _write(
    table: LanesTable, folder: Path, starts: list[Starts], confirmed: list[Confirmed], rows: list[LaneRow]
) -> Path:
    told = {"starts": tuple(starts), "confirmed": tuple(confirmed), "rows": tuple(with_best(rows))}
    found = table.model_copy(update=told)
    found.write(folder)
    draw_lanes(found, NAMES, folder / LANES_PICTURE)
    page = folder / LANES_PAGE
    write_text(page, lanes_page(found))
    return page


def numbers(name: str, text: str) -> list[int]:
    """Whole numbers with commas between.

    Raises:
        WorkloadError: they are none.
    """
    try:
        found = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = [0]
    if not found or any(number < 1 for number in found):
        raise WorkloadError(f"--{name}: expected whole numbers from 1 on, with commas between, got {text!r}")
    return found


def _told(way: str, lanes: Lanes, gained: float) -> Starts:
    return Starts(way=way, starts=lanes.starts, passes=lanes.passes(1), surrogate_db=gained)
