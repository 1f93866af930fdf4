"""Starts that are searched, plans that compute together, and the table of lanes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from commands import MODEL, run, write_prompts
from plans import STEPS, layered_plan, make_plan

from hyca_calib.demo import demo_pipeline, demo_prompts
from hyca_calib.lanes.aligned import aligned_plans, heavy_passes
from hyca_calib.lanes.measure import Bench, LaneRow, _decoded, with_best
from hyca_calib.lanes.surrogate import Reaction, search_starts, surrogate_error, watch
from hyca_calib.pipelines.workload import Workload, merge_calls
from hyca_runtime import PlanError, apply_plan, save_plan
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


def test_what_no_other_beats_is_marked() -> None:
    def row(computed: int, db: float) -> LaneRow:
        told: dict[str, Any] = {"way": "", "starts": (0,), "passes": 9, "calls": 9, "computed_calls": 9}
        return LaneRow(computed_passes=computed, db=(db,), **told)

    found = with_best([row(5, 30), row(4, 31), row(6, 33), row(6, 32)])
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
    assert [row.passes for row in rows] == [LANES.passes(hits) for hits in (1, 2, 3)]
    assert rows[0].calls == rows[0].computed_calls == sum(LANES.calls(rows[0].passes))


def test_a_pipeline_that_shows_no_latents() -> None:
    pipe = tiny.as_kind(tiny.WithoutOutputType)
    with pytest.raises(WorkloadError, match="has no callback_on_step_end"):
        _decoded(pipe, (), torch.zeros(1))


def test_the_command(tmp_path: Path) -> None:
    save_plan(make_plan(tiny.pipeline().transformer), tmp_path / "plan.json")
    out = tmp_path / "lanes.json"
    told: list[object] = [
        "--lanes",
        "2,3",
        "--steps",
        STEPS,
        "--samples",
        1,
        "--watched",
        1,
        "--every",
        4,
        "--passes",
        9,
    ]
    told += ["--prompts", write_prompts(tmp_path)]
    page = run("lanes", *MODEL, "--plan", tmp_path / "plan.json", "--out", out, *told).stdout
    table = json.loads(out.read_text())
    assert out.with_suffix(".md").read_text().strip() == page.strip()
    assert [starts["passes"] for starts in table["starts"]] == [
        as_lanes(2, STEPS).passes(1),
        9,
        as_lanes(3, STEPS).passes(1),
        9,
    ]
    ways = {re.split("[,:]", row["way"])[0] for row in table["rows"]}
    assert ways == {"lanes", "plan alone", "fewer steps"}
    assert table["rows"] == sorted(table["rows"], key=lambda row: row["computed_passes"])
    assert "nothing here is a time" in page


def test_numbers_that_are_none() -> None:
    done = run("lanes", *MODEL, "--every", "2,x")
    assert done.exit_code == 2


@pytest.mark.slow
def test_searched_starts_draw_better_than_published_ones() -> None:
    """As fast as the published lists, on samples that the search did not see, of a model that has learnt something."""
    pipe, workload = demo_pipeline(), Workload(demo_prompts(), num_samples=14)
    pipe.set_progress_bar_config(disable=True)
    reaction, jobs = watch(pipe, workload.of("select")[:2], 50, batch=2), workload.of("test")[:2]
    told: dict[str, Any] = {"num_inference_steps": 50, "output_type": "latent", "return_dict": False}
    exact = pipe(**merge_calls(jobs), **told)[0]

    def error(lanes: Lanes) -> float:
        drawn = sample_chords(pipe, starts=lanes.starts, **merge_calls(jobs), **told).output[0]
        return float((drawn - exact).square().mean())

    published = as_lanes(4, 50)
    assert error(search_starts(reaction, 4, published.passes(1))) < error(published)
