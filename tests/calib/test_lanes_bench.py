"""Starts that are searched, plans that compute together, and the table of lanes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from commands import MODEL, run, write_trace
from diffusers import FlowMatchEulerDiscreteScheduler
from plans import STEPS, layered_plan, make_plan

from hyca_calib.bench.documents.lanes_table import lanes_section, lanes_table
from hyca_calib.commands.bench_lanes import numbers
from hyca_calib.commands.lane_plans import check_sampler, lanes_beside
from hyca_calib.demo import demo_pipeline, demo_prompts
from hyca_calib.lanes.aligned import aligned_plans, heavy_passes
from hyca_calib.lanes.choosing import Confirmed, Proposed, best_of
from hyca_calib.lanes.fitted import fitted_plans
from hyca_calib.lanes.joint import Joint, Search, Wall, joint_error
from hyca_calib.lanes.measure import Bench, LaneRow, _decoded
from hyca_calib.lanes.results import read_lanes, with_best
from hyca_calib.lanes.surrogate import Reaction, search_starts, surrogate_error, watch
from hyca_calib.pipelines.workload import Workload, merge_calls
from hyca_calib.search.problem import Problem
from hyca_calib.trace.store import Trace
from hyca_runtime import PlanError, apply_plan, load_plan, save_plan
from hyca_runtime.errors import SamplerError, WorkloadError
from hyca_runtime.samplers import AfterHits, Lanes, as_lanes, sample_chords
from hyca_runtime.samplers.chords import Chords
from hyca_runtime.samplers.single_step import FlowEuler
from hyca_runtime.solvers import Fitted, Newton

LANES = Lanes(STEPS, (0, 2, 5))


def linear(slope: float, steps: int = 20) -> Reaction:
    """A flow whose velocity is a rising function of time plus so much times the distance from the exact run."""
    outputs = np.linspace(1, 2, steps) ** 2
    gram = np.outer(np.r_[0.0, outputs], np.r_[0.0, outputs])
    return Reaction(gram, np.full((2, steps), slope), FlowEuler(torch.linspace(1, 0, steps + 1)))


class TestSurrogate:
    def test_where_slopes_are_what_it_says_it_is_exact(self) -> None:
        """Outputs of one direction, and a network whose slope is the same everywhere."""
        reaction, lanes = linear(3.0), Lanes(20, (0, 4, 12))
        levels, outputs = torch.linspace(1, 0, 21), torch.linspace(1, 2, 20, dtype=torch.float64) ** 2
        exact = [torch.zeros(1, 1, dtype=torch.float64)]
        for step in range(20):
            exact.append(exact[-1] + (levels[step + 1] - levels[step]) * outputs[step])
        chords = Chords(lanes, FlowEuler(levels), exact[0], AfterHits(1))
        while not chords.done:
            live = chords.live.items()
            chords.advance({n: outputs[c.step] + 3.0 * (c.latents - exact[c.step]) for n, c in live})
        found = float((chords.result - exact[-1]).square())
        assert surrogate_error(reaction, lanes) == pytest.approx(found, rel=1e-2)

    def test_without_slopes_every_lane_is_exact(self) -> None:
        assert surrogate_error(linear(0.0), Lanes(20, (0, 4, 9))) < 1e-9

    @pytest.mark.parametrize(("count", "passes"), [(2, 12), (3, 11), (4, 10)])
    def test_searched_starts_are_none_worse_and_as_fast_as_asked(self, count: int, passes: int) -> None:
        reaction = linear(-1.5)
        found = search_starts(reaction, count, passes)
        assert found.passes(1) == passes
        rest = range(found.starts[-2] + 1) if count > 2 else ()
        others = [Lanes(20, (0, *range(i, i + count - 2), found.starts[-1])) for i in rest if i > 0]
        best = surrogate_error(reaction, found)
        assert all(best <= surrogate_error(reaction, other) * (1 + 1e-6) for other in others)

    @pytest.mark.parametrize(("count", "passes"), [(1, 20), (4, 3), (4, 21)])
    def test_no_such_lanes(self, count: int, passes: int) -> None:
        with pytest.raises(SamplerError, match=f"passes, got {passes}"):
            search_starts(linear(1.0), count, passes)

    def test_a_pipeline_is_watched(self) -> None:
        workload = Workload(tiny.prompts(), num_samples=7, num_steps=STEPS)
        reaction = watch(tiny.pipeline(), workload.of("fit")[:2], STEPS, batch=2)
        assert np.allclose(reaction.gram, reaction.gram.T)
        assert np.isfinite(reaction.slopes).all()
        assert (reaction.slopes[0] <= reaction.slopes[1]).all()


class TestAlignedPlans:
    @pytest.mark.parametrize(
        ("lanes", "corrections"), [(LANES, False), (Lanes(STEPS, (0, 6)), True)], ids=["at an interval", "corrected"]
    )
    def test_all_lanes_compute_in_the_same_passes(self, lanes: Lanes, corrections: bool) -> None:
        pipe = tiny.pipeline()
        passes = heavy_passes(lanes, 3, corrections)
        plans = aligned_plans(make_plan(pipe.transformer, solvers=(Newton(1),)), lanes, passes)
        with apply_plan(pipe, plans[0], "adapt") as session:
            told: dict[str, Any] = {"prompt": "red heart", "num_inference_steps": STEPS, "output_type": "latent"}
            done = sample_chords(pipe, starts=lanes.starts, stop=AfterHits(None), session=session, plans=plans, **told)
        assert done.until(done.passes)[1] == {number for number in passes if number < done.passes}
        assert sum(done.computed) < sum(done.calls)
        if corrections:
            assert {number - 1 for lane in range(len(lanes)) for number in lanes.corrected(lane)} <= passes

    def test_fitted_rows_become_closed_forms(self) -> None:
        transformer = tiny.pipeline().transformer
        plan = make_plan(transformer, solvers=(Newton(1),))
        steps = plan.section.schedule.predicted_steps
        fitted = make_plan(transformer, solvers=(Fitted(steps, np.zeros((len(steps), 2, 32))),))
        for aligned in aligned_plans(fitted, LANES, heavy_passes(LANES, 3)):
            assert [group.solver.name for group in aligned.section.forecast.groups_of()] == ["newton"]

    def test_refused(self) -> None:
        transformer = tiny.pipeline().transformer
        with pytest.raises(PlanError, match="is for 12 steps, the lanes have 20"):
            aligned_plans(make_plan(transformer), Lanes(20, (0, 5)), (0,))
        with pytest.raises(PlanError, match="expected one point"):
            aligned_plans(layered_plan(transformer), LANES, (0,))


def row_of(computed: int, db: float, **told: Any) -> LaneRow:
    usual: dict[str, Any] = {"kind": "lanes", "way": "", "starts": (0,), "lane": 0, "passes": 9}
    usual |= {"calls": 9, "computed_calls": 9}
    return LaneRow(computed_passes=computed, db=(db,), **(usual | told))


def test_what_no_other_beats_is_marked() -> None:
    found = with_best([row_of(5, 30), row_of(4, 31), row_of(6, 33), row_of(6, 32)])
    assert [(each.computed_passes, each.db[0], each.best) for each in found] == [
        (4, 31, True),
        (5, 30, False),
        (6, 33, True),
        (6, 32, False),
    ]


def test_a_hit_is_decoded_as_the_pipeline_does() -> None:
    workload = Workload(tiny.prompts(), num_samples=7, num_steps=STEPS)
    bench = Bench.of(tiny.pipeline(), workload.of("test")[:2], STEPS, batch=2)
    rows = bench.lanes("lanes", LANES)
    assert rows[-1].db == (150.0, 150.0)
    assert [row.lane for row in rows] == [2, 1, 0]
    assert [row.passes for row in rows] == [LANES.passes(hits) for hits in (1, 2, 3)]
    assert rows[0].calls == rows[0].computed_calls == sum(LANES.calls(rows[0].passes))


def test_a_pipeline_that_shows_no_latents() -> None:
    pipe = tiny.as_kind(tiny.WithoutOutputType)
    with pytest.raises(WorkloadError, match="has no callback_on_step_end"):
        _decoded(pipe, (), torch.zeros(1))


class TestJoint:
    def test_with_all_passes_computed_it_is_the_surrogate_of_lanes(self) -> None:
        reaction, lanes = linear(-1.5), Lanes(20, (0, 4, 9))
        every = Joint(lanes, frozenset(range(lanes.passes(1))))
        assert joint_error(reaction, every) == pytest.approx(surrogate_error(reaction, lanes))
        assert joint_error(reaction, Joint(lanes, frozenset({0, 1, 2, 7}))) > joint_error(reaction, every)

    @pytest.mark.parametrize("count", [1, 3])
    def test_a_search_keeps_the_wall_and_beats_an_even_spacing(self, count: int) -> None:
        reaction, wall = linear(-1.5), Wall(7)
        search = Search(reaction, wall, tries=60)
        found, error = search.best(count)
        even = next(search._beginnings(count))
        assert len(found.lanes) == count
        assert len(found.heavy) == len(even.heavy) == 7
        assert set(range(count)) < found.heavy
        assert max(found.heavy) < found.passes
        assert error <= joint_error(reaction, even)

    def test_forecasts_cost_a_share_of_the_wall(self) -> None:
        wall = Wall(7, forecast=0.1)
        assert wall.heavy(passes=20) == 5
        assert wall.spent(passes=20, heavy=5) <= 7 < wall.spent(passes=20, heavy=6)
        assert Wall(7).heavy(passes=5) == 5

    def test_a_wall_that_lanes_cannot_even_begin_in(self) -> None:
        with pytest.raises(SamplerError, match="4 lanes compute on 4 passes before all have begun; a wall of 3"):
            Search(linear(1.0), Wall(3)).best(4)

    def test_rows_are_fitted_for_what_each_lane_computes(self, recorded: Trace) -> None:
        """All lanes compute on the same passes; no forecast waits for a feature from before its lane began."""
        joint = Joint(LANES, frozenset({0, 1, 2, 4, 7}))
        plans = fitted_plans(Problem(recorded), joint)
        pipe = tiny.pipeline()
        with apply_plan(pipe, plans[0], "adapt") as session:
            told: dict[str, Any] = {"prompt": "red heart", "num_inference_steps": STEPS, "output_type": "latent"}
            run = sample_chords(pipe, starts=LANES.starts, session=session, plans=plans, **told)
        assert [plan.section.forecast.groups_of()[0].solver.name for plan in plans] == ["fitted"] * 3
        assert run.until(run.passes)[1] == joint.heavy
        assert [len(steps) for steps in run.computed_at] == [len(joint.steps(lane)) for lane in range(3)]


def confirmed(wall: float, starts: tuple[int, ...], computed: int, db: float, histories: Any = "kept") -> Confirmed:
    proposed = Proposed(num_steps=STEPS, starts=starts, heavy=tuple(range(int(wall))), error=1.0)
    row = row_of(computed, db, kind="both", way="fitted", starts=starts)
    return Confirmed(wall=wall, proposed=proposed, histories=histories, row=row)


def test_of_what_keeps_the_wall_the_best_is_chosen() -> None:
    tried = [confirmed(6, (0, 3), 6, 30), confirmed(6, (0, 3), 8, 50, "dropped"), confirmed(6, (0,), 6, 40)]
    assert best_of(tried, 6, range(2, 5)) == tried[0]
    assert best_of(tried, 6, range(1, 5)) == tried[2]
    assert best_of(tried, 7, range(1, 5)) is None
    assert best_of([*tried, confirmed(6, (0, 2), 6, 60, "carried")], 6, range(2, 5)) == tried[0]  # not on ranks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command wrote that was called twice."""
    folder = tmp_path_factory.mktemp("lanes")
    trace = write_trace(folder, samples=7, steps=STEPS)
    save_plan(make_plan(tiny.pipeline().transformer), folder / "own.plan.json")
    told = ["--trace", trace, "--plan", folder / "own.plan.json", "--lanes", 2, "--wall", "4", "--samples", 2]
    for _ in range(2):
        run("bench", "lanes", *MODEL, *told, "--settings", 10, "--out", folder / "found")
    return folder / "found"


class TestCommand:
    def test_there_are_all_ways_and_none_is_measured_twice(self, folder: Path) -> None:
        table = read_lanes(folder)
        assert {row.kind for row in table.rows} == {"lanes", "plan", "both", "fewer steps"}
        assert {one.wall for one in table.confirmed} == {4}
        assert [row.computed_passes for row in table.rows] == sorted(row.computed_passes for row in table.rows)
        assert table.made.commit
        assert table.command
        names = [json.loads(line)["key"] for line in (folder / "measured.jsonl").read_text().splitlines()]
        assert len(names) == len(set(names))

    def test_the_page_says_what_binds(self, folder: Path) -> None:
        table = read_lanes(folder)
        page = " ".join((folder / "lanes.md").read_text().split())
        assert "nothing here is a time" in page
        assert (folder / "lanes.png").stat().st_size > 1000
        slow, fast = (row_of(9, db, starts=(0, 5), lane=lane) for lane, db in ((0, 60), (1, 45)))
        plan, both = row_of(8, 41, kind="plan"), row_of(6, 42, kind="both", starts=(0, 5))
        found = table.model_copy(update={"rows": (slow, fast, plan, both), "groups": (0,)})
        told = " ".join(lanes_table(found).split())
        assert (
            "At 40 dB, the fewest computed passes measured: lanes alone on 9, plans alone on 8, both on 6 and" in told
        )
        assert "1.33 times as fast as the faster alone, not 2" in told
        assert "each slower one is nearer in 1 of 1 samples" in told

    def test_documents_render_it(self, folder: Path, tmp_path: Path) -> None:
        assert "being measured" in lanes_section(tmp_path)
        place = tmp_path / "studies" / "bench" / "lanes" / "tiny"
        place.mkdir(parents=True)
        (place / "lanes.json").write_bytes((folder / "lanes.json").read_bytes())
        assert "](../studies/bench/lanes/tiny/lanes.png)" in lanes_section(tmp_path)


def test_lanes_beside_a_plan(recorded: Trace, tmp_path: Path) -> None:
    pipe, plan = tiny.pipeline(), make_plan(tiny.pipeline().transformer)
    found = lanes_beside(pipe, recorded, plan, 2, 2, tmp_path)
    plans = [load_plan(tmp_path / "lanes" / name) for name in found.plans]
    with apply_plan(pipe, plans[0], "adapt") as session:
        told: dict[str, Any] = {"prompt": "red heart", "num_inference_steps": STEPS, "output_type": "latent"}
        drawn = sample_chords(
            pipe, starts=found.starts, session=session, plans=plans, histories=found.histories, **told
        )
    assert (drawn.passes, drawn.computed_passes) == (found.passes, found.computed_passes)
    assert found.computed_passes <= len(plan.section.schedule.computed_steps)
    with pytest.raises(WorkloadError, match="at least 2 devices"):
        lanes_beside(pipe, recorded, plan, 1, 2, tmp_path)


def test_numbers_that_are_none() -> None:
    with pytest.raises(WorkloadError, match="--wall: expected whole numbers from 1 on"):
        numbers("wall", "2,x")


@pytest.mark.slow
def test_searched_starts_draw_better_than_published_ones() -> None:
    """As fast as the published lists, on samples that the search did not see, of a model that has learnt something."""
    pipe, workload = demo_pipeline(), Workload(demo_prompts(), num_samples=14)
    pipe.set_progress_bar_config(disable=True)
    steps, jobs = 25, workload.of("test")[:2]
    reaction = watch(pipe, workload.of("select")[:2], steps, batch=2)
    told: dict[str, Any] = {"num_inference_steps": steps, "output_type": "latent", "return_dict": False}
    exact = pipe(**merge_calls(jobs), **told)[0]

    def error(lanes: Lanes) -> float:
        drawn = sample_chords(pipe, starts=lanes.starts, **merge_calls(jobs), **told).output[0]
        return float((drawn - exact).square().mean())

    published = as_lanes(4, steps)
    assert error(search_starts(reaction, 4, published.passes(1))) < error(published)


def test_a_sampler_that_lanes_cannot_take_is_refused_before_any_work() -> None:
    pipe = tiny.pipeline()
    times = pipe.scheduler.timesteps.clone()
    check_sampler(pipe, 12)
    assert torch.equal(pipe.scheduler.timesteps, times), "it is looked at on a copy"
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
    with pytest.raises(SamplerError, match="FlowMatchEulerDiscreteScheduler draws noise at every step"):
        check_sampler(pipe, 12)
