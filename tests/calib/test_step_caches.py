"""Step caches as presets: what is fitted on full runs, and the threshold for a budget."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import tiny
import torch
from numpy.typing import NDArray
from plans import changed
from spies import Witness
from torch import nn

from hyca_calib.baselines.cache_dit import DualBlock
from hyca_calib.commands.asked import Asked
from hyca_calib.commands.options import SearchLimits
from hyca_calib.commands.presets import OFFERS, preset_of
from hyca_calib.costs.budget import Budget
from hyca_calib.demo import demo_pipeline, demo_prompts
from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.pipelines.by_hand import hand_plan
from hyca_calib.pipelines.rollout import followed, sample_latents
from hyca_calib.pipelines.workload import Workload
from hyca_calib.quality.evaluate import evaluate_plan, run_untimed
from hyca_calib.search import kept_runs
from hyca_calib.search.problem import Problem
from hyca_calib.search.step_caches import magcache, mixcache, search, teacache, tries
from hyca_calib.search.step_caches.dbcache import DBCache, FirstBlockCache
from hyca_calib.search.step_caches.h2cache import H2Cache
from hyca_calib.search.step_caches.impact import effects
from hyca_calib.search.step_caches.magcache import MagCache
from hyca_calib.search.step_caches.mixcache import MixCache, leading_branch, middle_blocks
from hyca_calib.search.step_caches.seacache import SeaCache, token_grid
from hyca_calib.search.step_caches.simulated import SampleRun, cheapest_run
from hyca_calib.search.step_caches.stack import deciding_section, measure_stack
from hyca_calib.search.step_caches.teacache import TeaCache, fit_polynomial
from hyca_calib.search.study import StudyFolder
from hyca_calib.search.watched_run import WatchedCall
from hyca_calib.trace.run import trace
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan
from hyca_runtime.attach.late import Probe
from hyca_runtime.errors import AttachError, BudgetError, StudyError
from hyca_runtime.moment import Moment
from hyca_runtime.plan_facts import Quality
from hyca_runtime.point import CachePoint, parse_point
from hyca_runtime.schedule import Schedule
from hyca_runtime.solvers import Taylor

Array = NDArray[np.float64]

GUIDED = tuple({**prompt, "true_cfg_scale": 3.0} for prompt in tiny.prompts())
PRESETS = ("dbcache", "magcache", "mixcache", "seacache", "teacache")


@pytest.fixture
def problem(recorded: Trace) -> Problem:
    return Problem(recorded)


def make(pipe: EmojiPipeline, problem: Problem, folder: Path, preset: str, budget: str, **options: Any) -> Plan:
    """What ``hyca search`` does with a preset."""
    limits = SearchLimits(preset=preset, **options)
    wanted = Budget.parse(budget)
    maker = OFFERS[preset].prepare(Asked(pipe, [problem], [wanted], limits, folder))
    return maker(wanted, StudyFolder.open(folder / "study", {}))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few samples and halvings: quick."""
    monkeypatch.setattr(tries, "SAMPLES", 2)
    monkeypatch.setattr(search, "HALVINGS", 3)
    for module in (magcache, teacache):
        monkeypatch.setattr(module, "FIT_SAMPLES", 2)
    monkeypatch.setattr(mixcache, "SAMPLES", 1)


def test_easier_settings_are_tried_as_long_as_they_agree_better() -> None:
    tried = list[float]()

    def coming(*found: float) -> Iterator[Any]:
        for psnr in found:
            tried.append(psnr)
            yield SimpleNamespace(psnr_db=psnr)

    assert [one.psnr_db for one in search._climbed(coming(33.0, 36.0, 38.0, 37.0, 50.0))] == [33.0, 36.0, 38.0, 37.0]
    assert tried == [33.0, 36.0, 38.0, 37.0], "no threshold is looked for in vain"
    assert not search._climbed(coming())


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("preset", PRESETS)
def test_a_budget_is_met_on_average_and_no_run_goes_beyond_the_bound(
    pipe: EmojiPipeline, problem: Problem, tmp_path: Path, preset: str
) -> None:
    plan = make(pipe, problem, tmp_path, preset, "2x")
    section, jobs = plan.section, problem.workload.of("select")[:2]
    assert section.policy is not None
    most, shares = section.policy.max_computed, []
    assert most is not None
    for job in jobs:
        with followed(pipe, plan) as session:
            sample_latents(pipe, [job], problem.workload.num_steps, 1)
            report = session.report()
        assert report.flops_ratio is not None
        assert max(count.computed for count in report.streams.values()) <= most < problem.trace.num_steps
        assert report.bytes_ahead is not None
        assert 0 < report.cache_bytes <= report.bytes_ahead
        shares.append(1 / report.flops_ratio)
    assert 1 / 3 < statistics.fmean(shares) <= 0.5
    account = StudyFolder.open(tmp_path / "study", {}).read_result()
    assert account["flops_ratios"] == sorted(round(1 / share, 3) for share in shares)[: len(account["flops_ratios"])]
    assert account["settings"]["threshold"] == section.policy.configuration["threshold"]


@pytest.mark.usefixtures("few")
def test_budgets_share_thresholds_but_not_their_accounts(
    pipe: EmojiPipeline, problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = DBCache(warmup=1)
    stack = measure_stack(pipe, problem, rule)[1]
    ran: list[float] = []
    simulated = cheapest_run(stack, rule, 1.0, problem.trace.num_steps)

    def run(_: Any, rule: Any, threshold: float, job: Any) -> SampleRun:
        ran.append(threshold)
        return simulated.model_copy(update={"share": max(simulated.share, 1 - threshold)})

    monkeypatch.setattr(tries.Tries, "_run", run)

    def thresholds(budget: str, name: str, order: int = 0) -> list[float]:
        study = StudyFolder.open(tmp_path / name, {})
        found = [(replace(rule, order=order), stack)]
        search.search_threshold(pipe, problem, Budget.parse(budget), study, found, folder=tmp_path)
        return [one["threshold"] for one in study.read_result()["thresholds"]]

    alone = thresholds("1.25x", "alone")
    assert len(ran) == 2 * len(alone)
    thresholds("1.5x", "other")
    before = len(ran)
    assert thresholds("1.25x", "again") == alone
    assert len(ran) == before, "nothing is run twice"
    assert thresholds("1.25x", "order 1", order=1) == alone
    assert len(ran) == before + 2 * len(alone), "another forecast, other runs"


@pytest.mark.parametrize("preset", PRESETS)
def test_what_nothing_can_meet_is_refused_without_a_run(
    pipe: EmojiPipeline, problem: Problem, tmp_path: Path, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in (TeaCache, MagCache, MixCache):
        monkeypatch.setattr(kind, "fitted", lambda *_: pytest.fail("calibrated"))
    monkeypatch.setattr(tries.Tries, "_run", lambda *_: pytest.fail("a run"))
    with pytest.raises(BudgetError, match=rf"cannot be met by {preset}: [0-9.]+x is the most; ask for less"):
        make(pipe, problem, tmp_path, preset, "11x")


@pytest.mark.usefixtures("few")
def test_h2cache_meets_a_budget(pipe: EmojiPipeline, problem: Problem, tmp_path: Path) -> None:
    plan = make(pipe, problem, tmp_path, "h2cache", "1.25x")
    section, jobs = plan.section, problem.workload.of("select")[:2]
    assert {name: str(at) for name, at in section.places.items()} == {
        "structure": "span:transformer_blocks.1..transformer_blocks.1:residual",
        "detail": "behind:3",
    }
    assert section.policy is not None
    full, detail, both = section.action_flops or ()
    assert both < detail < full
    shares = []
    for job in jobs:
        with followed(pipe, plan) as session:
            latents = sample_latents(pipe, [job], problem.workload.num_steps, 1)
            report = session.report()
        with followed(pipe, Plan.model_validate_json(plan.model_dump_json())):
            assert torch.equal(sample_latents(pipe, [job], problem.workload.num_steps, 1), latents), "saved and loaded"
        (count,) = report.streams.values()
        assert count.computed <= (section.policy.max_computed or 0) < problem.trace.num_steps
        assert report.bytes_ahead is not None
        assert 0 < report.cache_bytes <= report.bytes_ahead
        shares.append(1 / (report.flops_ratio or 1.0))
    assert statistics.fmean(shares) <= 1 / 1.25
    account = StudyFolder.open(tmp_path / "study", {}).read_result()
    assert account["flops_ratios"] == sorted(round(1 / share, 3) for share in shares)
    assert account["settings"]["split"] == 2
    usual = round(section.flops_ratio or 0.0, 3)
    assert usual in account["flops_ratios"], "the schedule is that of a run, detail by detail"
    with pytest.raises(BudgetError, match=r"cannot be met by h2cache: [0-9.]+x is the most; ask for less"):
        make(pipe, problem, tmp_path / "more", "h2cache", "3x")


@pytest.mark.usefixtures("few")
def test_the_contender_that_agrees_best_is_taken(
    pipe: EmojiPipeline, problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = measure_stack(pipe, problem, MagCache())[1]
    contenders = [(MagCache(consecutive=most), stack) for most in (2, 4, 3)]
    monkeypatch.setattr(MagCache, "easier", lambda self: (self,))

    def judged(_: Any, __: Any, section: Any) -> Any:
        quality = Quality(split="select", num_samples=1, psnr_db=section.policy.configuration["consecutive"])
        return section.model_copy(update={"quality": quality})

    monkeypatch.setattr(search, "judged", judged)
    study = StudyFolder.open(tmp_path / "study", {})
    plan = search.search_threshold(pipe, problem, Budget.parse("1.5x"), study, contenders)
    assert plan.section.policy is not None
    assert plan.section.policy.configuration["consecutive"] == 4
    assert [one["psnr_db"] for one in study.read_result()["contenders"]] == [2, 4, 3]


@pytest.mark.parametrize(
    ("doubles", "singles", "splits"), [(2, 2, [2]), (19, 38, [19]), (4, 2, [2, 3, 4]), (6, 1, [2, 4, 5])]
)
def test_splits_of_h2cache_suit_the_network(doubles: int, singles: int, splits: list[int]) -> None:
    network = tiny.pipeline(blocks=1).transformer
    for name, number in (("transformer_blocks", doubles), ("single_transformer_blocks", singles)):
        setattr(network, name, nn.ModuleList(nn.Identity() for _ in range(number)))
    assert [rule.split for rule in H2Cache.released(network)] == splits


def test_a_network_that_h2cache_cannot_part() -> None:
    with pytest.raises(AttachError, match=r"two blocks in the first list .* transformer_blocks has 1 of 2"):
        H2Cache.released(tiny.pipeline(blocks=1).transformer)


def test_h2cache_tells_at_once_what_the_network_does_not_allow(pipe: EmojiPipeline, problem: Problem) -> None:
    with pytest.raises(AttachError, match=r"ends at single_transformer_blocks\.1, behind the 3 blocks"):
        measure_stack(pipe, problem, H2Cache("single_transformer_blocks", 2))


def test_dbcache_with_taylorseer(pipe: EmojiPipeline, problem: Problem) -> None:
    rule, stack = measure_stack(pipe, problem, DBCache(order=2))
    section = deciding_section(problem, stack, rule, 0.1, [0], None)
    assert section.places == {"stack": parse_point("behind:1")}
    assert section.forecast.groups["*"][0].solver == Taylor(2).spec()
    held = measure_stack(pipe, problem, DBCache())[1]
    assert stack.light_flops - held.light_flops == 2 * 2 * stack.numels["stack"], "two features more are weighed"
    assert [each.warmup for each in DBCache().easier()] == [8, 4, 2, 1]


@pytest.mark.parametrize(("blocks", "front"), [(2, 1), (10, 2), (29, 8)])
def test_front_blocks_of_dbcache_suit_the_network(blocks: int, front: int) -> None:
    network = tiny.pipeline(blocks=blocks).transformer
    assert DBCache.released(network, 0).blocks == front


def test_what_is_asked_in_vain(pipe: EmojiPipeline) -> None:
    with pytest.raises(StudyError, match="--order is for --preset dbcache, got --preset magcache"):
        preset_of(SearchLimits(preset="magcache", order=1))
    with pytest.raises(StudyError, match=r"unknown preset .teacach.; did you mean .teacache"):
        preset_of(SearchLimits(preset="teacach"))
    with pytest.raises(AttachError, match="no list of blocks"):
        DBCache.released(pipe.transformer.x_embedder, 0)


def test_seacache_knows_noise_and_tokens(pipe: EmojiPipeline, problem: Problem) -> None:
    rule, _ = measure_stack(pipe, problem, SeaCache())
    assert isinstance(rule, SeaCache)
    assert (rule.grid, rule.power, rule.levels) == ((4, 4), 2.0, tuple(problem.trace.sigmas[:-1].tolist()))
    assert [each.consecutive for each in rule.easier()] == [2, 4, 9, None]


def call_of(tokens: int, *latents: int, **kwargs: Any) -> WatchedCall:
    probe = cast("Probe", SimpleNamespace(reached=torch.zeros(1, tokens, 2)))
    return WatchedCall((torch.zeros(latents),), kwargs, True, ("", 0), 0, {}, None, probe)


@pytest.mark.parametrize(
    ("config", "call", "expected"),
    [
        ({"patch_size": 2}, call_of(12, 1, 3, 6, 8), (3, 4)),
        ({"patch_size": (1, 2, 2)}, call_of(24, 1, 3, 2, 6, 8), (2, 3, 4)),
        ({"patch_size": 2, "patch_size_t": None}, call_of(12, 1, 3, 1, 6, 8), (3, 4)),
        (
            {},
            call_of(6, 1, 6, 8, img_ids=torch.cartesian_prod(torch.arange(1), torch.arange(2), torch.arange(3))),
            (2, 3),
        ),
    ],
)
def test_the_grid_of_tokens(config: dict[str, Any], call: WatchedCall, expected: tuple[int, ...]) -> None:
    network: Any = nn.Identity()
    network.config = config
    assert token_grid(network, call) == expected


@pytest.mark.parametrize(
    ("call", "told"), [(call_of(20, 1, 3, 6, 8), "20 come out of .* tells of 3 x 4"), (call_of(9, 1, 9, 4), "no grid")]
)
def test_tokens_that_seacache_cannot_place(call: WatchedCall, told: str) -> None:
    network: Any = nn.Identity()
    network.config = {"patch_size": 2}
    with pytest.raises(AttachError, match=told):
        token_grid(network, call)


def test_seacache_wants_levels_of_noise() -> None:
    problem = cast("Problem", SimpleNamespace(trace=SimpleNamespace(sigmas=np.array([900.0, 500.0, 0.0]))))
    with pytest.raises(AttachError, match="the trace's scheduler does not tell it"):
        SeaCache().fitting(problem, nn.Identity(), call_of(12, 1, 3, 6, 8))


class Watched:
    """Full runs of the first two jobs of the fit split, sample by sample: of each call what a witness saw."""

    def __init__(self, pipe: EmojiPipeline, workload: Workload) -> None:
        self.runs = list[Witness]()
        self.outputs = list[list[Array]]()
        for job in workload.of("fit")[:2]:
            seen, outputs = Witness(pipe.transformer, 1), list[Array]()
            hook = pipe.transformer.register_forward_hook(lambda *a, o=outputs: o.append(a[-1][0].double().numpy()))
            with torch.no_grad():
                sample_latents(pipe, [job], workload.num_steps, 1)
            hook.remove()
            seen.remove()
            self.runs.append(seen)
            self.outputs.append(outputs)


def relative_changes(tensors: list[Any]) -> list[float]:
    arrays = [np.asarray(t, np.float64) for t in tensors]
    return [float(np.abs(b - a).mean() / np.abs(a).mean()) for a, b in itertools.pairwise(arrays)]


def test_the_polynomial_of_teacache(
    pipe: EmojiPipeline, problem: Problem, workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacache, "FIT_SAMPLES", 2)
    fitted = TeaCache().fitted(pipe, problem, tmp_path, lambda share: None)
    seen = Watched(pipe, workload)
    inputs = np.concatenate([relative_changes(run.reached) for run in seen.runs])
    outputs = np.concatenate([relative_changes(run) for run in seen.outputs])
    assert fitted.within == pytest.approx((inputs.min(), inputs.max()), rel=1e-4)
    expected = np.poly1d(np.polyfit(inputs, outputs, 4))(inputs)
    np.testing.assert_allclose(np.poly1d(fitted.coefficients)(inputs), expected, rtol=1e-3)
    monkeypatch.setattr(kept_runs, "write_json", lambda *_: pytest.fail("a run"))
    assert TeaCache().fitted(pipe, problem, tmp_path, lambda share: None) == fitted, "what was measured is kept"


def test_the_ratios_of_magcache(
    pipe: EmojiPipeline, problem: Problem, workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the published formula: over tokens the mean of the norm over that of the step before."""
    monkeypatch.setattr(magcache, "FIT_SAMPLES", 2)
    fitted = dict(MagCache().fitted(pipe, problem, tmp_path, lambda share: None).ratios)
    expected = []
    for run in Watched(pipe, workload).runs:
        residuals = [(b - a).double().numpy() for a, b in zip(run.entered, run.ended, strict=True)]
        norms = [np.linalg.norm(residual, axis=-1) for residual in residuals]
        expected.append([1.0, *(float((b / a).mean()) for a, b in itertools.pairwise(norms))])
    assert fitted.keys() == {"*", "cond"}
    np.testing.assert_allclose(fitted["*"], np.mean(expected, axis=0), rtol=1e-5)


def test_the_run_of_magcache_is_known_without_one(pipe: EmojiPipeline, problem: Problem) -> None:
    """Two branches whose ratios differ, exactly."""
    steps, rng = problem.trace.num_steps, np.random.default_rng(1)
    ratios = tuple((branch, tuple(rng.normal(1, 0.1, steps).tolist())) for branch in ("*", "cond", "uncond"))
    rule, stack = measure_stack(pipe, problem, MagCache(ratios, retained=0.1))
    run = cheapest_run(stack, rule, 0.2, steps)
    with followed(pipe, Plan(name="x", sections=(deciding_section(problem, stack, rule, 0.2, [0], None),))) as session:
        pipe("red heart", num_inference_steps=steps, true_cfg_scale=3.0, output_type="latent")
        report = session.report()
    assert report.flops_ratio == pytest.approx(1 / run.share)
    assert report.computed_at == run.computed
    assert max(count.computed for count in report.streams.values()) == run.most < len(run.computed) < steps


def test_magcache_counts_a_branch_on_the_steps_on_which_it_is_called() -> None:
    """Of guidance on some steps: one that is never asked is not saved."""
    steps, rng = 12, np.random.default_rng(1)
    branches, calls = ("*", "cond", "uncond"), (("cond", tuple(range(steps))), ("uncond", (4, 5, 6, 7)))
    ratios = tuple((branch, tuple(rng.normal(1, 0.1, steps).tolist())) for branch in branches)
    rule, stack = MagCache(ratios, calls, retained=0.1), SimpleNamespace(share=lambda of: of)
    for threshold in (0.05, 0.2, 10.0):
        run, policy = cheapest_run(stack, rule, threshold, steps), rule.policy(threshold)  # type: ignore[arg-type]
        computed = dict.fromkeys(branches, 0)
        for branch, called in calls:
            state = policy.begin()
            for place, step in enumerate(called):
                before = called[place - 1] if place else -1
                moment = Moment(0, float(step), float(before), steps, branch)
                action, state = policy.decide(state, moment, Schedule.from_steps(steps, [0]))
                computed[branch] += action.computes
        assert run.share == sum(computed.values()) / (steps + 4)


class Interval(EmojiPipeline):
    """Guides on some steps alone."""

    def _flowed(self, latents: Any, branches: Any, scale: float, callback: Any, names: Any, times: Any = None) -> Any:
        self.scheduler.set_begin_index(0)

        def velocity(latents: torch.Tensor, step: int, timestep: torch.Tensor) -> torch.Tensor:
            found = {}
            for name in ("cond", "uncond") if 2 <= step < 8 else ("cond",):
                with self.transformer.cache_context(name):
                    time = times(timestep.expand(len(latents)))
                    found[name] = self.transformer(latents, timestep=time, **branches[name], return_dict=False)[0]
            free = found.get("uncond", found["cond"])
            return torch.as_tensor(free + scale * (found["cond"] - free))

        return self._denoised(latents, velocity, callback, names)


@pytest.mark.usefixtures("few")
def test_magcache_keeps_its_budget_where_a_branch_is_called_on_some_steps(tmp_path: Path) -> None:
    pipe, path = tiny.as_kind(Interval), tmp_path / "interval.zarr"
    trace(pipe, Workload(GUIDED, 7, 12, 3), CachePoint(), path, model_name="interval", batch=4, tokens=10_000)
    problem = Problem(Trace(path))
    for budget in ("1.2x", "1.5x"):
        plan = make(pipe, problem, tmp_path / budget, "magcache", budget)
        with followed(pipe, plan) as session:
            sample_latents(pipe, problem.workload.of("select")[:1], 12, 1)
        spent = session.report().flops_ratio
        assert spent is not None
        assert float(budget[:-1]) <= spent < 1.3 * float(budget[:-1])


@pytest.mark.parametrize("demanding", [1.0, 0.5, 1.5, 3.0])
def test_the_least_threshold_is_found_however_the_first_samples_differ(
    pipe: EmojiPipeline, problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demanding: float
) -> None:
    """A sample's cost falls evenly with the threshold; of the first it falls slower, or faster."""
    rule = DBCache(warmup=1)
    stack = measure_stack(pipe, problem, rule)[1]
    simulated, order = cheapest_run(stack, rule, 1.0, problem.trace.num_steps), problem.samples("select").jobs
    monkeypatch.setattr(tries, "FEW", 1)
    assert len(order) > 1

    def share(place: int, threshold: float) -> float:
        return max(simulated.share, 1 - threshold / (1.0 if place else demanding) / 2)

    def run(_: Any, rule: Any, threshold: float, sample: Any) -> SampleRun:
        spent = share(order.index(sample.jobs[0]), threshold)
        return simulated.model_copy(update={"share": spent, "psnr_db": 30.0})

    monkeypatch.setattr(tries.Tries, "_run", run)
    found = search.find_threshold(pipe, problem, Budget.parse("1.5x"), StudyFolder.open(tmp_path, {}), [(rule, stack)])
    spent = np.mean([share(place, found.best.tried.threshold) for place in range(len(order))])
    assert 0.98 / 1.5 <= spent <= 1 / 1.5


def test_firstblockcache_is_dbcache_with_one_block_and_no_warmup() -> None:
    rule = FirstBlockCache()
    assert rule.policy(0.1) == DBCache(blocks=1, warmup=0).policy(0.1)
    assert rule.easier() == (rule,)
    assert str(rule.point) == "behind:1"


def test_a_polynomial_of_few_changes() -> None:
    assert fit_polynomial(np.array([]), np.array([])) == (TeaCache().coefficients, TeaCache().within)
    coefficients, within = fit_polynomial(np.array([0.2, 0.2]), np.array([0.1, 0.3]))
    assert within == (0.2, 0.2)
    assert coefficients == pytest.approx((0.2,))
    coefficients, within = fit_polynomial(np.array([1.0, 2.0, 3.0]), np.array([2.0, 5.0, 10.0]))
    assert within == (1.0, 3.0)
    assert coefficients == pytest.approx((1.0, 0.0, 1.0), abs=1e-9)
    assert replace(TeaCache(), coefficients=coefficients).policy(0.5).change(2.0) == pytest.approx(5.0)


CALIBRATORS = {0: "", 1: " + TaylorSeer"}
"""What cache-dit forecasts by, for the orders of the preset."""


def with_threshold(pipe: Any, rule: DBCache, threshold: float, draw: Callable[[], Any]) -> Plan:
    """A plan of the rule for the runs of `draw`."""
    section = hand_plan(pipe, rule.point, draw, lambda steps: [0]).section
    points = {"feature": rule.forecast(section.forecast.num_channels)}
    return changed(Plan(name="x", sections=(section,)), points=points, policy=rule.policy(threshold).spec())


def of_cache_dit(rule: DBCache, threshold: float) -> dict[str, float]:
    """The same settings in its words."""
    own = {"Fn_compute_blocks": rule.blocks, "max_warmup_steps": rule.warmup, "max_continuous_cached_steps": -1}
    return {"residual_diff_threshold": threshold, **own}


@pytest.mark.parametrize("order", CALIBRATORS)
def test_dbcache_is_that_of_cache_dit(order: int) -> None:
    """Its own differences begin at the fourth step, as far as the warm-up goes here."""
    pytest.importorskip("cache_dit")
    steps, theirs_pipe, pipe = 16, tiny.glyphs(), tiny.glyphs()

    def draw(pipe: Any) -> torch.Tensor:
        call: dict[str, Any] = {"output_type": "latent", "return_dict": False, "num_inference_steps": steps}
        drawn: torch.Tensor = pipe("A", guidance_scale=1.0, generator=torch.Generator().manual_seed(1), **call)[0]
        return drawn

    rule = DBCache(warmup=4, order=order)
    with DualBlock(CALIBRATORS[order], steps).enabled(theirs_pipe, {"O": order}, of_cache_dit(rule, 0.2)):
        theirs = draw(theirs_pipe)
    with followed(pipe, with_threshold(pipe, rule, 0.2, lambda: draw(pipe))) as session:
        torch.testing.assert_close(draw(pipe), theirs, rtol=0, atol=1e-5 * order)
        assert 4 < session.report().computed < steps - 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "options", "threshold", "separate"),
    [
        ("demo", {}, 0.2, False),
        ("demo-class", {"guidance_scale": 1.0}, 0.2, False),
        ("demo-class", {}, 0.3, False),
        ("demo-video", {"num_frames": 8}, 0.2, True),
    ],
    ids=["demo", "demo-class without guidance", "demo-class", "demo-video"],
)
def test_dbcache_is_that_of_cache_dit_on_trained_models(
    model: str, options: dict[str, Any], threshold: float, separate: bool
) -> None:
    """A sample alone, for cache-dit decides by the mean over the batch, and the preset by the sample that changes
    most. Both guidance branches of demo-class are such a batch: at this threshold both ways decide alike.
    """
    pytest.importorskip("cache_dit")
    steps, pipe = 12, demo_pipeline(model)
    pipe.set_progress_bar_config(disable=True)
    jobs = Workload(tuple(call | options for call in demo_prompts(model)), 7, steps).of("test")[:1]
    full = run_untimed(pipe, jobs, steps, 1, nullcontext)
    for order, calibrator in CALIBRATORS.items():
        rule = replace(DBCache.released(pipe.transformer, order), warmup=4)
        plan = with_threshold(pipe, rule, threshold, lambda: sample_latents(pipe, jobs[:1], steps, 1))
        cache, settings = DualBlock(calibrator, steps, separate), of_cache_dit(rule, threshold)
        ours = run_untimed(pipe, jobs, steps, 1, lambda: followed(pipe, plan))  # noqa: B023  (called at once)
        theirs = run_untimed(pipe, jobs, steps, 1, lambda: cache.enabled(pipe, {"O": order}, settings))  # noqa: B023
        assert ours.flops.networks < 0.9 * full.flops.networks, "it acts"
        assert ours.flops.networks == pytest.approx(theirs.flops.networks, rel=0.02)
        assert ours.fidelity_to(full).agreement_db == pytest.approx(theirs.fidelity_to(full).agreement_db, abs=0.3)


CLASSES = tuple({"class_labels": letter, "guidance_scale": 3.0} for letter in "ABCDEF")


@pytest.fixture(scope="module")
def guided(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Problem]]:
    """A pipeline whose guidance branches are called apart, or in one call, with a trace of it."""

    @cache
    def make(kind: str) -> tuple[Any, Problem]:
        pipe: Any = tiny.pipeline() if kind == "apart" else tiny.glyphs()
        work = Workload(GUIDED if kind == "apart" else CLASSES, num_samples=7, num_steps=12, seed=3)
        path = tmp_path_factory.mktemp("traces") / "guided.zarr"
        trace(pipe, work, CachePoint(), path, model_name=kind, batch=4, tokens=10_000)
        return pipe, Problem(Trace(path))

    return make


Guided = Callable[[str], tuple[Any, Problem]]


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("kind", "lead", "other", "budget"), [("apart", "cond", "uncond", "1.25x"), ("stacked", "1/2", "2/2", "1.7x")]
)
def test_mixcache_with_guidance(
    guided: Guided, tmp_path: Path, kind: str, lead: str, other: str, budget: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tries, "SAMPLES", 1)
    pipe, problem = guided(kind)
    rule, stack = measure_stack(pipe, problem, MixCache.released(pipe.transformer, problem)[0])
    rule, study = rule.fitted(pipe, problem, tmp_path, lambda share: None), StudyFolder.open(tmp_path / "study", {})
    plan = search.search_threshold(pipe, problem, Budget.parse(budget), study, [(rule, stack)])
    section, (job,) = plan.section, problem.workload.of("select")[:1]
    assert section.policy is not None
    assert section.policy.configuration["lead"] == lead
    assert {*section.policy.configuration["impact"]} == {"step", "branch", "block"}
    assert section.points["output"].against == {other: lead}
    assert {name: str(at) for name, at in section.places.items()} == {
        "block": "span:transformer_blocks.1..transformer_blocks." + ("1:residual" if kind == "apart" else "2:residual"),
        "output": "output",
    }
    with followed(pipe, plan) as session:
        latents = sample_latents(pipe, [job], problem.workload.num_steps, 1)
        report = session.report()
    with followed(pipe, Plan.model_validate_json(plan.model_dump_json())):
        assert torch.equal(sample_latents(pipe, [job], problem.workload.num_steps, 1), latents), "saved and loaded"
    counts = {branch: count for (_, branch, _, _), count in report.streams.items()}
    assert counts[other].computed < counts[lead].computed <= (section.policy.max_computed or 0)
    assert report.flops_ratio is not None
    assert report.flops_ratio >= float(budget[:-1])
    assert section.flops_ratio == pytest.approx(report.flops_ratio), "the schedule is that of a run, branch by branch"
    jobs = problem.workload.of("test")
    found, _, _ = evaluate_plan(pipe, plan, jobs, problem.workload.num_steps, len(jobs))
    full = run_untimed(pipe, jobs, problem.workload.num_steps, len(jobs), nullcontext)
    run = run_untimed(pipe, jobs, problem.workload.num_steps, len(jobs), lambda: followed(pipe, plan))
    assert found.flops_ratio == pytest.approx(full.flops.networks / run.flops.networks), "of the very runs it judges"
    assert 0 < report.cache_bytes <= (report.bytes_ahead or 0)
    monkeypatch.setattr(kept_runs, "write_json", lambda *_: pytest.fail("a run"))
    released = MixCache.released(pipe.transformer, problem)
    every = [each.fitted(pipe, problem, tmp_path, lambda share: None) for each in released]
    assert [each.uses[1:] for each in every] == [("branch", "block"), ("branch",), ("block",), ()]
    impacts = [dict(each.impact) for each in every]
    assert impacts == [section.policy.configuration["impact"]] * 4, "what was measured is kept, and shared"


def test_a_larger_disturbance_has_a_larger_effect(guided: Guided) -> None:
    pipe, problem = guided("apart")
    rule, job = MixCache.released(pipe.transformer, problem)[0], problem.workload.of("fit")[0]
    small, large = (effects(pipe, problem, rule._there, "cond", job, size) for size in (0.01, 0.1))
    for granularity in ("step", "branch", "block"):
        assert 0.01 * small[granularity][0][0] < 0.1 * large[granularity][0][0]
    again = effects(pipe, problem, rule._there, "cond", job, 0.01)
    assert again == small, "the noise is that of the sample"


@pytest.mark.parametrize(
    ("branches", "guidance", "stacked", "network", "told"),
    [
        (["cond"], (1.0,), 1, "", "there is one guidance branch"),
        (["cond", "uncond"], (), 1, "", "how guidance weighs its branches is not known"),
        (["uncond", "cond"], (-2.0, 3.0), 1, "", "'cond', which the others would follow, is called after 'uncond'"),
        (["1/2", "2/2"], (3.0, -2.0), 2, "OmniGenTransformer2DModel", "cannot be cut along their batch"),
    ],
)
def test_guidance_that_has_no_branch_granularity(
    branches: list[str], guidance: tuple[float, ...], stacked: int, network: str, told: str
) -> None:
    with pytest.raises(AttachError, match=told):
        leading_branch(network, branches, guidance, stacked)


def test_who_leads() -> None:
    assert leading_branch("", ["1/2", "2/2"], (-2.0, 3.0), 2) == "2/2"
    assert leading_branch("", ["cond", "uncond", "other"], (3.0, -2.0, 0.0), 1) == "cond"


@pytest.mark.parametrize(
    ("doubles", "singles", "span"),
    [
        (2, 2, "transformer_blocks.1..transformer_blocks.1"),
        (28, 0, "transformer_blocks.7..transformer_blocks.20"),
        (4, 8, "single_transformer_blocks.1..single_transformer_blocks.6"),
        (19, 38, "single_transformer_blocks.5..single_transformer_blocks.33"),
        (1, 1, ""),
    ],
)
def test_blocks_of_mixcache_suit_the_network(doubles: int, singles: int, span: str) -> None:
    network = tiny.pipeline(blocks=1).transformer
    for name, number in (("transformer_blocks", doubles), ("single_transformer_blocks", singles)):
        setattr(network, name, nn.ModuleList(type(network.transformer_blocks[0])(32, 2, 16) for _ in range(number)))
    assert middle_blocks(network) == span


def test_fewer_granularities_are_for_budgets_that_want_them(pipe: EmojiPipeline, problem: Problem) -> None:
    every = MixCache.released(pipe.transformer, problem)
    assert [(rule.uses, rule.spare) for rule in every] == [(("step", "block"), False), (("step",), True)]
    assert every[0].notes == ("no branch granularity: there is one guidance branch",)
    assert [(rule.warmup, rule.initial, rule.longest) for rule in every[0].easier()][:2] == [(4, 2, 6), (2, 2, 6)]
