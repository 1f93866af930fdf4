"""Computed steps in two precisions: priced, their noise traced and weighed, schedules exact, rolled out and refined."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from guided import KINDS, STEPS, smooth
from torch import Tensor, nn

from hyca_calib.commands.options import SearchLimits
from hyca_calib.commands.searching import search_plans
from hyca_calib.costs.bits import bit_operations, own_bits_of
from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Workload
from hyca_calib.search.assemble import build_section
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.precision.calibration import known_variants
from hyca_calib.search.precision.paths import LOW, OWN, Computed, PreciseGaps, cheapest
from hyca_calib.search.precision.straight_through import StraightThrough
from hyca_calib.search.precision.variants import (
    KnownVariants,
    parse_variants,
    phases_in_turn,
    with_noise,
    with_roundings,
)
from hyca_calib.search.problem import Problem
from hyca_calib.search.rollout_search import neighbours
from hyca_calib.search.rows import plan_taps
from hyca_calib.search.schedules import precise_schedule
from hyca_calib.search.settings import Settings
from hyca_calib.search.tap_rollout import TapRollout, activation_bytes
from hyca_calib.search.taps import fit_solver
from hyca_calib.trace.run import trace
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan, apply_plan, load_plan
from hyca_runtime.attach.quantised import quantised
from hyca_runtime.errors import BudgetError, StudyError
from hyca_runtime.flop_count import count_flops
from hyca_runtime.point import CachePoint
from hyca_runtime.schedule import COMPUTE, DEFAULT, EVERY, FEATURE, Action, Schedule
from hyca_runtime.variant import VariantSpec

pytest.importorskip("torchao")
SMALL = 7
INT8 = VariantSpec(scheme="int8")
SETTINGS = Settings(groups=1, depth=2)


def test_bit_operations_are_those_of_the_operands() -> None:
    known = KnownVariants({"low": INT8}, 32, {"low": 800.0}, {})
    assert known.bits(1000.0, COMPUTE) == 500 * 32 * 32
    assert known.bits(1000.0, Action(variant="low")) == 100 * 32 * 32 + 400 * 8 * 8
    assert known.bits(10.0, Action(forecast=(FEATURE,))) == 5 * 32 * 32
    weights = replace(known, specs={"low": VariantSpec(scheme="int4_weights")}, own_bits=16)
    assert weights.bits(1000.0, Action(variant="low")) == 100 * 16 * 16 + 400 * 4 * 16
    assert bit_operations(2.0, 16) == 256
    assert own_bits_of(nn.Linear(4, 4, dtype=torch.bfloat16)) == 16


def test_budgets_of_bit_operations() -> None:
    budget = Budget.parse("20 x bitops")
    assert (budget.text, budget.share, budget.measure) == ("20xbitops", 0.05, "bitops")
    assert Budget.parse("5%bitops").share == 0.05
    with pytest.raises(BudgetError, match="5x bitops"):
        Budget.parse("10 steps bitops")


def test_flops_of_quantised_layers_are_counted() -> None:
    layer, x = nn.Linear(32, 48), torch.randn(5, 32)
    with torch.no_grad():
        for spec in (INT8, VariantSpec(scheme="int8_weights"), VariantSpec(scheme="fp8", simulated=True)):
            made = quantised(layer, spec)
            assert count_flops(partial(made, x)) == 2 * 5 * 32 * 48


def test_gradients_go_straight_through_and_numbers_stay() -> None:
    layer, x = nn.Linear(32, 48), torch.randn(5, 32, requires_grad=True)
    made = quantised(layer, INT8)
    through = StraightThrough(made, layer)
    found = through(x)
    assert torch.equal(found, made(x.detach()))
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert torch.allclose(gradient, layer.weight.sum(0).expand(5, -1))


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(("count", "own"), [(2, 0), (2, 1), (3, 1), (3, 3)])
def test_equals_brute_force(depth: int, count: int, own: int) -> None:
    gram, times = smooth(SMALL, 2, 1)
    weights, rng = np.linspace(1, 2, SMALL), np.random.default_rng(0)
    noise = np.einsum("gss->gs", gram) * rng.uniform(1e-5, 1e-3, (2, SMALL))
    gaps = PreciseGaps(gram, gram, noise, noise, times, weights, depth, 1e-3, SMALL)
    cost, computed = cheapest(gaps.tables(), {count: own}, 1)[count]

    def replayed(way: Computed) -> float:
        low = np.array([dict(way).get(step) == LOW for step in range(SMALL)])
        noisy = with_noise(gram, noise * low)
        schedule, total = Schedule.from_steps(SMALL, [step for step, _ in way]), 0.0
        ends = [*schedule.computed_steps[1:], SMALL]
        for g, (here, there) in itertools.product(range(2), zip(schedule.computed_steps, ends, strict=True)):
            of_features, of_errors = np.zeros(SMALL), np.zeros(SMALL)
            of_errors[here] += weights[here]
            solver = fit_solver(noisy[g : g + 1], schedule, times, depth, 1e-3)
            for step in range(here + 1, there):
                past = schedule.history(step, depth)
                row = solver.weights[solver.steps.index(step), : len(past), 0]
                of_features[list(past)] += weights[step] * row
                of_errors[list(past)] += weights[step] * row
                of_features[step] -= weights[step]
            total += of_features @ gram[g] @ of_features + (noise[g] * low * of_errors**2).sum()
        return float(total)

    assert len(computed) == count
    assert sum(precision == OWN for _, precision in computed) <= own
    assert cost == pytest.approx(replayed(computed), rel=1e-6)
    ways = [
        tuple(zip((0, *rest), precisions, strict=True))
        for rest in itertools.combinations(range(1, SMALL), count - 1)
        for precisions in itertools.product((OWN, LOW), repeat=count)
        if precisions.count(OWN) <= own
    ]
    assert cost == pytest.approx(min(map(replayed, ways)), rel=1e-6)


@pytest.fixture(scope="module", params=KINDS)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Problem]:
    make, prompts = KINDS[request.param]
    folder = tmp_path_factory.mktemp("precision")
    work = Workload(prompts, 14, STEPS, 1)
    trace(make(), work, CachePoint(), folder / "t.zarr", model_name="t", batch=4, tokens=1000)
    problem = Problem(Trace(folder / "t.zarr"))
    known = known_variants(make(), problem, parse_variants("int8"), folder)
    kept = (folder / "variant_noise.json").read_bytes()
    again = known_variants(None if known is None else make(), problem, parse_variants("int8"), folder)
    assert np.array_equal(again.noise["int8"], known.noise["int8"])
    assert (folder / "variant_noise.json").read_bytes() == kept
    return make(), replace(problem, variants=known)


def low_schedule(problem: Problem, budget: str) -> Schedule:
    groups = [np.arange(problem.trace.num_channels)]
    return precise_schedule(problem, SETTINGS, Budget.parse(budget), groups, "int8")


def test_noise_is_that_of_the_network(subject: tuple[Any, Problem]) -> None:
    _, problem = subject
    known, cost = problem.variants, problem.trace.cost
    assert known is not None
    assert known.noise["int8"].shape == (problem.trace.num_channels, len(problem.trace.branches), STEPS)
    share = known.noise["int8"].sum() / np.einsum("css->", problem.fit)
    assert 1e-6 < share < 1e-2
    assert 0.3 * cost.full_flops < known.quantised["int8"] < cost.full_flops


def test_noise_stands_on_the_diagonal_of_what_low_steps_are(subject: tuple[Any, Problem]) -> None:
    _, problem = subject
    table = (0, 1, 2) + (1,) * (STEPS - 3)
    palette = (COMPUTE, Action(forecast=(FEATURE,)), Action(variant="int8"))
    noisy = problem.under(Schedule(palette=palette, tables={EVERY: table}))
    assert problem.under(Schedule.from_steps(STEPS, (0, 2))) is problem
    assert problem.variants is not None
    difference = noisy.fit - problem.fit
    expected = np.zeros_like(difference)
    expected[:, 2, 2] = problem.variants.noise["int8"][..., 2].sum(axis=1)
    np.testing.assert_allclose(difference, expected, atol=1e-9 * np.abs(problem.fit).max())
    weights = problem.trace.guidance if problem.trace.crossed and len(problem.trace.guidance) > 1 else [1.0]
    judged = (noisy.select - problem.select)[:, 2, 2]
    np.testing.assert_allclose(
        judged,
        np.einsum("cb,b->c", problem.variants.noise["int8"][..., 2], np.square(weights)),
        rtol=1e-5,
        atol=1e-9 * np.abs(problem.select).max(),
    )


@pytest.mark.parametrize("text", ["2xbitops", "8xbitops"])
def test_a_budget_is_kept_and_the_runtime_computes_so(subject: tuple[Any, Problem], text: str) -> None:
    pipe, problem = subject
    budget, schedule = Budget.parse(text), low_schedule(problem, text)
    section = build_section(Candidate(problem, SETTINGS, schedule))
    assert budget.share is not None
    assert section.bits_ratio is not None
    assert section.bits_ratio >= 1 / budget.share - 1e-9
    assert section.variants == {"int8": INT8}
    samples = problem.samples("select")
    with apply_plan(pipe, Plan(name="low", sections=(section,)), on_mismatch="error") as session:
        sample_latents(pipe, samples.jobs, samples.num_steps, len(samples.jobs))
        report = session.report()
    assert report.bits_ratio == pytest.approx(section.bits_ratio)
    low = sum(action.variant == "int8" for action in schedule.actions())
    assert report.computed == sum(action.computes for action in schedule.actions())
    assert sum(n for of in report.streams.values() for a, n in of.actions.items() if a.variant != DEFAULT) == low * len(
        report.streams
    )


def test_taps_are_shorter_where_their_history_is_noisy(subject: tuple[Any, Problem]) -> None:
    _, problem = subject
    assert problem.variants is not None
    loud = replace(problem.variants, noise={"int8": 3e3 * problem.variants.noise["int8"]})
    schedule = low_schedule(problem, "8xbitops")
    quiet, damped = (
        plan_taps(build_section(Candidate(of, replace(SETTINGS, ridge=1e-6), schedule)))
        for of in (problem, replace(problem, variants=loud))
    )
    assert np.square(damped).sum() < np.square(quiet).sum()


def test_refinement_sees_the_quantised_run(subject: tuple[Any, Problem]) -> None:
    """The driver of refinement runs what the runtime does, and gradients pass quantised steps."""
    pipe, problem = subject
    section = build_section(Candidate(problem, SETTINGS, low_schedule(problem, "8xbitops")))
    samples = problem.samples("select")
    with apply_plan(pipe, Plan(name="low", sections=(section,))):
        expected = sample_latents(pipe, samples.jobs, samples.num_steps, len(samples.jobs))
    with TapRollout(pipe, section, checkpointed=False), torch.no_grad():
        found = sample_latents(pipe, samples.jobs, samples.num_steps, len(samples.jobs))
    assert torch.allclose(found, expected, atol=2e-3 * expected.abs().max().item())
    assert activation_bytes(pipe, section, samples.num_steps, samples.jobs[0]) > 0


@pytest.mark.parametrize(
    ("number", "phases"), [(1, (0,)), (2, (0, 0.5)), (3, (0, 2 / 3, 1 / 3)), (4, (0, 0.5, 0.25, 0.75))]
)
def test_roundings_follow_each_other_far_apart(number: int, phases: tuple[float, ...]) -> None:
    assert phases_in_turn(number) == phases
    assert with_roundings(INT8, number) == INT8.model_copy(update={"phases": phases, "asymmetric": True})
    assert with_roundings(VariantSpec(scheme="fp8"), number) == VariantSpec(scheme="fp8")


def test_errors_of_low_steps_in_turn_do_not_add_up(subject: tuple[Any, Problem]) -> None:
    """Nearly all steps with weights of 8 bits: less is left of that in the sample with more roundings."""
    pipe, problem = subject
    assert problem.variants is not None
    samples, drawn = problem.samples("select"), dict[int, Tensor]()
    for number in (0, 1, 4):
        palette = (COMPUTE, Action(forecast=(FEATURE,)), Action(variant="int8" if number else DEFAULT))
        schedule = Schedule(palette=palette, tables={EVERY: tuple(1 if step == 3 else 2 for step in range(STEPS))})
        low = with_roundings(VariantSpec(scheme="int8_weights"), max(number, 1))
        known = replace(problem.variants, specs={"int8": low})
        section = build_section(Candidate(replace(problem, variants=known), SETTINGS, schedule))
        with apply_plan(pipe, Plan(name="low", sections=(section,))):
            drawn[number] = sample_latents(pipe, samples.jobs, samples.num_steps, len(samples.jobs))
    assert (drawn[4] - drawn[0]).norm() < 0.7 * (drawn[1] - drawn[0]).norm()


def test_moves_exchange_precisions() -> None:
    palette = (COMPUTE, Action(forecast=(FEATURE,)), Action(variant="int8"))
    schedule = Schedule(palette=palette, tables={EVERY: (0, 2, 0, *(1,) * (STEPS - 3))})
    tables = {moved.tables[EVERY][:4] for moved in neighbours(schedule, 1)}
    assert (0, 0, 2, 1) in tables
    assert (0, 1, 0, 2) in tables


@pytest.mark.usefixtures("unreported")
@pytest.mark.parametrize("ratio", [4, 10])
def test_the_command_searches_plans_of_two_precisions(tmp_path: Path, ratio: int) -> None:
    """The second is one that no single step of the network's own precision keeps."""
    work = Workload(tiny.prompts()[:4], 7, 8, 1)
    trace(tiny.pipeline(), work, CachePoint(), tmp_path / "t.zarr", model_name="tiny:pipeline", batch=4, tokens=1)
    quick = SearchLimits(
        trials=1, probes=0, rollouts=2, refine=5, iterations=1, precision="int8", model="tiny:pipeline"
    )
    (path,) = search_plans(f"{ratio}x bitops", [str(tmp_path / "t.zarr")], quick, tmp_path / "out")
    section = load_plan(path).section
    assert section.bits_ratio is not None
    assert section.bits_ratio > ratio / 1.03
    assert section.timing is None or section.variants is None, "quantised steps were not timed"


@pytest.mark.parametrize(
    ("precision", "budget", "fault"),
    [
        ("int3", "4x bitops", "expected int8, int8_weights"),
        ("int8,int8", "4x bitops", "each once"),
        ("int8:fast", "4x bitops", "perhaps with :simulated"),
        ("int8", "4x", "as many FLOPs; give it in bit operations"),
        ("int8", "100x bitops", r"computing one of 8 steps as int8 is [0-9.]+x already; ask for less"),
        ("fp8", "4x bitops", "--roundings is of int8 and int8_weights, got --precision fp8"),
        (None, "4x", "--roundings 4 is of quantised weights; give --precision"),
    ],
)
def test_what_cannot_be_searched_is_refused(tmp_path: Path, precision: str | None, budget: str, fault: str) -> None:
    work = Workload(tiny.prompts()[:4], 7, 8, 1)
    trace(tiny.pipeline(), work, CachePoint(), tmp_path / "t.zarr", model_name="tiny:pipeline", batch=4, tokens=1)
    limits = SearchLimits(precision=precision, model="tiny:pipeline", roundings=4 if "roundings" in fault else 2)
    with pytest.raises(BudgetError, match=fault):
        search_plans(budget, [str(tmp_path / "t.zarr")], limits, tmp_path / "out")
    assert not (tmp_path / "out" / "plan.json").exists()


@pytest.mark.parametrize("preset", ["cachequant", "quantcache"])
def test_recipes_that_do_not_time_steps_refuse_budgets_of_time(tmp_path: Path, preset: str) -> None:
    work = Workload(tiny.prompts()[:4], 7, 8, 1)
    trace(tiny.pipeline(), work, CachePoint(), tmp_path / "t.zarr", model_name="tiny:pipeline", batch=4, tokens=1)
    limits = SearchLimits(preset=preset, model="tiny:pipeline")
    with pytest.raises(BudgetError, match=f"{preset} does not time quantised steps; use 2x or '10x bitops'"):
        search_plans("2x wall", [str(tmp_path / "t.zarr")], limits, tmp_path / "out")


def test_recipes_do_not_take_precisions(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="--precision is for --preset best"):
        search_plans("4x bitops", ["nowhere"], SearchLimits(precision="int8", preset="hyca"), tmp_path)
