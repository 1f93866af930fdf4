"""The chapter on solvers replays what the runtime does, finds what was planted, and runs on a real trace."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hyca_calib.pipelines.workload import Workload
from hyca_calib.search.presets import published_schedule
from hyca_calib.search.problem import Problem
from hyca_calib.search.replay import grouped, schedule_cost
from hyca_calib.search.solver_table import ALL_SOLVERS, solver_label
from hyca_calib.search.taps import compile_rows, fit_solver
from hyca_calib.trace.store import Trace
from hyca_runtime.adaptive import AdaptiveGroups
from hyca_runtime.combine import forecast, split_weights
from hyca_runtime.feature import Feature
from hyca_runtime.history import History
from hyca_runtime.schedule import Schedule
from hyca_runtime.solvers import DynamicMode, Hermite, Newton
from studies.paper.chapter import NO_INTERVAL, Chapter, Context, Rulings
from studies.paper.formulas import SOLVERS
from studies.paper.formulas import fitting as learnt
from studies.paper.formulas import noise as repeated
from studies.paper.formulas import pool as formulas
from studies.paper.formulas.dataset import (
    CLOSED,
    Dataset,
    Use,
    dataset,
    learn,
    learned_rows,
    noise_gain,
    sharing,
)
from studies.paper.formulas.fitting import (
    DAMPED,
    HELD_FIRST,
    HELD_LATER,
    MEDIAN,
    fitting,
    modes,
    outcomes,
    tap_costs,
)
from studies.paper.formulas.noise import multistep, rank_correlation
from studies.paper.formulas.pool import best_orders, pool, twins
from studies.paper.intervals import over
from studies.paper.replay import ReplaySetup, channel_gram, samples

STEPS, TOKENS, CHANNELS = 24, 10, 6
AXES: dict[str, NDArray[np.float64]] = {
    "step": np.arange(STEPS, dtype=np.float64),
    "sigma": 1 - np.arange(STEPS, dtype=np.float64) / STEPS,
    "log_snr": np.linspace(-2, 2, STEPS) ** 3,
}
GAIN = np.linspace(0.5, 2, CHANNELS)
NOISE = 1e-5
"""Of planted features; what is planted is to be found to as small a share of the cost."""
HALVES = [np.arange(3), np.arange(3, 6)]


def dataset_of(path: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> Dataset:
    """Eight fit and four judged prompts of ``path(a, b, c)``, coefficients ``(token, channel)``, and a little noise."""
    rng = np.random.default_rng(0)
    noise = NOISE * rng.normal(size=(12, 1, STEPS, TOKENS, CHANNELS))
    drawn = [path(*rng.normal(size=(3, TOKENS, CHANNELS))) + noise[i] for i in range(12)]
    grams = np.stack([channel_gram(values) for values in drawn])
    ways = {"one group": [np.arange(CHANNELS)], "2 groups": HALVES, "per channel": list(np.arange(CHANNELS)[:, None])}
    sharings = {name: sharing(grams[:8].mean(0), grams[8:, None], GAIN, groups) for name, groups in ways.items()}
    sets = np.stack([grams[:4].mean(0), grams[4:8].mean(0)])
    return Dataset(sharings, AXES, np.ones(STEPS), (2, 3, 5), sets, GAIN, seed=0)


def verdicts(found: Rulings) -> list[str]:
    """In the order of the claims."""
    return [verdict for verdict, _ in found.values()]


def at(times: np.ndarray) -> np.ndarray:
    """``(step, 1, 1)``, to be multiplied with coefficients."""
    return np.asarray(times)[:, None, None]


LINES = dataset_of(lambda a, b, c: a + b * at(AXES["step"]))
PARABOLAS = dataset_of(lambda a, b, c: a + b * at(AXES["log_snr"]) + c * at(AXES["log_snr"]) ** 2)


@pytest.fixture(scope="module")
def context(recorded: Trace, workload: Workload, tmp_path_factory: pytest.TempPathFactory) -> Context:
    folder: Path = tmp_path_factory.mktemp("solvers")
    return Context("tiny", None, Problem(recorded), workload, folder, seed=3, quick=True)


@pytest.fixture(scope="module")
def real(context: Context) -> Dataset:
    return dataset(context)


@pytest.fixture(scope="module")
def chapter(context: Context) -> Chapter:
    return SOLVERS.chapter("solvers", context)


class TestReplay:
    """The chapter's costs are those of the runtime's own solvers."""

    @pytest.mark.parametrize("interval", range(2, 8))
    def test_schedules_are_the_published_ones(self, interval: int) -> None:
        schedule = replace(LINES, step_weights=np.ones(50)).schedule(interval)
        assert schedule == published_schedule(50, len(schedule.computed_steps), 3)
        assert schedule.computed_steps[:4] == (0, 1, 2, 2 + interval)

    @pytest.mark.parametrize("use", [Use("newton order=4", "log_snr"), Use("foca", "step", "recursive")])
    def test_costs_of_formulas(self, real: Dataset, context: Context, use: Use) -> None:
        problem, solver = context.problem, CLOSED[use.solver]
        gram = grouped(problem.select, problem.channel_gain, [np.arange(problem.trace.num_channels)])
        for i, interval in enumerate(real.intervals):
            schedule, times = real.schedule(interval), problem.times(use.axis)
            # a table keeps its weights in float32
            one = solver if use.multistep == "anchored" else compile_rows(solver, schedule, times, use.multistep)
            expected = schedule_cost(gram, schedule, times, problem.step_weights, [one])[0]
            np.testing.assert_allclose(real.costs[use][i].mean(), expected, rtol=1e-4)

    def test_costs_of_fitted_taps(self, real: Dataset, context: Context) -> None:
        problem, times = context.problem, context.problem.times("step")
        fit, judged = (grouped(g, problem.channel_gain, [np.arange(32)]) for g in (problem.fit, problem.select))
        found = tap_costs(real, real.one, 3, 1e-3).mean(1)
        for interval, cost in zip(real.intervals, found, strict=True):
            schedule = real.schedule(interval)
            taps = fit_solver(fit, schedule, times, 3, 1e-3)
            expected = schedule_cost(judged, schedule, times, problem.step_weights, [taps])[0]
            np.testing.assert_allclose(cost, expected, rtol=1e-3)

    def test_modes_are_those_the_runtime_finds_in_stored_features(self, recorded: Trace, real: Dataset) -> None:
        """Weights learnt from Gram matrices forecast what the runtime forecasts from the features themselves."""
        groups, solver, setup = [np.arange(0, 20), np.arange(20, 32)], DynamicMode(), real.setup(3)
        values = np.stack(list(samples(recorded, "select")))[:, 0]  # (prompt, step, token, channel)
        plain = np.stack([grouped(channel_gram(v[None]), np.ones(32), groups) for v in values])
        rows = learned_rows(solver, setup, learn(solver, setup, plain))
        runtime = AdaptiveGroups(solver, groups, channel_axis=-1)
        for (history, targets), weights in zip(setup.gaps, rows, strict=True):
            remembered = History(3)
            for step in reversed(history[:3]):
                remembered.push(step, Feature([torch.from_numpy(values[:, step]).float()]))
            for j, target in enumerate(targets):
                zeros = split_weights(torch.zeros(3, 32), (32,), [3], -1)
                adapted = runtime.adapt(zeros, remembered, setup.times[list(history[:3])], setup.times[target])
                (expected,) = forecast(remembered, adapted)
                by_channel = weights[..., j].repeat([len(group) for group in groups], axis=1)  # (prompt, channel, tap)
                found = np.einsum("pck,pktc->ptc", by_channel, values[:, list(history[:3])])
                np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-4)

    def test_branches_are_learnt_apart_and_their_costs_add_up(self) -> None:
        rng = np.random.default_rng(0)
        shape = (STEPS, TOKENS, CHANNELS)
        streams = [channel_gram(np.exp(r * at(AXES["sigma"]) + 0.1 * rng.normal(size=shape))[None]) for r in (1, -2)]
        fit = np.mean(streams, axis=0)

        def costs(*branches: np.ndarray) -> np.ndarray:
            shared = sharing(fit, np.stack(branches)[None], GAIN, HALVES)
            return LINES.learnt_costs(DynamicMode(), shared, "step")

        np.testing.assert_allclose(costs(*streams), costs(streams[0]) + costs(streams[1]))

    def test_a_mode_that_reads_its_own_forecasts_finds_itself(self) -> None:
        features = np.exp(-0.3 * np.arange(3.0))[:, None] * np.ones((1, 4)) + 1
        past = [*features[::-1]]
        solver = DynamicMode()
        for target in (3.0, 4.0, 5.0):
            times = np.arange(target, target - 3, -1) - 1
            changes = torch.from_numpy(-np.diff(np.stack(past[:3]), axis=0))
            row = solver.adapted(solver.learn((changes @ changes.T)[..., None], times), times, target)[:, 0].numpy()
            past.insert(0, row @ np.stack(past[:3]))
        np.testing.assert_allclose(past[0], 1 + np.exp(-1.5), rtol=1e-6)

    def test_too_short_a_history_is_told(self) -> None:
        setup = ReplaySetup(Schedule.from_steps(STEPS, {*range(STEPS)} - {2}), AXES["step"], np.ones(STEPS))
        with pytest.raises(ValueError, match="step 2: dynamic_mode needs 3 features, got 2"):
            learn(DynamicMode(), setup, LINES.one.plain)


class TestStatistics:
    def test_over_is_the_ratio_of_totals_and_their_geometric_mean(self) -> None:
        one, other = np.random.default_rng(0).uniform(1, 2, size=(2, 3, 9))
        assert over(one[0], other[0], 5)[0] == pytest.approx(one[0].sum() / other[0].sum())
        means = [over(a, b, 5)[0] for a, b in zip(one, other, strict=True)]
        mean, low, high = over(one, other, 5)
        assert mean == pytest.approx(np.prod(means) ** (1 / 3))
        assert low < mean < high

    def test_rank_correlation(self) -> None:
        x = np.array([1.0, 5.0, 2.0, 9.0])
        assert rank_correlation(x, np.exp(x)) == pytest.approx(1)
        assert rank_correlation(x, -x) == pytest.approx(-1)
        assert rank_correlation(x, np.ones(4)) == 0
        # ranks 1 2.5 2.5 4 and 1 3 2 4: covariance 4.5, variances 4.5 and 5
        assert rank_correlation(np.array([0.0, 1, 1, 2]), x[[0, 1, 2, 3]]) == pytest.approx(4.5 / np.sqrt(4.5 * 5))
        assert rank_correlation(np.stack([x, x]), np.stack([x, -x])) == pytest.approx([1, -1])

    def test_noise_gain_of_linear_extrapolation(self) -> None:
        schedule = Schedule.from_steps(STEPS, {*range(STEPS)} - {3, 5, 6})
        setup = ReplaySetup(schedule, AXES["step"], np.ones(STEPS)).within(slice(4, STEPS))
        assert setup.gaps == [((4, 2, 1, 0), (5, 6))]
        assert noise_gain(setup.rows(Newton(1))) == pytest.approx((2 + 3) / 2)  # 1.5 -0.5 and 2 -1

    def test_an_axis_in_other_units_is_the_same(self) -> None:
        assert LINES.axes == ("step", "log_snr")
        assert replace(LINES, times={**AXES, "sigma": AXES["sigma"] ** 2}).axes == ("step", "sigma", "log_snr")


class TestPlanted:
    def test_parabolas_want_order_two_on_their_axis(self) -> None:
        hold = PARABOLAS.costs[Use("hold", "step")].sum()
        assert PARABOLAS.costs[Use("newton order=2", "log_snr")].sum() < NOISE * hold
        assert PARABOLAS.costs[Use("newton order=2", "step")].sum() > 1e-3 * hold
        chosen, costs = PARABOLAS.best_closed(PARABOLAS.axes)
        assert {use.axis for use in chosen} == {"log_snr"}
        assert costs.sum() < NOISE * hold
        assert {use.axis for use in PARABOLAS.best_closed(["step"])[0]} == {"step"}

    def test_the_claim_on_the_axis_follows_the_data(self) -> None:
        curved = dataset_of(lambda a, b, c: a + b * at(AXES["log_snr"]) + 0.1 * c)
        straight = dataset_of(lambda a, b, c: a + b * at(AXES["step"]) + 0.01 * np.sin(at(AXES["step"])) * c)
        assert verdicts(formulas.rulings(pool(curved).numbers))[0] != "holds"
        assert verdicts(formulas.rulings(pool(straight).numbers))[0] == "holds"

    def test_formulas_of_two_names_are_one(self) -> None:
        alike = [names for names in twins(PARABOLAS) if "newton order=1" in names]
        assert alike == [["newton order=1", "bdf2 slope=1"]]
        assert sorted(name for names in twins(PARABOLAS) for name in names) == sorted(map(solver_label, ALL_SOLVERS))

    def test_best_order(self) -> None:
        waves = dataset_of(lambda a, b, c: a + b * np.sin(0.35 * at(AXES["step"]) + 3 * c))
        found = best_orders(waves, "step")
        assert found == sorted(found, reverse=True)
        assert found[0] > found[-1]
        assert best_orders(PARABOLAS, "log_snr") == [2, 2, 2]

    def test_recursion_of_a_contracting_formula_falls_short(self) -> None:
        part = multistep(LINES)
        ratios = part.numbers["recursive_over_anchored"]["step"]
        hermite, noise = solver_label(Hermite(1)), part.numbers["noise_at_longest"]["step"]
        assert [ratio[0] for ratio in ratios[hermite]] == sorted(ratio[0] for ratio in ratios[hermite])
        assert ratios[hermite][-1][1] > 1
        assert noise[hermite][1] < noise[hermite][0]
        assert ratios[hermite][0] == pytest.approx((1, 1, 1))  # every second step: gaps of one
        assert part.numbers["same"] == ["hold", *(f"newton order={order}" for order in range(1, 5)), "bdf2 slope=1"]
        assert verdicts(repeated.rulings(part.numbers)) == ["partly"]

    def test_modes_follow_decays_of_unknown_rates(self) -> None:
        rates = np.repeat([-0.2, -0.05], 3)
        decays = dataset_of(lambda a, b, c: a + b * np.exp(at(AXES["step"]) * rates))
        costs = {
            name: decays.learnt_costs(DynamicMode(), decays.sharings[name], "step").sum() for name in decays.sharings
        }
        linear = decays.costs[Use("newton order=1", "step")].sum()
        assert costs["2 groups"] < NOISE * linear
        assert 1e-3 * linear < costs["one group"] < linear
        found = outcomes(decays, decays.sharings["2 groups"], 5, "step")
        assert (found[HELD_FIRST], found[HELD_LATER], found[DAMPED]) == (0, 0, 0)
        assert found[MEDIAN] == pytest.approx(-0.25, rel=1e-3)  # -0.2 and -0.05, after a gap of one step and four of 5
        assert verdicts(learnt.modes_rulings(modes(decays).numbers))[0] != "fails"

    def test_how_often_modes_fall_back(self) -> None:
        step = at(AXES["step"])
        swinging = dataset_of(lambda a, b, c: a + b * (-1) ** step)
        found = outcomes(swinging, swinging.one, 3, "step")
        assert (found[HELD_FIRST], found[HELD_LATER], found[MEDIAN]) == (1, 1, None)
        growing = dataset_of(lambda a, b, c: a + b * np.exp(1.1 * step))
        found = outcomes(growing, growing.one, 5, "step")
        assert found[HELD_FIRST] == found[HELD_LATER] == 0
        assert found[DAMPED] == pytest.approx(16 / 17)  # not the first step of the first gap, one ahead at rate 1.1
        line = outcomes(LINES, LINES.one, 5, "step")
        assert line[MEDIAN] == pytest.approx(0, abs=1e-6)

    def test_fitted_taps_learn_a_recurrence(self) -> None:
        """Two rates and a constant: three taps forecast exactly, and no formula of the pool does."""

        def path(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
            return np.asarray(a + b * np.exp(-0.3 * at(AXES["step"])) + c * np.exp(-0.05 * at(AXES["step"])))

        s = dataset_of(path)
        _, best = s.best_closed(s.axes)
        assert tap_costs(s, s.one, 3, 1e-10).sum() < NOISE * best.sum()
        assert tap_costs(s, s.one, 2, 1e-10).sum() > 1e-3 * best.sum()
        assert s.ridge == 1e-6
        found = verdicts(learnt.rulings(fitting(s).numbers))
        assert found[0] == "holds"
        assert found[3] == "fails"  # the default ridge is far too strong here
        strong = tap_costs(s, s.one, 3, 1e9)
        np.testing.assert_allclose(strong, s.costs[Use("newton order=1", "step")], rtol=1e-5)


class TestChapter:
    def test_figures_exist(self, chapter: Chapter, context: Context) -> None:
        assert len(chapter.figures) == 2
        for name, caption in chapter.figures:
            assert caption
            assert (context.folder / name).read_bytes().startswith(b"\x89PNG")

    def test_answers_every_question(self, chapter: Chapter) -> None:
        told = " ".join(claim.text for claim in chapter.claims)
        for words in (
            "axis",
            "order that pays",
            "Recursive one-step use",
            "read at run time",
            "Fitted taps",
            "weights",
        ):
            assert words in told
        assert NO_INTERVAL not in {claim.evidence for claim in chapter.claims}
        assert [row[0] for row in chapter.tables[0].rows] == [solver_label(solver) for solver in ALL_SOLVERS]

    def test_survives_strict_json(self, chapter: Chapter) -> None:
        again = Chapter.model_validate(json.loads(json.dumps(chapter.model_dump(), allow_nan=False)))
        assert again.to_markdown() == chapter.to_markdown()

    def test_numbers_agree_with_each_other(self, chapter: Chapter, real: Dataset) -> None:
        numbers = chapter.numbers
        for cells in numbers["pool"]["cost_over_hold"].values():
            np.testing.assert_allclose(cells["hold"], 1)
        for cells in numbers["multistep"]["recursive_over_anchored"].values():
            np.testing.assert_allclose([ratios[0] for ratios in cells.values()], 1, rtol=1e-9)  # N = 2
        one = numbers["modes"]["cost_over_hold"]["dynamic modes, one group, step"]
        np.testing.assert_allclose(one, numbers["pool"]["cost_over_hold"]["step"]["dynamic_mode"])
        for cells in numbers["modes"]["outcomes"].values():
            assert all(0 <= cell[key] <= 1 for cell in cells for key in (HELD_FIRST, HELD_LATER, DAMPED))
        for ratios in numbers["noise"]["rank_correlation"].values():
            assert all(-1 <= low <= mean <= high <= 1 for mean, low, high in ratios)

    def test_the_seed_decides_everything(self, chapter: Chapter, context: Context, tmp_path: Path) -> None:
        news: list[float] = []
        again = SOLVERS.chapter("solvers", replace(context, folder=tmp_path, tell=lambda share, _: news.append(share)))
        assert again.numbers == chapter.numbers
        assert again.claims == chapter.claims
        assert news == sorted(news)
        assert news[-1] < 1
