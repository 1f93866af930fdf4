"""The bench of lanes: lanes alone, plans alone, both, and fewer steps; quality against passes, in no time."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from hyca_calib.bench.documents.lanes_table import lanes_page
from hyca_calib.bench.notebook import Notebook
from hyca_calib.commands.bench_options import BenchOptions
from hyca_calib.commands.benching import trace_of
from hyca_calib.commands.options import STUDIES, short_name
from hyca_calib.lanes.choosing import Confirmed, Proposed, best_of, propose, rolled, ways_of
from hyca_calib.lanes.joint import Joint, Wall
from hyca_calib.lanes.measure import Bench, LaneRow
from hyca_calib.lanes.results import LANES_PAGE, LanesTable, Starts, with_best
from hyca_calib.lanes.surrogate import Reaction, search_starts, surrogate_error, watch
from hyca_calib.pipelines.defaults import batch_of
from hyca_calib.pipelines.load import load_traced
from hyca_calib.pipelines.rollout import device_of
from hyca_calib.quality.metrics import prompt_groups
from hyca_calib.records.atomic import write_text
from hyca_calib.records.console import say
from hyca_calib.records.provenance import command_line, provenance, versions
from hyca_calib.search.problem import Problem
from hyca_calib.trace.store import Trace
from hyca_runtime import load_plan
from hyca_runtime.errors import SamplerError, WorkloadError
from hyca_runtime.plan import plan_file
from hyca_runtime.samplers import Lanes, as_lanes
from hyca_runtime.samplers.following import Histories
from hyca_runtime.samplers.single_step import single_step

LANES, WALLS, SAMPLES, WATCHED, TRIES = "4", "6,10,16", 12, 4, 150
"""Devices, computed passes that are searched for, test samples, select samples, and candidates of a search."""
MODULES = ("hyca_runtime.samplers", "hyca_calib.lanes.measure")
"""Whose code decides what is drawn."""
FITTED = (*MODULES, "hyca_calib.lanes.fitted")


class Watched(BaseModel, frozen=True):
    """A `Reaction` without its sampler."""

    gram: list[list[float]]
    slopes: list[list[float]]


@dataclass(frozen=True)
class LanesBench:
    """One model's bench; every measurement is written down at once, and an interrupted bench goes on."""

    options: BenchOptions
    trace: Trace
    notebook: Notebook
    test: Bench
    select: Bench

    @cached_property
    def problem(self) -> Problem:
        return Problem(self.trace)

    @property
    def num_steps(self) -> int:
        return self.test.num_steps

    @cached_property
    def reaction(self) -> Reaction:
        """Of the network on the select samples."""

        def watched() -> Watched:
            found = watch(self.select.pipe, self.select.jobs, self.num_steps, self.select.batch)
            return Watched(gram=found.gram.tolist(), slopes=found.slopes.tolist())

        found = self.notebook.recall(Watched, "the network's reaction", watched, MODULES)
        sampler = single_step(self.test.pipe.scheduler).on_host()  # it drew the reference with these steps
        return Reaction(np.array(found.gram), np.array(found.slopes), sampler)

    def rows(
        self, name: str, make: Callable[[], Sequence[LaneRow]], modules: tuple[str, ...] = MODULES, **told: Any
    ) -> tuple[LaneRow, ...]:
        """Rows of that name, measured unless they are known."""
        found = self.notebook.recall(tuple[LaneRow, ...], name, lambda: tuple(make()), modules, **told)
        for row in found:
            told_lane = f", lane {row.lane}" if len(row.starts) > 1 else ""
            say(f"{row.mean_db:6.2f} dB, {row.computed_passes} of {row.passes} passes computed: {row.way}{told_lane}")
        return found

    def lanes_alone(self, counts: Sequence[int], walls: Sequence[int]) -> tuple[list[Starts], list[LaneRow]]:
        """Published starts to the end of all lanes, and searched ones for the walls that lanes alone can keep."""
        starts, rows = list[Starts](), list[LaneRow]()
        for count in counts:
            published = as_lanes(count, self.num_steps)
            rows += self._of_starts(f"{count} lanes, published starts", published, None)
            before = surrogate_error(self.reaction, published)
            starts.append(_told(f"{count} lanes, published", published, 0.0))
            for wall in walls:
                if count < wall < published.passes(1):
                    found = search_starts(self.reaction, count, wall)
                    gained = 10 * math.log10(before / max(surrogate_error(self.reaction, found), 1e-300))
                    starts.append(_told(f"{count} lanes, searched for {wall} passes", found, gained))
                    rows += self._of_starts(f"{count} lanes, searched starts", found, 1)
        return starts, rows

    def _of_starts(self, way: str, lanes: Lanes, hits: int | None) -> tuple[LaneRow, ...]:
        return self.rows(way, lambda: self.test.lanes(way, lanes, hits), starts=lanes.starts, hits=hits)

    def given(self) -> Iterator[LaneRow]:
        """Plans that were searched and refined, alone."""
        usual = sorted((STUDIES / "bench" / short_name(self.options.model)).glob("*.plan.json"))
        for path in map(plan_file, self.options.plans or usual):
            plan = load_plan(path)
            way = f"refined plan {path.name.removesuffix('.plan.json')}"
            content = plan.model_dump_json(include={"sections"})
            yield from self.rows(way, lambda plan=plan, way=way: [self.test.plan_alone(plan, way)], plan=content)

    def confirmed(self, wall: Wall, counts: Sequence[int]) -> Iterator[Confirmed]:
        """Every number of lanes as the surrogate thinks best, on the select split."""
        for count in counts:
            if (proposed := self._proposed(wall, count)) is None:
                continue
            for histories in ways_of(proposed):
                way = described(proposed, histories)
                (row,) = self.rows(
                    f"select: {way}",
                    partial(self._rolled, self.select, proposed, histories),
                    FITTED,
                    **proposed.model_dump(mode="json"),
                )
                yield Confirmed(proposed=proposed, histories=histories, row=row)

    def chosen(self, one: Confirmed) -> tuple[LaneRow, ...]:
        """A choice on the test split."""
        make = partial(self._rolled, self.test, one.proposed, one.histories)
        return self.rows(one.row.way, make, FITTED, **one.proposed.model_dump(mode="json"))

    def _rolled(self, bench: Bench, proposed: Proposed, histories: Histories) -> list[LaneRow]:
        return [rolled(bench, self.problem, proposed, histories, described(proposed, histories))]

    def _proposed(self, wall: Wall, count: int) -> Proposed | None:
        def found() -> Proposed | None:
            try:
                return propose(self.reaction, wall, count, TRIES, told)
            except SamplerError as error:
                say(str(error))
                return None

        def told(tried: int, error: float) -> None:
            if tried % 50 == 0:
                say(f"{count} lanes, a wall of {wall.evaluations:g}: {tried} of {TRIES} tried, error {error:.3g}")

        facts = {"tries": TRIES, "forecast": wall.forecast, "lanes": count}
        return self.notebook.recall(Proposed | None, f"wall {wall.evaluations:g}", found, (Joint.__module__,), **facts)  # type: ignore[arg-type]


def bench_lanes(options: BenchOptions) -> Path:
    """``hyca_calib bench lanes``; returns the path of the page.

    Raises:
        SamplerError: the model's sampler cannot be run in lanes.
        WorkloadError: options that cannot be read.
    """
    folder = options.out or STUDIES / "bench" / "lanes" / short_name(options.model)
    counts, walls = numbers("lanes", options.lanes or LANES), numbers("wall", options.walls or WALLS)
    bench, table = _begun(options, folder)
    rows = list[LaneRow]()
    starts, found = bench.lanes_alone(counts, walls)
    rows += [*found, *bench.given()]
    steps = {row.computed_passes for row in rows} | set(walls)
    confirmed = list[Confirmed]()
    for number in sorted(walls):
        tried = list(bench.confirmed(Wall(number), range(1, max(counts) + 1)))
        confirmed += tried
        for lanes in (range(1, 2), range(2, max(counts) + 1)):
            best = best_of(tried, number, lanes)
            rows += bench.chosen(best) if best is not None else ()
        _write(table, folder, starts, confirmed, rows)
    for number in sorted(steps - {bench.num_steps}):
        if number <= max(*walls, *(each.passes for each in starts)):
            rows += bench.rows(f"{number} steps", lambda number=number: [bench.test.fewer_steps(number)], steps=number)
    return _write(table, folder, starts, confirmed, rows)


def _begun(options: BenchOptions, folder: Path) -> tuple[LanesBench, LanesTable]:
    trace = Trace(options.trace or trace_of(replace(options, out=folder, samples=None)))
    workload, model = trace.workload(), trace.attributes.model
    pipe = load_traced(model, options.model)
    jobs = workload.of("test")[: options.samples or SAMPLES]
    batch = batch_of(options.model, options.batch)
    made, facts = provenance(str(device_of(pipe))), workload.describe()
    table = LanesTable(
        model=options.model,
        weights=model.weights_digest,
        trace=Path(trace.where).name,
        scheduler=type(pipe.scheduler).__name__,
        num_steps=workload.num_steps,
        groups=prompt_groups(jobs),
        workload=facts,
        starts=(),
        confirmed=(),
        rows=(),
        command=command_line(),
        made=made,
    )
    told = table.model_dump(mode="json", include={"model", "weights", "groups", "workload"})
    notebook = Notebook(folder, {**told, "batch": batch, "device": made.device, "versions": versions()})
    test, select = (Bench.of(pipe, of, workload.num_steps, batch) for of in (jobs, workload.of("select")[:WATCHED]))
    return LanesBench(options, trace, notebook, test, select), table


def _write(
    table: LanesTable, folder: Path, starts: list[Starts], confirmed: list[Confirmed], rows: list[LaneRow]
) -> Path:
    found = table.model_copy(
        update={"starts": tuple(starts), "confirmed": tuple(confirmed), "rows": tuple(with_best(rows))}
    )
    found.write(folder)
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


def described(proposed: Proposed, histories: Histories) -> str:
    """A proposal in words."""
    count = len(proposed.starts)
    if count == 1:
        return "fitted plan"
    kept = f", histories {histories}" if len(ways_of(proposed)) > 1 else ""
    return f"{count} lanes, fitted plans{kept}"


def _told(way: str, lanes: Lanes, gained: float) -> Starts:
    return Starts(way=way, starts=lanes.starts, passes=lanes.passes(1), surrogate_db=gained)
