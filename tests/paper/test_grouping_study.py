"""The chapter on grouping finds what was planted, and runs on a real trace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hyca_calib.clusters.stability import agreement, labels_by, labels_of, separation
from hyca_calib.pipelines.workload import Workload
from hyca_calib.search.problem import Problem
from hyca_calib.search.replay import grouped, schedule_cost
from hyca_calib.search.solver_table import POOL
from hyca_calib.search.taps import fit_solver
from hyca_calib.trace.store import Trace
from hyca_runtime.schedule import Schedule
from studies.paper.chapter import NO_INTERVAL, Chapter, Context
from studies.paper.groups import GROUPING
from studies.paper.groups import controls as controlled
from studies.paper.groups import heterogeneity as diverse
from studies.paper.groups import stability as lasting
from studies.paper.groups.choice import descend, random_labels
from studies.paper.groups.controls import controls, token_outcome
from studies.paper.groups.heterogeneity import heterogeneity
from studies.paper.groups.shrinkage import pooled
from studies.paper.groups.stability import summary
from studies.paper.groups.subject import Subject, best_closed
from studies.paper.replay import ReplaySetup, channel_gram, horizon_taps, members, read, reduce, token_gram

STEPS, TOKENS, PER_KIND = 16, 24, 8
SCHEDULE, RULE = Schedule.from_steps(STEPS, (0, 2, 4, 8, 12)), Schedule.every(STEPS, 4, 3)
TRUTH = np.repeat([0, 1, 2], PER_KIND)
SINGLE = {"descriptors": "dynamics", "num_groups": 3}


def planted(rng: np.random.Generator, kinds: np.ndarray) -> np.ndarray:
    """A sample ``(1, step, token, channel)``; by kind ``(token, channel)`` a line, a noisy constant, a parabola."""
    t = np.linspace(0, 1, STEPS)[:, None, None]
    a, b = rng.normal(size=(2, *kinds.shape))
    noise = rng.normal(size=(STEPS, *kinds.shape))
    forms = [a + 3 * b * t + 1e-3 * noise, a + 0.3 * noise, a + 2 * b * t**2 + 1e-3 * noise]
    return np.asarray(np.choose(kinds, forms)[None])


def subject_of(kinds: np.ndarray) -> Subject:
    """Eight fit and four judged samples whose tokens and channels are of these kinds."""
    rng, gain = np.random.default_rng(0), np.linspace(0.5, 2, kinds.shape[1])

    def samples(count: int) -> Iterator[np.ndarray]:
        return (planted(rng, kinds) for _ in range(count))

    recorded = reduce(samples(8), samples(4), gain, np.arange(4), prompts=8, sets=4)
    searched, published = (
        ReplaySetup(plan, np.arange(STEPS, dtype=np.float64), np.ones(STEPS)) for plan in (SCHEDULE, RULE)
    )
    return Subject(recorded, gain, searched, published, 1e-6, seed=0, quick=True)


@pytest.fixture(scope="module")
def dimensions() -> Subject:
    """Channels differ, tokens are alike."""
    return subject_of(np.tile(TRUTH, (TOKENS, 1)))


@pytest.fixture(scope="module")
def positions() -> Subject:
    """Tokens differ, channels are alike."""
    return subject_of(np.tile(TRUTH[:, None], (1, TOKENS)))


@pytest.fixture(scope="module")
def context(recorded: Trace, workload: Workload, tmp_path_factory: pytest.TempPathFactory) -> Context:
    folder: Path = tmp_path_factory.mktemp("grouping")
    return Context("tiny", None, Problem(recorded), workload, folder, seed=3, quick=True)


@pytest.fixture(scope="module")
def chapter(context: Context) -> Chapter:
    return GROUPING.chapter("grouping", context)


class TestStability:
    def test_names_of_groups_do_not_count(self) -> None:
        one = labels_of([np.array([0, 3]), np.array([1, 2]), np.array([4])], 5)
        assert one.tolist() == [0, 1, 1, 0, 2]
        other = np.array([7, 0, 0, 7, 3])
        np.testing.assert_allclose(agreement([one, other]), 1.0)

    def test_summary_is_over_pairs(self) -> None:
        one, other = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
        found = summary([one, one, other])
        assert found["pairs"] == 3
        assert found["highest"] == 1.0
        assert found["lowest"] < 0.0
        np.testing.assert_allclose(found["mean"], np.mean([1, found["lowest"], found["lowest"]]))
        with pytest.raises(ValueError, match="at least two"):
            summary([one])

    def test_separation_tells_blobs_from_a_cloud(self) -> None:
        points = np.random.default_rng(0).normal(size=(60, 3))
        apart = points * 0.1 + 4 * np.repeat([0, 1, 2], 20)[:, None]
        assert separation(apart, labels_by("kmeans", apart, 3, 0)) > 0.8
        assert separation(points, labels_by("kmeans", points, 3, 0)) < 0.5
        assert np.isnan(separation(points, np.zeros(60, dtype=np.int64)))
        assert np.isnan(separation(points, np.arange(60)))

    @pytest.mark.parametrize("source", ["prompts", "sets"])
    def test_planted_groups_are_found_again_in_any_data(self, dimensions: Subject, source: str) -> None:
        labelings = [dimensions.labels("dynamics", 3, gram=gram) for gram in getattr(dimensions.recorded, source)]
        assert summary([TRUTH, *labelings])["lowest"] == 1.0

    def test_verdict_follows_the_numbers(self) -> None:
        chance = random_labels(TRUTH, 0)
        high, low, mixed = (summary(found) for found in ([TRUTH] * 2, [TRUTH, chance], [TRUTH, TRUTH, chance]))

        def found(prompts: dict[str, float], sets: dict[str, float], *moved: float) -> list[str]:
            cell = {"descriptors": "dynamics", "clusterer": "kmeans", "groups": 3, "prompts": prompts, "sets": sets}
            numbers = {"agreement": [cell], "cost_of_groups_from_one_prompt": {"3": list(moved)}}
            return [verdict for verdict, _ in lasting.rulings(numbers).values()]

        assert found(high, high, 1.0, 0.99, 1.01) == ["holds", "holds"]
        assert found(high, low, 1.1, 1.05, 1.15) == ["partly", "fails"]
        assert found(low, low, 1.0, 0.9, 1.1) == ["fails", "not decided"]
        assert found(mixed, mixed, 1.0, 0.99, 1.01)[0] == "not decided"


class TestReplay:
    def test_costs_are_those_of_the_runtimes_solvers(self, dimensions: Subject) -> None:
        s, gram = dimensions, dimensions.recorded.fit
        closed = s.searched.closed_costs(gram).sum(1)
        for solver, found in zip(POOL, closed, strict=True):
            expected = schedule_cost(gram, SCHEDULE, s.searched.times, s.searched.step_weights, [solver] * len(gram))
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * expected.max())
        fitted = [fit_solver(g[None], SCHEDULE, s.searched.times, 3, 1e-6) for g in gram]
        expected = schedule_cost(gram, SCHEDULE, s.searched.times, s.searched.step_weights, fitted)
        # plans keep taps in float32
        np.testing.assert_allclose(s.searched.cost(gram, s.searched.fit(gram, 1e-6)), expected, rtol=1e-3, atol=1e-4)

    def test_horizon_taps_ignore_scale_and_find_the_kinds(self, dimensions: Subject) -> None:
        gram = dimensions.recorded.fit
        scaled = gram * np.linspace(1, 9, len(gram))[:, None, None]
        table = horizon_taps(dimensions.searched, gram, 1e-6)
        np.testing.assert_allclose(horizon_taps(dimensions.searched, scaled, 1e-6), table, atol=1e-6)
        assert summary([TRUTH, labels_by("kmeans", table, 3, 0)])["mean"] == 1.0

    def test_windows_divide_the_gaps(self, dimensions: Subject) -> None:
        whole = dimensions.searched
        early, late = whole.within(slice(0, 8)), whole.within(slice(8, STEPS))
        assert early.gaps + late.gaps == whole.gaps
        gram = dimensions.recorded.fit
        parts = sum(setup.cost(gram, setup.fit(gram, 1e-3)) for setup in (early, late))
        np.testing.assert_allclose(parts, whole.cost(gram, whole.fit(gram, 1e-3)))

    def test_descent_never_pays_more(self, dimensions: Subject) -> None:
        s, start = dimensions, np.arange(24) % 3

        def cost(labels: np.ndarray) -> float:
            return float(s.searched.cost(s.recorded.fit, s.group_rows(labels)) @ s.gain)

        assert cost(descend(s, start)) < 0.9 * cost(start)


class TestShrinking:
    def test_limits_of_the_ridge(self, dimensions: Subject) -> None:
        s, gram = dimensions, dimensions.recorded.sparse[0]
        rows = s.group_rows(TRUTH, gram)
        for bound, drawn in zip(rows, s.searched.fit(gram, 1e9, rows), strict=True):
            np.testing.assert_allclose(drawn, bound, atol=1e-6)
        for free, drawn in zip(s.searched.fit(gram, 1e-12), s.searched.fit(gram, 1e-12, rows), strict=True):
            np.testing.assert_allclose(drawn, free, atol=1e-3)

    def test_limits_of_pooling(self, dimensions: Subject) -> None:
        s, gram = dimensions, dimensions.recorded.sparse[0]
        alone = s.searched.fit(gram, s.ridge)
        together = [taps[TRUTH] for taps in s.searched.fit(grouped(gram, s.gain, members(TRUTH)), s.ridge)]
        for share, expected in ((0.0, alone), (1e9, together)):
            found = s.searched.fit(pooled(gram, s.gain, TRUTH, share), s.ridge)
            for taps, wanted in zip(found, expected, strict=True):
                np.testing.assert_allclose(taps, wanted, atol=1e-5)

    def test_groups_help_where_data_are_few(self, dimensions: Subject) -> None:
        s, gram = dimensions, dimensions.recorded.sparse[0]
        free = s.judge(s.searched.fit(gram, 1e-6)).mean()
        assert s.judge(s.group_rows(TRUTH, gram)).mean() < 0.9 * free
        assert s.judge(s.searched.fit(pooled(gram, s.gain, TRUTH, 1.0), 1e-6)).mean() < 0.9 * free


class TestPlantedDimensions:
    def test_a_hybrid_beats_every_single_solver(self, dimensions: Subject) -> None:
        s = dimensions
        fit, judged = s.closed_costs(s.searched)
        hybrid = best_closed(fit, judged, members(TRUTH))
        assert hybrid.sum() < 0.8 * judged.sum((1, 2)).min()
        one = best_closed(fit, judged, [s.each])
        np.testing.assert_allclose(one, judged[int(fit.sum(1).argmin())].sum(1))

    def test_dimensions_are_heterogeneous(self, dimensions: Subject) -> None:
        found = diverse.rulings(heterogeneity(dimensions).numbers)
        verdicts = {text.split(" (")[0]: verdict for text, (verdict, _) in found.items()}
        assert verdicts["Feature dimensions are heterogeneous"] == "holds"
        assert verdicts["Different dimensions want different solvers"] == "holds"

    def test_true_groups_beat_groups_by_chance(self, dimensions: Subject) -> None:
        true = dimensions.judge(dimensions.group_rows(TRUTH))
        for seed in range(3):
            chance = dimensions.judge(dimensions.group_rows(random_labels(TRUTH, seed)))
            assert dimensions.ratio(true, chance)[2] < 1

    def test_claims_of_the_controls_hold(self, dimensions: Subject) -> None:
        found = controlled.rulings(controls(dimensions).numbers)
        assert [verdict for verdict, _ in found.values()][:2] == ["holds", "holds"]

    def test_the_control_is_fair_to_tokens(self, positions: Subject) -> None:
        """Where kinds are planted in token positions, groups of tokens win, and the claim fails."""
        s = positions
        tokens = token_outcome(s, TRUTH)[0].sum()
        assert tokens < 0.8 * s.judge(s.searched.fit(s.recorded.fit, s.ridge)).sum()
        verdict, _ = next(iter(controlled.rulings(controls(s).numbers).values()))
        assert verdict == "fails"


class TestStored:
    def test_grams_are_those_of_the_trace(self, recorded: Trace) -> None:
        problem = Problem(recorded)
        found = read(recorded, problem.channel_gain, 0, prompts=3, sets=4)
        np.testing.assert_allclose(found.fit, problem.fit, rtol=1e-6)
        np.testing.assert_allclose(found.judged.mean(0), problem.select, rtol=1e-6)
        assert found.prompts.shape[0] == found.sparse.shape[0] == 3
        dealt = np.array([2, 2, 1, 1])  # six fit samples
        np.testing.assert_allclose(np.tensordot(dealt, found.sets, axes=1) / 6, found.fit)
        tokens = found.fit_tokens.sum(1).mean(0)
        np.testing.assert_allclose(tokens, np.tensordot(problem.channel_gain, found.fit, axes=1))

    def test_branches_are_summed(self) -> None:
        sample = np.random.default_rng(0).normal(size=(2, 5, 4, 3))
        np.testing.assert_allclose(channel_gram(sample), np.einsum("bstc,butc->csu", sample, sample))
        gain = np.array([1.0, 4.0, 9.0])
        np.testing.assert_allclose(token_gram(sample, gain), np.einsum("bstc,butc,c->tsu", sample, sample, gain))


class TestChapter:
    def test_figures_exist(self, chapter: Chapter, context: Context) -> None:
        assert len(chapter.figures) == 3
        for name, caption in chapter.figures:
            assert caption
            assert (context.folder / name).read_bytes().startswith(b"\x89PNG")

    def test_answers_every_question(self, chapter: Chapter) -> None:
        told = " ".join(claim.text for claim in chapter.claims)
        for words in ("heterogeneous", "above 0.8", "token-wise", "uniform", "hybrid", "One-step", "Hierarchical"):
            assert words in told
        assert NO_INTERVAL not in {claim.evidence for claim in chapter.claims}

    def test_survives_strict_json(self, chapter: Chapter) -> None:
        again = Chapter.model_validate(json.loads(json.dumps(chapter.model_dump(), allow_nan=False)))
        assert again.to_markdown() == chapter.to_markdown()

    def test_numbers_agree_with_each_other(self, chapter: Chapter) -> None:
        numbers = chapter.numbers
        fitted = numbers["choice"]["fitted"]
        one = [costs[0] for costs in fitted.values()]
        np.testing.assert_allclose(one, one[0])  # one group is one group
        np.testing.assert_allclose(numbers["controls"]["limits"]["one group"][0], one[0])
        limit = numbers["controls"]["limits"]["every channel"][0]
        np.testing.assert_allclose(limit, numbers["choice"]["fitted_per_channel"])
        for cell in numbers["stability"]["agreement"]:
            assert all(-1 <= cell[source]["mean"] <= 1 for source in ("prompts", "sets", "splits"))

    def test_the_seed_decides_everything(self, chapter: Chapter, context: Context, tmp_path: Path) -> None:
        news: list[float] = []
        again = GROUPING.chapter(
            "grouping", replace(context, folder=tmp_path, tell=lambda share, _: news.append(share))
        )
        assert again.numbers == chapter.numbers
        assert again.claims == chapter.claims
        assert news == sorted(news)
        assert news[-1] < 1
