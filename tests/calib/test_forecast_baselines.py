"""Spectrum, SpeCa and L2P: their formulas by hand, and what they do to a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from numpy.polynomial import chebyshev
from plans import make_plan

from hyca_calib.baselines.base import Family, Setup, counts
from hyca_calib.baselines.learned_linear import l2p_family, learnt_weights
from hyca_calib.baselines.speca import Speculation, relative_error, speca_family
from hyca_calib.baselines.spectrum import SpectrumSolver, chebyshev_row, growing_windows, spectrum_family
from hyca_calib.baselines.stepwise import Call, Computed, driven, refusal, solver_weights, tabled, weighted
from hyca_calib.demo import demo_prompts
from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.demo.glyphs.pipeline import GlyphPipeline
from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Job, Workload
from hyca_calib.quality.run_flops import run_flops
from hyca_calib.search.problem import Problem
from hyca_calib.trace.store import Trace
from hyca_runtime import apply_plan
from hyca_runtime.attach.points import find_blocks, find_transformer
from hyca_runtime.feature import Feature
from hyca_runtime.schedule import Schedule
from hyca_runtime.solvers import Newton, Taylor

STEPS = 12
FAMILIES = (spectrum_family, speca_family, l2p_family)


def draw(pipe: Any, jobs: tuple[Job, ...], steps: int = STEPS) -> torch.Tensor:
    return sample_latents(pipe, jobs[:2], steps, 2)


def feature(*values: float) -> Feature:
    return Feature([torch.tensor(values)])


def computed(past: dict[int, float]) -> list[Computed]:
    """Steps with one number for a feature, newest first."""
    return [Computed(step, feature(past[step])) for step in sorted(past, reverse=True)]


@pytest.fixture
def setup(recorded: Trace, workload: Workload) -> Setup:
    known: dict[str, Any] = {}

    def recall(name: str, make: Callable[[], Any]) -> Any:
        if name not in known:
            known[name] = make()
        return known[name]

    return Setup(workload.of("fit"), STEPS, recall, lambda: Problem(recorded))


@pytest.fixture
def jobs(workload: Workload) -> tuple[Job, ...]:
    return workload.of("select")


@contextmanager
def counting(pipe: Any) -> Iterator[list[int]]:
    """How many times the first and the last block ran."""
    blocks = find_blocks(find_transformer(pipe))
    ran = [0, 0]

    def hear(which: int) -> Callable[..., None]:
        def count(*_: Any) -> None:
            ran[which] += 1

        return count

    hooks = [blocks[at].module.register_forward_hook(hear(which)) for which, at in enumerate((0, -1))]
    try:
        yield ran
    finally:
        for hook in hooks:
            hook.remove()


class TestStepwise:
    def test_it_does_what_a_plan_does(self, pipe: EmojiPipeline, jobs: tuple[Job, ...]) -> None:
        """Linear extrapolation at the same steps; its weights are of float64, the plan's of float32."""
        with apply_plan(pipe, make_plan(pipe.transformer, (0, 1, 4, 8), (Newton(1),))):
            planned = draw(pipe, jobs)
        rows = {t: (1.0 + t - h, -float(t - h)) for t, h in ((2, 1), (3, 1))}
        rows |= {t: (1 + (t - 4) / 3, -(t - 4) / 3) for t in (5, 6, 7)}
        rows |= {t: (1 + (t - 8) / 4, -(t - 8) / 4) for t in (9, 10, 11)}
        with tabled(pipe, rows):
            found = draw(pipe, jobs)
        full = draw(pipe, jobs)
        torch.testing.assert_close(found, planned, rtol=1e-5, atol=1e-5)
        assert (found - full).abs().max() > 1e-3

    def test_runs_and_branches_do_not_mix(self, pipe: EmojiPipeline, jobs: tuple[Job, ...]) -> None:
        seen = []

        def answer(call: Call) -> Any:
            seen.append((call.stream.branch, call.stream.step, [known.step for known in call.stream.past]))
            return call.compute()

        guided = tuple(replace(job, call={**job.call, "true_cfg_scale": 3.0}) for job in jobs)
        with driven(pipe, answer, depth=2):
            draw(pipe, guided, 4)
            draw(pipe, guided, 4)
        steps = [(0, []), (1, [0]), (2, [1, 0]), (3, [2, 1])]
        assert seen == [(branch, *of) for of in steps for branch in ("cond", "uncond")] * 2

    def test_weighted_sums(self) -> None:
        past = computed({4: 2.0, 2: 3.0, 0: 7.0})
        assert weighted(past, (2.0, -1.0))[0].item() == 1.0
        half = [Computed(0, Feature([torch.tensor([1.0]).half()])), Computed(0, Feature([torch.tensor([1.0]).half()]))]
        assert weighted(half, (3000.5, -3000.0))[0].item() == 0.5  # half precision alone would lose it

    def test_counts(self) -> None:
        assert counts(1, 7) == (1, 2, 3, 4, 5, 6, 7)
        assert counts(0, 20) == (0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 17, 20)


class TestSpectrum:
    def test_published_numbers_of_steps(self) -> None:
        """The release: 14 and 10 of 50 with alpha 0.75 and 3."""
        assert growing_windows(50, 5, 2, 0.75) == [0, 1, 2, 3, 4, 6, 8, 11, 15, 20, 25, 31, 38, 46]
        assert growing_windows(50, 5, 2, 3.0) == [0, 1, 2, 3, 4, 6, 11, 19, 30, 44]

    def test_other_windows(self) -> None:
        assert growing_windows(7, 2, 1, 0) == list(range(7))
        assert growing_windows(12, 3, 4, 0) == list(Schedule.every(12, 4, 3).computed_steps)
        assert growing_windows(3, 5, 2, 1) == [0, 1, 2]
        assert growing_windows(12, 2, 3, 1, 2) == [0, 1, 4, 8, 10, 11]

    def test_polynomials_are_forecast_exactly(self) -> None:
        steps, target = [11, 9, 6, 4, 2, 1, 0], 17
        for degree in range(5):
            row = chebyshev_row(steps, target, 20, degree, 1e-10)
            values = np.array(steps, dtype=float) ** degree
            assert row @ values == pytest.approx(target**degree, rel=1e-5)
            assert row.sum() == pytest.approx(1, abs=1e-5)

    def test_ridge_by_hand(self) -> None:
        """Two steps at tau -1 and 0, T_0 and T_1: X = [[1, -1], [1, 0]], X'X + I = [[3, -1], [-1, 2]], x = (1, 1/2)."""
        row = chebyshev_row([0, 5], 8, 10, 1, 1.0)  # tau = 2 * 8 / 10 - 1 = 0.6
        inverse = np.array([[2, 1], [1, 3]]) / 5
        np.testing.assert_allclose(row, np.array([1, 0.6]) @ inverse @ np.array([[1, 1], [-1, 0]]), rtol=1e-12)
        np.testing.assert_allclose(row, [(2.6 - 2.8) / 5, 2.6 / 5], rtol=1e-12)

    def test_it_fits_as_numpy_does(self) -> None:
        steps, values = [30, 22, 15, 10, 6, 4, 3, 2, 1, 0], np.random.default_rng(0).normal(size=10)
        series = chebyshev.Chebyshev(chebyshev.chebfit([2 * s / 50 - 1 for s in steps], values, 4))
        assert chebyshev_row(steps, 35, 50, 4, 1e-12) @ values == pytest.approx(series(2 * 35 / 50 - 1), rel=1e-6)

    def test_blend(self) -> None:
        past = computed({5: 10.0, 3: 4.0, 1: 0.0})

        def blended(blend: float) -> float:
            row = SpectrumSolver(12, 2, 0.1, blend, 12).weights(np.array([5.0, 3.0, 1.0]), 7.0)
            return weighted(past, row)[0].item()

        linear, chebyshev_alone, half = map(blended, (0.0, 1.0, 0.5))
        assert linear == 16.0
        row = chebyshev_row([5, 3, 1], 7, 12, 2, 0.1)
        assert chebyshev_alone == pytest.approx(row @ [10, 4, 0], rel=1e-6)
        assert half == pytest.approx((linear + chebyshev_alone) / 2, rel=1e-6)
        assert 7 not in solver_weights(SpectrumSolver(12, 2, 0.1, 1.0, 12), 12, (0, 1, 3, 5, 7))

    def test_without_chebyshev_it_is_linear_extrapolation(
        self, pipe: EmojiPipeline, setup: Setup, jobs: tuple[Job, ...]
    ) -> None:
        settings = {"W": 2, "N": 3, "alpha": 0.0, "last": 0, "w": 0.0, "m": 4, "K": 12, "lambda": 0.1}
        with spectrum_family(pipe, setup).apply(pipe, settings):
            found = draw(pipe, jobs)
        with apply_plan(pipe, make_plan(pipe.transformer, (0, 1, 4, 7, 10), (Newton(1),))):
            torch.testing.assert_close(found, draw(pipe, jobs), rtol=1e-5, atol=1e-5)

    def test_it_forgets_what_it_is_told_to(self, pipe: EmojiPipeline, setup: Setup, jobs: tuple[Job, ...]) -> None:
        settings = {"W": 2, "N": 3, "alpha": 0.0, "last": 0, "w": 1.0, "m": 1, "K": 2, "lambda": 1e-4}
        family, drawn = spectrum_family(pipe, setup), {}
        for kept in (2, 12):
            with family.apply(pipe, settings | {"K": kept}):
                drawn[kept] = draw(pipe, jobs)
        assert not torch.equal(drawn[2], drawn[12])
        steps = (0, 1, 4, 7, 10)
        rows = {t: [s for s in reversed(steps) if s < t][:2] for t in range(STEPS) if t not in steps}
        by_hand = {t: chebyshev_row(past, t, STEPS, 1, 1e-4).tolist() for t, past in rows.items()}
        with tabled(pipe, by_hand):
            torch.testing.assert_close(drawn[2], draw(pipe, jobs), rtol=1e-5, atol=1e-5)


def speculation(**changed: Any) -> Speculation:
    settings = {"W": 2, "O": 1, "tau": 0.5, "beta": 0.25, "free": 0, "most": 100, "redo": "step"}
    return Speculation.model_validate({"num_steps": STEPS, **settings, **changed})


class TestSpeCa:
    def settings(self, **changed: Any) -> dict[str, Any]:
        return {"tau": 0.1, "most": 100, "free": 0, "beta": 1.0, "W": 2, "O": 1, "redo": "step"} | changed

    def test_threshold_falls(self) -> None:
        assert [speculation().allowed(step) for step in (0, 6, 12)] == [0.5, 0.25, 0.125]

    def test_when_a_step_is_due(self) -> None:
        at_most_three = speculation(most=3)
        assert [at_most_three.due(step, 1) for step in (1, 2, 4, 5)] == [True, False, False, True]

    def test_drafts_are_taylors(self) -> None:
        assert speculation().row([8, 5, 1], 10) == pytest.approx([1 + 2 / 3, -2 / 3])
        second = speculation(O=2).row([8, 5, 1, 0], 10)
        assert second == pytest.approx(Taylor(2).weights(np.array([8.0, 5.0, 1.0]), 10.0).tolist())

    def test_error_by_hand(self) -> None:
        assert relative_error(feature(3.0, 4.0), feature(0.0, 5.0)) == pytest.approx(10**0.5 / 5)
        draft, live = Feature([torch.ones(2), torch.zeros(1)]), Feature([torch.ones(2), torch.full((1,), 2.0)])
        assert relative_error(draft, live) == pytest.approx(2 / 6**0.5)

    def test_at_zero_it_computes_everything(self, pipe: EmojiPipeline, setup: Setup, jobs: tuple[Job, ...]) -> None:
        full = draw(pipe, jobs)
        with speca_family(pipe, setup).apply(pipe, self.settings(tau=0.0)), counting(pipe) as ran:
            found = draw(pipe, jobs)
        assert torch.equal(found, full)
        assert ran == [STEPS, STEPS + STEPS - 2], "every draft is verified, and then computed"

    def test_without_limits_it_only_drafts(self, pipe: EmojiPipeline, setup: Setup, jobs: tuple[Job, ...]) -> None:
        with speca_family(pipe, setup).apply(pipe, self.settings(tau=1e9)), counting(pipe) as ran:
            found = draw(pipe, jobs)
        assert ran == [2, STEPS], "the last block verifies every draft"
        with speca_family(pipe, setup).apply(pipe, self.settings(free=STEPS)), counting(pipe) as ran:
            unverified = draw(pipe, jobs)
        assert ran == [2, 2]
        assert torch.equal(found, unverified), "an accepted step is made of its draft"
        with apply_plan(pipe, make_plan(pipe.transformer, (0, 1), (Newton(1),))):
            torch.testing.assert_close(found, draw(pipe, jobs), rtol=1e-5, atol=1e-5)

    def test_released_it_computes_the_step_after(
        self, pipe: EmojiPipeline, setup: Setup, jobs: tuple[Job, ...]
    ) -> None:
        """Threshold 0, one free draft: computed, free, rejected, computed, free, rejected ..."""
        settings = self.settings(tau=0.0, free=1, redo="next")
        with speca_family(pipe, setup).apply(pipe, settings), counting(pipe) as ran:
            found = draw(pipe, jobs)
        assert ran == [5, 8], "computed 0 1 4 7 10, verified 3 6 9"
        with apply_plan(pipe, make_plan(pipe.transformer, (0, 1, 4, 7, 10), (Newton(1),))):
            torch.testing.assert_close(found, draw(pipe, jobs), rtol=1e-5, atol=1e-5)

    def test_at_most_so_many_drafts(self, pipe: EmojiPipeline, setup: Setup, jobs: tuple[Job, ...]) -> None:
        with speca_family(pipe, setup).apply(pipe, self.settings(tau=1e9, most=3, free=2)), counting(pipe) as ran:
            draw(pipe, jobs)
        assert ran == [4, 6], "computed 0 1 5 9, verified 4 8"

    def test_the_last_block_judges_its_own_drafted_input(
        self, pipe: EmojiPipeline, setup: Setup, jobs: tuple[Job, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By hand from a full run: what the block was given and gave on steps 0 and 1, the rest of its call on 2."""
        last = find_blocks(pipe.transformer)[-1].module
        calls: list[tuple[dict[str, Any], Any]] = []
        hook = last.register_forward_hook(
            lambda module, args, kwargs, output: calls.append((dict(kwargs), output)), with_kwargs=True
        )
        draw(pipe, jobs)
        hook.remove()
        drafted = {
            name: 2 * calls[1][0][name] - calls[0][0][name] for name in ("hidden_states", "encoder_hidden_states")
        }
        with torch.no_grad():
            live = last(**{**calls[2][0], **drafted})[1]
        draft = 2 * calls[1][1][1] - calls[0][1][1]
        expected = float((draft - live).norm() / live.norm())

        errors: list[float] = []

        def noted(draft: Feature, live: Feature) -> float:
            errors.append(relative_error(draft, live))
            return errors[-1]

        monkeypatch.setattr("hyca_calib.baselines.speca.relative_error", noted)
        with speca_family(pipe, setup).apply(pipe, self.settings(tau=0.0)):
            draw(pipe, jobs)
        assert errors[0] == pytest.approx(expected, rel=1e-4)
        assert 1e-6 < errors[0] < 1

    def test_verification_costs_what_it_runs(self, pipe: EmojiPipeline, setup: Setup, jobs: tuple[Job, ...]) -> None:
        family = speca_family(pipe, setup)

        def flops(method: AbstractContextManager[Any]) -> float:
            with method:
                return run_flops(pipe, lambda: draw(pipe, jobs)).networks

        free = flops(family.apply(pipe, self.settings(free=STEPS)))
        verified = flops(family.apply(pipe, self.settings(tau=1e9)))
        rejected = flops(family.apply(pipe, self.settings(tau=0.0)))
        with counting(pipe):
            one_step = run_flops(pipe, lambda: draw(pipe, jobs, 1)).networks
        share = (verified - free) / (STEPS - 2) / one_step
        assert 1 / 8 < share < 1 / 2, "one of four blocks, and the embedding"
        assert rejected / one_step == pytest.approx(
            STEPS + (verified - free) / one_step + (free / one_step - 2), rel=1e-6
        )


class TestL2P:
    def test_it_recovers_planted_dynamics(self) -> None:
        """F_s = 1.7 F_(s-1) - 0.8 F_(s-2) for every channel; two of every three steps are computed."""
        rng = np.random.default_rng(1)
        features = [rng.normal(size=500), rng.normal(size=500)]
        while len(features) < 9:
            features.append(1.7 * features[-1] - 0.8 * features[-2])
        stacked = np.stack(features)
        schedule = Schedule.from_steps(9, (0, 1, 3, 4, 6, 7))
        found = learnt_weights(stacked @ stacked.T, schedule, 2, ridge=1e-12)
        assert list(found) == [2, 5, 8]
        np.testing.assert_allclose(list(found.values()), [[1.7, -0.8]] * 3, rtol=1e-6)

    def test_it_is_least_squares(self) -> None:
        stacked = np.random.default_rng(2).normal(size=(8, 300))
        found = learnt_weights(stacked @ stacked.T, Schedule.every(8, 3, 3), 3, ridge=0.0)
        assert list(found) == [3, 4, 6, 7]
        for target, past in ((3, [2, 1, 0]), (4, [2, 1, 0]), (6, [5, 2, 1]), (7, [5, 2, 1])):
            expected = np.linalg.lstsq(stacked[past].T, stacked[target], rcond=None)[0]
            np.testing.assert_allclose(found[target], expected, rtol=1e-9)

    def test_ridge_by_hand(self) -> None:
        """One feature of squared norm 4 and product 2 with the target: 2 / (4 + 0.25 * 4)."""
        gram = np.array([[4.0, 2.0], [2.0, 9.0]])
        assert learnt_weights(gram, Schedule.from_steps(2, (0,)), 3, ridge=0.25) == {1: [0.4]}

    def test_the_schedule_is_the_published_rule(self, pipe: EmojiPipeline, setup: Setup, jobs: tuple[Job, ...]) -> None:
        with l2p_family(pipe, setup).apply(pipe, {"N": 4, "W": 2, "K": 2}), counting(pipe) as ran:
            draw(pipe, jobs)
        assert ran == [4, 4], "computed 0 1 5 9"

    def test_it_learns_once_from_the_fit_split(self, pipe: EmojiPipeline, setup: Setup, recorded: Trace) -> None:
        asked: list[str] = []

        def recall(name: str, make: Callable[[], Any]) -> Any:
            asked.append(name)
            return setup.recall(name, make)

        family = l2p_family(pipe, Setup(setup.jobs, STEPS, recall, setup.problem))
        for depth in (1, 2, 2):
            with family.apply(pipe, {"N": 4, "W": 2, "K": depth}):
                pass
        assert len(asked) == 3
        assert len(set(asked)) == 2
        gram = recorded.gram("fit").sum(axis=0)
        learnt = dict(setup.recall(asked[0], lambda: pytest.fail("not kept")))
        assert learnt[2][0] == pytest.approx(gram[1, 2] / gram[1, 1], rel=1e-5)

    def test_it_beats_linear_extrapolation_where_it_learnt(
        self, pipe: EmojiPipeline, setup: Setup, workload: Workload
    ) -> None:
        """On the first forecast of the fit samples, whose history is that of the full run."""
        fit = workload.of("fit")
        schedule = Schedule.every(STEPS, 4, 3)
        gram = Problem.gram(setup.problem(), "fit").sum(axis=0)
        learnt = learnt_weights(gram, schedule, 2)
        errors = {}
        for name, row in (("learnt", learnt[3]), ("linear", [2.0, -1.0])):
            kept: list[float] = []

            def answer(call: Call, row: Any = row, kept: list[float] = kept) -> Any:
                forecast = weighted(call.stream.past, row) if call.stream.step == 3 else None
                output = call.compute()
                if forecast is not None:
                    kept.append(float((forecast[0] - call.stream.past[0].feature[0]).square().sum()))
                return output

            with driven(pipe, answer):
                sample_latents(pipe, fit, STEPS, len(fit))
            errors[name] = sum(kept)
        assert errors["learnt"] < errors["linear"]


@pytest.fixture(scope="module")
def glyphs() -> GlyphPipeline:
    return tiny.glyphs()


@pytest.mark.parametrize("make", FAMILIES, ids=lambda make: make.__name__)
class TestFamilies:
    def test_the_network_is_untouched_afterwards(
        self, make: Callable[..., Family], pipe: EmojiPipeline, setup: Setup, jobs: tuple[Job, ...]
    ) -> None:
        def state() -> Any:
            modules = [
                (name, id(m), type(m), sorted(vars(m)), len(m._forward_hooks)) for name, m in network.named_modules()
            ]
            return modules, sorted(vars(pipe)), type(pipe.scheduler)

        network = pipe.transformer
        full = draw(pipe, jobs)
        before = state()  # after a run: the first call of `cache_context` leaves diffusers' registry on a network
        family = make(pipe, setup)
        assert not family.refused
        for settings in list(family.first())[::3]:
            with family.apply(pipe, settings):
                changed = draw(pipe, jobs)
            assert state() == before
            assert torch.equal(draw(pipe, jobs), full)
            assert not torch.equal(changed, full)

    def test_an_error_inside_leaves_no_trace(
        self, make: Callable[..., Family], pipe: EmojiPipeline, setup: Setup, jobs: tuple[Job, ...]
    ) -> None:
        family, full = make(pipe, setup), draw(pipe, jobs)
        with pytest.raises(ZeroDivisionError), family.apply(pipe, next(family.first())):
            raise ZeroDivisionError
        assert torch.equal(draw(pipe, jobs), full)

    def test_it_goes_on_another_pipeline_of_the_model(
        self, make: Callable[..., Family], setup: Setup, jobs: tuple[Job, ...]
    ) -> None:
        family = make(tiny.pipeline(), setup)
        settings = list(family.first())[-1]
        drawn = []
        for other in (tiny.pipeline(), tiny.pipeline()):
            with family.apply(other, settings):
                drawn.append(draw(other, jobs))
        assert torch.equal(*drawn)

    def test_settings_are_few_at_first_and_reach_far(
        self, make: Callable[..., Family], pipe: EmojiPipeline, setup: Setup
    ) -> None:
        family = make(pipe, Setup(setup.jobs, 50, setup.recall, setup.problem))
        first = list(family.first())
        assert 6 <= len(first) <= 12
        for settings in first:
            assert all(settings[axis.name] in axis.ladder for axis in family.axes)
            assert len(list(family.ways(settings))) > len(family.axes)
            assert family.edges(settings) == []

    def test_it_runs_on_a_dit(self, make: Callable[..., Family], glyphs: GlyphPipeline, setup: Setup) -> None:
        classes = Workload(demo_prompts("demo-class"), num_samples=14, num_steps=STEPS).of("select")
        full = draw(glyphs, classes)
        family = make(glyphs, setup)
        with family.apply(glyphs, next(family.first())):
            found = draw(glyphs, classes)
        assert not torch.equal(found, full)
        assert torch.isfinite(found).all()
        assert torch.equal(draw(glyphs, classes), full)

    def test_a_network_without_the_point_is_refused_with_the_reason(
        self, make: Callable[..., Family], pipe: EmojiPipeline, setup: Setup
    ) -> None:
        pipe.transformer = torch.nn.Sequential()
        family = make(pipe, setup)
        assert "has no final norm" in family.refused
        assert family.refused == refusal(pipe)
        assert list(family.first()) == []
