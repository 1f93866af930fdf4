"""The chapter on schedule search: baselines play fair, and numbers follow from the data."""

from __future__ import annotations

import itertools
import json
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyca_calib.costs.budget import parse_budgets
from hyca_calib.pipelines.workload import Workload
from hyca_calib.search.exact import GapTable, best_schedules, gap_table
from hyca_calib.search.options import Tuning
from hyca_calib.search.problem import Problem
from hyca_calib.trace.store import Trace
from studies.paper.chapter import NO_INTERVAL, Chapter, Context
from studies.paper.planning import QUESTIONS, SCHEDULES
from studies.paper.planning.baselines import anneal, draw, even_schedule, random_search, table_cost
from studies.paper.planning.comparison import ANNEALING, EXACT, rulings, unseen_costs
from studies.paper.planning.instance import Instance, instance
from studies.paper.planning.speed import HISTORY, peak_bytes, search, slopes
from studies.paper.planning.synthetic import smooth_gram, write_trace

STEPS = 14


@pytest.fixture(scope="module")
def table() -> GapTable:
    fit, judge = (smooth_gram(4, STEPS, np.random.default_rng(seed)) for seed in (0, 1))
    return gap_table(fit, judge, np.linspace(1, 1 / STEPS, STEPS), np.ones(STEPS), 3, 1e-3, STEPS)


@pytest.fixture(scope="module")
def context(recorded: Trace, workload: Workload, tmp_path_factory: pytest.TempPathFactory) -> Context:
    return Context("tiny", None, Problem(recorded), workload, tmp_path_factory.mktemp("schedules"), seed=3, quick=True)


@pytest.fixture(scope="module")
def problem(context: Context) -> Instance:
    return instance(context)


@pytest.fixture(scope="module")
def chapter(context: Context) -> Chapter:
    return SCHEDULES.chapter("schedules", context)


class TestBaselines:
    @pytest.mark.parametrize("count", [2, 5, STEPS - 1])
    def test_annealing_reports_real_schedules(self, table: GapTable, count: int) -> None:
        found, costs = anneal(table, count, 50, 6, np.random.default_rng(0))
        assert found.shape == (6, count)
        assert (found[:, 0] == 0).all()
        assert (np.diff(found, axis=1) > 0).all()
        assert found.max() < STEPS
        np.testing.assert_array_equal(costs, table_cost(table, found))

    def test_annealing_nears_the_optimum(self, table: GapTable) -> None:
        best = table_cost(table, np.array([best_schedules(table, range(5, 6))[5].computed_steps]))[0]
        short, long = (anneal(table, 5, n, 16, np.random.default_rng(0))[1] for n in (10, 3000))
        assert short.min() >= best * (1 - 1e-9)
        assert short.mean() > 1.1 * best
        assert long.mean() < 1.01 * best

    def test_annealing_beats_chance(self, table: GapTable) -> None:
        rng = np.random.default_rng(0)
        chance = np.mean([random_search(table, 6, 100, rng)[1] for _ in range(16)])
        assert anneal(table, 6, 100, 16, rng)[1].mean() < chance

    def test_draws_are_uniform(self) -> None:
        drawn = draw(6, 3, 5000, np.random.default_rng(0))
        kinds, counts = np.unique(drawn, axis=0, return_counts=True)
        assert [tuple(kind) for kind in kinds] == [(0, *rest) for rest in itertools.combinations(range(1, 6), 2)]
        assert np.abs(counts / 500 - 1).max() < 0.2

    def test_even_spacing(self) -> None:
        for count in range(1, 51):
            computed = even_schedule(50, count).computed_steps
            assert len(computed) == count
            assert np.ptp(np.diff([*computed, 50])) <= 1


class TestInstance:
    def test_unseen_costs_are_the_tables(self, problem: Instance) -> None:
        same = replace(problem, test=problem.judge[None])
        for count in problem.counts:
            for schedule in (problem.optimum[count], problem.rule(count)):
                np.testing.assert_allclose(unseen_costs(same, [schedule]), [problem.cost(schedule)], rtol=1e-9)

    def test_test_prompts_are_unseen(self, problem: Instance, recorded: Trace) -> None:
        prompts = len(recorded.samples("test"))
        np.testing.assert_allclose(problem.test.shape, (min(3, prompts), *problem.judge.shape))
        assert np.abs(problem.test.mean(0) / problem.judge - 1).max() > 1e-3

    def test_the_rule_has_the_counts(self, problem: Instance) -> None:
        assert all(len(problem.rule(count).computed_steps) == count for count in problem.counts)
        assert all(problem.excess(problem.optimum[count]) == 1 for count in problem.counts)


class TestGrowth:
    def test_slopes_are_exponents_and_rates(self) -> None:
        costs = {str(n): {"table": 3.0 * n**2, "search": 0.5 * n, "peak": 7 * n**3} for n in (2, 4, 8, 16)}
        found = slopes("channels", costs)
        np.testing.assert_allclose([found[name][0] for name in ("table", "search", "peak")], (2, 1, 3))
        np.testing.assert_allclose([error for _, error in found.values()], 0, atol=1e-6)
        doubling = {str(n): {"table": 2.0**n, "search": 1.0, "peak": 4**n} for n in (2, 3, 4)}
        found = slopes(HISTORY, doubling)
        np.testing.assert_allclose(np.exp([slope for slope, _ in found.values()]), (2, 1, 4))

    def test_synthetic_trajectories_are_smooth(self) -> None:
        gram = smooth_gram(12, 40, np.random.default_rng(0))
        energy = np.trace(gram, axis1=1, axis2=2)
        step = np.diff(np.eye(40), axis=0)
        assert (np.einsum("ks,cst,kt->c", step, gram, step) < 0.02 * energy).all()
        assert (np.linalg.eigvalsh(gram).min(1) > -1e-9 * energy).all()


class TestFullSize:
    def test_a_synthetic_trace_reads_as_any_other(self, recorded: Trace, tmp_path: Path) -> None:
        path = tmp_path / "synthetic.zarr"
        write_trace(path, channels=6, steps=10, branches=2, like=recorded, seed=1)
        trace = Trace(path)
        rng = np.random.default_rng(1)
        np.testing.assert_allclose(Problem(trace).fit, smooth_gram(6, 10, rng) + smooth_gram(6, 10, rng))
        assert (trace.num_channels, trace.num_steps, len(trace.branches)) == (6, 10, 2)
        assert Problem(trace).step_weights.shape == (10,)

    def test_the_search_is_the_products(self, recorded: Trace, tmp_path: Path) -> None:
        path = tmp_path / "synthetic.zarr"
        write_trace(path, channels=40, steps=12, branches=2, like=recorded, seed=0)
        found = search(path, "2x,4x", Tuning(trials=2), 0)
        assert len(found["trials"]) == 2
        assert len(found["schedules"]) == len(parse_budgets("2x,4x"))
        assert sum(found["trials"]) <= found["processor"]
        assert 1 << 22 < found["peak_bytes"] <= peak_bytes()

    def test_a_childs_memory_is_its_own(self) -> None:
        ballast = np.ones(1 << 25)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            child = pool.apply(peak_bytes)
        assert 1 << 22 < child < peak_bytes() - ballast.nbytes // 2


class TestChapter:
    def test_figures_exist(self, chapter: Chapter, context: Context) -> None:
        assert len(chapter.figures) == 3
        for name, caption in chapter.figures:
            assert caption
            assert (context.folder / name).read_bytes().startswith(b"\x89PNG")

    def test_survives_strict_json(self, chapter: Chapter) -> None:
        again = Chapter.model_validate(json.loads(json.dumps(chapter.model_dump(), allow_nan=False)))
        assert again.to_markdown() == chapter.to_markdown()

    def test_nothing_is_cheaper_than_the_optimum(self, chapter: Chapter) -> None:
        assert all(excess > -1e-9 for run in chapter.numbers["contest"]["runs"] for excess in run["excess"])
        lines = {name: {n: cost for n, _, cost in line} for name, line in chapter.numbers["front"]["lines"].items()}
        for line in lines.values():
            assert all(cost >= lines[EXACT][n] * (1 - 1e-9) for n, cost in line.items() if n in lines[EXACT])
        assert all(over >= 1 - 1e-9 for over in chapter.numbers["front"]["limited_gap"].values())

    def test_verdicts_follow_from_the_numbers(self, chapter: Chapter) -> None:
        verdicts = {claim.text.split(" (")[0].split(" for a Gram")[0]: claim.verdict for claim in chapter.claims}
        limited = chapter.numbers["front"]["limited_gap"].values()
        met = [over <= 1 + 1e-9 for over in limited]
        expected = "holds" if all(met) else "partly" if any(met) else "fails"
        assert verdicts["The search's limit on the longest gap costs nothing"] == expected
        assert NO_INTERVAL not in {claim.evidence for claim in chapter.claims}
        dear = json.loads(json.dumps(chapter.numbers))
        for run in dear["contest"]["runs"]:
            run["excess"] = [0.0 for _ in run["excess"]]
        verdict, _ = next(iter(rulings(dear["contest"]).values()))
        assert verdict == "fails", "who finds the optimum does not miss it"

    def test_the_table_beats_scoring_one_by_one(self, chapter: Chapter) -> None:
        found = chapter.numbers["throughput"]
        slow, fast = found["one_by_one"]["fitted taps"], found["from_table"][str(found["one_by_one"]["steps"])]
        assert fast[1] > slow[2]
        assert found["pays_after"] == pytest.approx(found["table_seconds"] / (1 / slow[0] - 1 / fast[0]))

    def test_memory_grows(self, chapter: Chapter) -> None:
        for costs in chapter.numbers["growth"]["measured"].values():
            peaks = [cost["peak"] for cost in costs.values()]
            assert peaks == sorted(peaks)

    def test_the_seed_decides_all_but_the_times(
        self, chapter: Chapter, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delitem(QUESTIONS, "full_size")
        news: list[float] = []
        again = SCHEDULES.chapter(
            "schedules", replace(context, folder=tmp_path, tell=lambda share, _: news.append(share))
        )

        def timeless(c: Chapter) -> list[Any]:
            runs = [{k: v for k, v in run.items() if k != "seconds"} for run in c.numbers["contest"]["runs"]]
            return [runs, c.numbers["contest"]["optimum"], c.numbers["contest"]["unseen"], c.numbers["front"]]

        assert timeless(again) == timeless(chapter)
        assert any(run["method"] == ANNEALING for run in chapter.numbers["contest"]["runs"])
        assert news == sorted(news)
        assert news[-1] < 1
