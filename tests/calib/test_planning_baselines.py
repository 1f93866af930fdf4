"""Methods that plan under a budget: what they plan is what their papers say, and the network is left as it was."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from hyca_calib.baselines.base import Family, Setup
from hyca_calib.baselines.budcache import budcache_family, search_steps
from hyca_calib.baselines.cem import best_path, cem_family, computed_axis, error_prior, planned_steps
from hyca_calib.baselines.dicache import dicache_families
from hyca_calib.baselines.full_run import output_grams
from hyca_calib.baselines.meancache import (
    SPANS,
    Averaged,
    average_weights,
    edge_costs,
    meancache_family,
    planned_gaps,
    velocity_times,
)
from hyca_calib.baselines.recipes import recipe_families
from hyca_calib.baselines.stepwise import Computed, Stream, solver_weights, weighted
from hyca_calib.costs.budget import Budget
from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.pipelines.rollout import followed, sample_latents
from hyca_calib.pipelines.workload import Workload
from hyca_calib.search.presets import (
    PRESETS,
    WARMUPS,
    documented_warmup,
    preset_section,
    published_schedule,
    recipe_section,
)
from hyca_calib.search.problem import Problem
from hyca_calib.search.step_caches.dicache import DiCache
from hyca_calib.search.step_caches.stack import deciding_section, measure_stack
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan
from hyca_runtime.feature import Feature
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan import parse_plan
from hyca_runtime.schedule import Schedule
from hyca_runtime.solvers import ClosedFormSolver, Hold, Taylor

STEPS = 12


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def setup(recorded: Trace, workload: Workload) -> Setup:
    known: dict[str, Any] = {}

    def recall(name: str, make: Callable[[], Any]) -> Any:
        if name not in known:
            known[name] = json.loads(json.dumps(make()))
        return known[name]

    return Setup(workload.of("fit")[:2], STEPS, recall, lambda: Problem(recorded))


def families(pipe: Any, setup: Setup) -> list[Family]:
    return [
        budcache_family(setup),
        cem_family(setup),
        meancache_family(pipe, setup),
        *recipe_families(setup),
    ]


def settings_of(family: Family) -> list[dict[str, Any]]:
    """Those tried first; of a search by rollouts a short one."""
    found = [dict(settings) for settings in family.first()]
    return [{**found[1], "rollouts": 6}] if family.name == "BudCache" else found[::3]


class TestPaths:
    @pytest.mark.parametrize("count", [2, 3, 5, 8])
    def test_the_best_path_is_the_best_of_all(self, rng: np.random.Generator, count: int) -> None:
        costs = rng.random((8, 8))
        costs[rng.random((8, 8)) < 0.2] = np.inf
        costs[np.arange(7), np.arange(1, 8)] = rng.random(7)
        every = [(0, *inner, 7) for inner in itertools.combinations(range(1, 7), count - 2)]
        price = {path: sum(costs[a, b] for a, b in itertools.pairwise(path)) for path in every}
        assert best_path(costs, count) == min(price, key=lambda path: price[path])

    def test_no_path(self) -> None:
        with pytest.raises(ValueError, match="no path over 1 of 4 steps"):
            best_path(np.ones((4, 4)), 1)


class TestCEM:
    def test_the_prior_is_the_cosine_distance(self) -> None:
        """Outputs that turn by 10 degrees a step; their size does not matter."""
        angles, size = np.deg2rad(10 * np.arange(6)), np.array([1.0, 5, 2, 8, 1, 3])
        outputs = size[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        prior = error_prior(np.stack([outputs @ outputs.T, 4 * outputs @ outputs.T]))
        for step, n in itertools.product(range(6), range(6)):
            expected = 1 - np.cos(np.deg2rad(10 * n)) if n <= step else 0.0
            assert prior[step, n] == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize("running", [True, False])
    @pytest.mark.parametrize(("count", "spread"), [(3, 1), (4, 1), (5, 2), (6, 9)])
    def test_the_plan_is_the_best_of_all(
        self, rng: np.random.Generator, count: int, spread: int, running: bool
    ) -> None:
        steps, weight = 10, 2
        prior = np.tril(rng.random((steps, steps)))
        error = prior.cumsum(axis=0) if running else prior
        base = round(steps / count)
        price = {}
        for inner in itertools.combinations(range(1, steps - 1), count - 2):
            path = (0, *inner, steps - 1)
            gaps = [(b - a, b) for a, b in itertools.pairwise(path)]
            if all(abs(gap - base) <= max(spread, 2) for gap, _ in gaps):
                price[path] = sum(error[b, gap - 1] * (gap - 1) ** weight for gap, b in gaps if gap > 1)
        found = planned_steps(prior, count, weight, max(spread, 2), running)
        assert found == min(price, key=lambda path: price[path])

    @pytest.mark.parametrize("count", range(2, 51))
    def test_every_number_of_steps_has_a_plan(self, rng: np.random.Generator, count: int) -> None:
        found = planned_steps(np.tril(rng.random((50, 50))), count, 2, 1, running=True)
        assert len(found) == count
        assert (found[0], found[-1]) == (0, 49)

    def test_a_gap_differs_by_the_spread(self, rng: np.random.Generator) -> None:
        found = planned_steps(np.tril(rng.random((50, 50))), 10, 0, 1, running=False)
        assert set(np.diff(found)) <= {4, 5, 6}


class TestBudCache:
    @staticmethod
    def error(steps: tuple[int, ...]) -> float:
        """Rugged: every mask has its own."""
        return float(np.random.default_rng(sum(1 << s for s in steps)).random())

    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("rollouts", [1, 7, 150])
    def test_a_search(self, rollouts: int, seed: int) -> None:
        asked: list[tuple[int, ...]] = []

        def error(steps: tuple[int, ...]) -> float:
            asked.append(steps)
            return self.error(steps)

        found = search_steps(error, 20, 6, rollouts, seed)
        assert len(asked) == len(set(asked)) == rollouts
        assert all(len(set(steps)) == 6 and steps[0] == 0 and max(steps) < 20 for steps in asked)
        assert self.error(found) == min(map(self.error, asked)) <= self.error(asked[0])
        assert found == search_steps(self.error, 20, 6, rollouts, seed), "the seed decides"

    def test_small_problems_are_solved(self) -> None:
        best = min(((0, *rest) for rest in itertools.combinations(range(1, 8), 3)), key=self.error)
        assert search_steps(self.error, 8, 4, 10_000) == best

    @pytest.mark.parametrize("count", [1, 2, 7, 8])
    def test_ends(self, count: int) -> None:
        assert len(search_steps(self.error, 8, count, 20)) == count

    def test_it_goes_downhill(self) -> None:
        """On a smooth error a few rollouts come far closer than as many random masks."""
        goal = np.array([0, 3, 9, 14, 22, 30, 41])

        def smooth(steps: tuple[int, ...]) -> float:
            return float(np.abs(np.array(steps) - goal).sum())

        assert smooth(search_steps(smooth, 50, 7, 400)) <= 4


def crossed(times: np.ndarray, spans: dict[int, int], rolling: bool, velocities: np.ndarray) -> np.ndarray:
    """The velocity used at every step of a run."""
    rule, stream, used = Averaged(times, spans, rolling), Stream(""), []
    for step, own in enumerate(velocities):
        stream.step = step
        feature = rule.forecast(stream) if stream.past else None
        assert (feature is None) == (step in spans)
        if feature is None:
            feature = Feature((torch.tensor(own),))
            stream.past.appendleft(Computed(step, feature))
        used.append(feature[0].numpy())
    return np.stack(used)


class TestMeanCache:
    times = np.linspace(1, 0, 13) ** 1.3

    @pytest.mark.parametrize("length", [2, 3, 6])
    def test_exact_on_linear_velocity(self, length: int) -> None:
        """With even levels, and as many steps looked back at as ahead, a jump lands where the full run does."""
        times = np.linspace(1, 0, 13)
        velocities = 2.0 - 3.0 * times[:-1, None]
        spans = dict.fromkeys(range(7), 1) | {6: length} | dict.fromkeys(range(6 + length, 12), 1)
        used = crossed(times, spans, False, velocities)
        gap = slice(6, 6 + length)
        np.testing.assert_allclose(used[gap].sum(), velocities[gap].sum(), rtol=1e-6)
        assert used[7] != pytest.approx(velocities[6]), "not by holding"

    def test_average_velocity_of_many_steps_is_exact(self) -> None:
        """The formula itself: with ever finer steps the average of a linear velocity is met at any length."""
        times = np.linspace(1, 0, 10_001)
        velocities = 2.0 - 3.0 * times[:-1]
        weights = average_weights(times, 5000, 6500, 3000)
        found = weights @ velocities[5000 : 5000 - 3001 : -1]
        assert found == pytest.approx(velocities[5000:6500].mean(), rel=1e-3)

    @pytest.mark.parametrize("rolling", [False, True])
    @pytest.mark.parametrize("span", SPANS)
    def test_the_papers_formula_on_latents(self, rng: np.random.Generator, span: int, rolling: bool) -> None:
        velocities, times = rng.normal(size=(12, 4)).astype(np.float32), self.times
        spans = dict.fromkeys(range(7), 1) | {6: span, 10: 1, 11: 1}
        used = crossed(times, spans, rolling, velocities)
        latents = np.concatenate([np.zeros((1, 4)), (np.diff(times)[:, None] * used).cumsum(axis=0)])

        def correction(now: int) -> np.ndarray:
            past, width = now - span, times[now] - times[now - span]
            return np.asarray((latents[now] - latents[past] - width * used[past]) / width**2)

        if rolling:
            for step in (7, 8, 9):
                expected = used[step - 1] + (times[step + 1] - times[step]) * correction(step)
                np.testing.assert_allclose(used[step], expected, rtol=1e-4, atol=1e-5)
        else:
            average = velocities[6] + (times[10] - times[6]) * correction(6)
            np.testing.assert_allclose(latents[10], latents[6] + (times[10] - times[6]) * average, rtol=1e-4, atol=1e-6)
        if span == 1:
            np.testing.assert_allclose(used[7:10], np.broadcast_to(velocities[6], (3, 4)), rtol=1e-5)

    def test_edge_costs(self, rng: np.random.Generator) -> None:
        velocities, times = rng.normal(size=(3, 12, 5)), self.times
        costs, spans = edge_costs(velocities @ velocities.transpose(0, 2, 1), times)
        assert np.isinf(costs[np.tril_indices(12)]).all()
        assert (costs[np.arange(11), np.arange(1, 12)] == 0).all()
        for start, end in ((0, 3), (2, 5), (7, 11)):
            lengths = np.diff(times)[start:end, None]
            true = (lengths * velocities[:, start:end]).sum(axis=1) / lengths.sum()
            errors = {}
            for span in SPANS[: max(1, start)]:
                found = velocities[:, start]
                if start:
                    past = velocities[:, start - span : start + 1][:, ::-1]
                    found = np.einsum("k,skd->sd", average_weights(times, start, end, span), past)
                errors[span] = np.linalg.norm(true - found, axis=1).mean()
            assert costs[start, end] == pytest.approx(min(errors.values()))
            assert errors[int(spans[start, end])] == pytest.approx(min(errors.values()))

    def test_peaks_are_suppressed(self, rng: np.random.Generator) -> None:
        """The larger gamma, the smaller the worst gap; the sum of errors is least at 1."""
        velocities = rng.normal(size=(2, 12, 5)).cumsum(axis=1)
        costs, spans = edge_costs(velocities @ velocities.transpose(0, 2, 1), self.times)
        errors = {}
        for gamma in (1.0, 30.0):
            path = list(planned_gaps(costs, spans, 5, gamma))
            assert len(path) == 5
            assert (path[0], path[-1]) == (0, 11)
            errors[gamma] = [costs[a, b] for a, b in itertools.pairwise(path)]
        assert max(errors[30.0]) <= max(errors[1.0])
        assert sum(errors[1.0]) <= sum(errors[30.0])

    def test_velocity_in_the_angle(self) -> None:
        """What predicts v predicts the derivative of the latent by the angle; what predicts noise, by sigma / alpha."""
        angles = np.linspace(1.4, 0.1, 6)
        alpha, sigma = np.cos(angles), np.sin(angles)
        levels = sigma / (alpha + sigma)
        np.testing.assert_allclose(velocity_times(levels, "v_prediction"), angles)
        np.testing.assert_allclose(velocity_times(levels, "epsilon"), sigma / alpha)
        np.testing.assert_allclose(velocity_times(levels, "flow"), levels)


class TestRecipes:
    @pytest.mark.parametrize(
        ("interval", "warmup", "computed"),
        [(5, 1, (0, 5, 10)), (5, 2, (0, 1, 6, 11)), (4, 3, (0, 1, 2, 6, 10)), (11, 1, (0, 11)), (11, 3, (0, 1, 2))],
    )
    def test_schedules(self, interval: int, warmup: int, computed: tuple[int, ...]) -> None:
        assert Schedule.every(12, interval, warmup).computed_steps == computed

    @pytest.mark.parametrize(("interval", "warmup", "full"), [(5, 3, 12), (6, 3, 10), (7, 3, 9), (4, 1, 13), (6, 1, 9)])
    def test_step_counts_of_the_paper(self, interval: int, warmup: int, full: int) -> None:
        """What the FLOPs in its tables say, for FLUX.1-dev, and for HunyuanVideo in the last case."""
        schedule = Schedule.every(50, interval, warmup)
        assert len(schedule.computed_steps) == full
        assert published_schedule(50, full, warmup) == schedule

    def test_documented_warmups(self) -> None:
        def leading(preset: str, transformer: str, steps: int = 50) -> int:
            return documented_warmup(PRESETS[preset], transformer, steps)

        assert {name: leading("hyca", name) for name in WARMUPS} == WARMUPS
        assert leading("hyca", "SomethingElse") == 3
        assert leading("hold", "FluxTransformer2DModel") == 1
        assert leading("hyca", "FluxTransformer2DModel", 4) == 1, "FLUX.1-schnell"
        assert leading("hyca", "QwenImageTransformer2DModel", 8) == 2, "Qwen-Lightning"

    @pytest.mark.parametrize("warmup", [1, 2, 3])
    def test_a_preset_with_its_own_warmup(self, recorded: Trace, warmup: int) -> None:
        _, section = preset_section(Problem(recorded), PRESETS["hyca"], Budget.parse("5 steps"), 0, warmup=warmup)
        assert section.schedule == published_schedule(STEPS, 5, warmup)

    def test_a_recipe_is_the_preset_of_the_same_steps(self, recorded: Trace) -> None:
        problem = Problem(recorded)
        _, section = preset_section(problem, PRESETS["hyca"], Budget.parse("4 steps"), 0, "recursive", warmup=1)
        assert recipe_section(problem, PRESETS["hyca"], 3, 1, 0, "recursive") == section

    def test_contraction_is_a_setting(self, pipe: EmojiPipeline, setup: Setup) -> None:
        hicache = recipe_families(setup)[2]
        drawn = {}
        for contraction in (0.5, 0.9):
            with hicache.apply(pipe, {"interval": 4, "warmup": 2, "contraction": contraction}):
                drawn[contraction] = sample_latents(pipe, setup.jobs, STEPS, 2)
        assert not torch.equal(drawn[0.5], drawn[0.9])


class TestFamilies:
    def test_every_setting_acts_and_leaves_no_trace(self, pipe: EmojiPipeline, setup: Setup) -> None:
        """As many steps are computed as announced; afterwards the modules and the pictures are as before."""
        blocks = pipe.transformer.transformer_blocks[0]
        calls = 0

        def count(*_: Any) -> None:
            nonlocal calls
            calls += 1

        def state() -> list[Any]:
            return [(name, sorted(vars(module))) for name, module in pipe.transformer.named_modules()]

        full, before = sample_latents(pipe, setup.jobs, STEPS, 2), state()
        for family in families(pipe, setup):
            for settings in settings_of(family):
                with family.apply(pipe, settings):
                    handle = blocks.register_forward_pre_hook(count)
                    calls = 0
                    drawn = sample_latents(pipe, setup.jobs, STEPS, 2)
                    handle.remove()
                if "computed" in settings:
                    assert calls == settings["computed"], (family.name, settings)
                else:
                    schedule = Schedule.every(STEPS, settings["interval"], settings["warmup"])
                    assert calls == len(schedule.computed_steps), (family.name, settings)
                assert not torch.equal(drawn, full), (family.name, settings)
                assert state() == before, (family.name, settings)
                assert torch.equal(sample_latents(pipe, setup.jobs, STEPS, 2), full), (family.name, settings)

    def test_what_is_learnt_is_learnt_once(self, pipe: EmojiPipeline, setup: Setup) -> None:
        made: list[str] = []

        def recall(name: str, make: Callable[[], Any]) -> Any:
            def noted() -> Any:
                made.append(name)
                return make()

            return setup.recall(name, noted)

        watched = Setup(setup.jobs, STEPS, recall, setup.problem)
        for family in families(pipe, watched):
            for _ in range(2):
                with family.apply(pipe, settings_of(family)[0]):
                    pass
        assert len(made) == len(set(made)) == 6, (
            "a search, noise levels, plans of three recipes, and products of outputs that two families share"
        )

    def test_first_settings_are_few_and_on_the_ladders(self, pipe: EmojiPipeline, setup: Setup) -> None:
        wide = Setup(setup.jobs, 50, setup.recall, setup.problem)
        for family in families(pipe, wide):
            assert len(list(family.first())) <= 12
            for axis in family.axes:
                assert set(axis.first_rungs) <= set(axis.ladder)

    @pytest.mark.parametrize("steps", [8, 12, 28, 50])
    def test_ladders(self, steps: int) -> None:
        axis = computed_axis(steps)
        ladder = [int(rung) for rung in axis.ladder]
        assert ladder == sorted(set(ladder))
        assert 2 <= ladder[0] < ladder[-1] < steps
        assert set(axis.first_rungs) <= set(ladder)

    def test_outputs_multiplied(self, pipe: EmojiPipeline, setup: Setup) -> None:
        """The products of a run's outputs, against the latents that Euler steps of these outputs lead through."""
        first = output_grams(pipe, replace(setup, jobs=setup.jobs[:1]))[0]
        both = output_grams(pipe, setup)
        np.testing.assert_allclose(both[0], first, rtol=1e-12)
        job, states = setup.jobs[0], []

        def keep(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            states.append(tensors["latents"].double())
            return {}

        given = {**job.call, "num_inference_steps": STEPS, "generator": torch.Generator("cpu").manual_seed(job.seed)}
        pipe(**given, output_type="latent", callback_on_step_end=keep)
        lengths = pipe.scheduler.sigmas.diff()[1:, None].double()
        moves = torch.stack([after - before for before, after in itertools.pairwise(states)]).flatten(1) / lengths
        np.testing.assert_allclose((moves @ moves.T).numpy(), first[1:, 1:], rtol=1e-3)

    def test_a_line_is_continued(self) -> None:
        """Order 1 with the distances as they are."""
        past = [Computed(s, Feature((torch.tensor([2.0 + 3.0 * s]),))) for s in (4, 1, 0)]

        def forecast(solver: ClosedFormSolver) -> float:
            weights = solver_weights(solver, 7, (0, 1, 4))
            assert list(weights) == [2, 3, 5, 6]
            return weighted(past, weights[6])[0].item()

        assert forecast(Taylor(1)) == pytest.approx(20.0)
        assert forecast(Hold()) == 14.0


class TestDiCache:
    SETTINGS: ClassVar[dict[str, Any]] = {"delta": 0.15, "m": 2, "rho": 0.1, "gamma": 2.0, "last": 1}

    def drawn(self, pipe: EmojiPipeline, setup: Setup, **change: Any) -> torch.Tensor:
        aligned, _ = dicache_families(pipe, setup)
        with aligned.baseline({**self.SETTINGS, **change}).applied(pipe):
            return sample_latents(pipe, setup.jobs[:1], STEPS, 1)

    def section(self, pipe: EmojiPipeline, setup: Setup) -> NetworkPlan:
        rule = DiCache(blocks=2, retained=0.1, last=True, limit=2.0)
        return deciding_section(setup.problem(), measure_stack(pipe, setup.problem(), rule)[1], rule, 0.15, [0], None)

    def test_it_does_what_the_preset_does(self, pipe: EmojiPipeline, setup: Setup) -> None:
        with followed(pipe, Plan(name="preset", sections=(self.section(pipe, setup),))) as session:
            expected = sample_latents(pipe, setup.jobs[:1], STEPS, 1)
            assert 3 < session.report().computed < STEPS - 2, "neither all nor only what is forced"
        assert torch.equal(self.drawn(pipe, setup), expected)

    def test_the_least_gamma_is_reuse(self, pipe: EmojiPipeline, setup: Setup) -> None:
        content = json.loads(Plan(name="reuse", sections=(self.section(pipe, setup),)).model_dump_json())
        for groups in content["sections"][0]["points"]["stack"]["groups"].values():
            groups[0]["solver"] = Hold().spec().model_dump()
        with followed(pipe, parse_plan(content, "reuse")):
            expected = sample_latents(pipe, setup.jobs[:1], STEPS, 1)
        assert torch.equal(self.drawn(pipe, setup, gamma=1.0), expected)
        assert not torch.equal(self.drawn(pipe, setup), expected)
