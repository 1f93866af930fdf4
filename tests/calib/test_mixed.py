"""Schedules of which steps may run a part of the network: exact, within their budget, replayed and rolled out alike."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from guided import KINDS, STEPS, smooth

from hyca_calib.commands.options import SearchLimits
from hyca_calib.commands.searching import search_plans
from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.recompute import levels_of, recomputing
from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Workload
from hyca_calib.search.assemble import build_section
from hyca_calib.search.candidate import Candidate, partition
from hyca_calib.search.mixed import FreeGaps, MixedGaps, best_mixed, filled
from hyca_calib.search.preconditioner import coordinates
from hyca_calib.search.problem import Problem
from hyca_calib.search.replay import mixed_cost
from hyca_calib.search.rollout_search import neighbours
from hyca_calib.search.rows import plan_taps, rows_of
from hyca_calib.search.schedules import branch_schedule, mixed_schedules
from hyca_calib.search.settings import Settings
from hyca_calib.search.tap_rollout import TapRollout
from hyca_calib.search.taps import fit_solver
from hyca_calib.search.tune import solve
from hyca_calib.trace.run import trace
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan, apply_plan, load_plan
from hyca_runtime.errors import BudgetError, StudyError, TraceError
from hyca_runtime.point import parse_point
from hyca_runtime.schedule import COMPUTE, EVERY, FEATURE, Action, Schedule

STEPS_SMALL = 8
NAMES = (FEATURE, "behind:1", "behind:2")
POINTS = tuple(map(parse_point, ("trunk", "behind:1", "behind:2")))


def endings(schedule: Schedule, units: tuple[int, ...], budget: int) -> list[Schedule]:
    """All ways to let the last steps of each gap forecast another point than the first, within a budget."""
    palette, ends = (COMPUTE, *(Action(forecast=(name,)) for name in NAMES)), [*schedule.computed_steps, STEPS_SMALL]
    ways = []
    for here, there in itertools.pairwise(ends):
        gap = there - here - 1
        ways.append([(0, 0), *((p, q) for p in range(1, len(units) + 1) for q in range(1, gap + 1))])
    found = []
    for way in itertools.product(*ways):
        if sum(units[p - 1] * q for p, q in way if q) > budget:
            continue
        table = [0 if step in schedule.computed_steps else 1 for step in range(STEPS_SMALL)]
        for (p, q), there in zip(way, ends[1:], strict=True):
            table[there - q : there] = [1 + p] * q
        found.append(Schedule(palette=palette, tables={EVERY: tuple(table)}))
    return found


@pytest.mark.parametrize(("units", "budget"), [((1,), 2), ((1,), 3), ((1, 2), 3), ((2, 3), 5)])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("count", [2, 3])
def test_equals_brute_force(units: tuple[int, ...], budget: int, depth: int, count: int) -> None:
    steps, points = STEPS_SMALL, 1 + len(units)
    gram, times = smooth(steps, 2, points)
    weights = np.linspace(1, 2, steps)
    fit = [gram[:, p * steps : (p + 1) * steps, p * steps : (p + 1) * steps] for p in range(points)]
    gaps = MixedGaps(fit, gram, times, weights, depth, 1e-3, steps, units, budget)
    found, schedule = best_mixed(gaps, NAMES, {count: budget}, 1)[count]
    assert filled(gaps, NAMES, schedule.computed_steps, budget) == schedule

    def replayed(wanted: Schedule) -> float:
        solvers = {
            name: [fit_solver(g[None], wanted, times, depth, 1e-3) for g in fit[p]]
            for p, name in enumerate(NAMES[:points])
        }
        return float(mixed_cost(gram, wanted, times, weights, NAMES[:points], solvers).sum())

    assert len(schedule.computed_steps) == count
    spent = sum(units[p] * len(schedule.steps_of(name)) for p, name in enumerate(NAMES[1:points]))
    assert 0 < spent <= budget
    assert found == pytest.approx(replayed(schedule), rel=1e-7)
    costs = [
        replayed(one)
        for rest in itertools.combinations(range(1, steps), count - 1)
        for one in endings(Schedule.from_steps(steps, (0, *rest)), units, budget)
    ]
    assert found == pytest.approx(min(costs), rel=1e-7)


@pytest.mark.parametrize(("units", "budget"), [((1,), 2), ((1, 2), 3)])
@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("count", [1, 3])
def test_of_few_steps_all_ways_are_looked_at(units: tuple[int, ...], budget: int, depth: int, count: int) -> None:
    steps, points = 6, 1 + len(units)
    gram, times = smooth(steps, 2, points)
    weights = np.linspace(1, 2, steps)
    fit = [gram[:, p * steps : (p + 1) * steps, p * steps : (p + 1) * steps] for p in range(points)]
    names, prices = NAMES[:points], (0, 0, *units)
    gaps = FreeGaps(fit, gram, times, weights, depth, 1e-3, steps, units, budget)
    found, schedule = best_mixed(gaps, NAMES, {count: budget}, 1)[count]

    def replayed(wanted: Schedule) -> float:
        solvers = {
            name: [fit_solver(g[None], wanted, times, depth, 1e-3) for g in fit[p]] for p, name in enumerate(names)
        }
        return float(mixed_cost(gram, wanted, times, weights, names, solvers).sum())

    palette = (COMPUTE, *(Action(forecast=(name,)) for name in names))
    tables = (
        (0, *rest)
        for rest in itertools.product(range(len(palette)), repeat=steps - 1)
        if rest.count(0) == count - 1 and sum(prices[action] for action in rest) <= budget
    )
    costs = [replayed(Schedule(palette=palette, tables={EVERY: table})) for table in tables]
    assert found == pytest.approx(replayed(schedule), rel=1e-7)
    assert found == pytest.approx(min(costs), rel=1e-7)
    assert (
        found
        <= best_mixed(
            MixedGaps(**{name: getattr(gaps, name) for name in MixedGaps.__dataclass_fields__}),
            NAMES,
            {count: budget},
            1,
        )[count][0]
    )


@pytest.fixture(scope="module", params=KINDS)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Problem]:
    make, prompts = KINDS[request.param]
    path = tmp_path_factory.mktemp("mixed") / "t.zarr"
    work = Workload(prompts, 14, STEPS, 1)
    trace(make(), work, POINTS, path, model_name="t", batch=4, tokens=1000, across=True)
    return make(), Problem(Trace(path), partial=POINTS[1:])


def test_products_are_those_of_the_features(subject: tuple[Any, Problem]) -> None:
    """Of all points and branches, as the stored tokens, which are all there are, say."""
    _, problem = subject
    trace_ = problem.trace
    values = [trace_.at(point).values("fit") for point in POINTS]  # (sample, branch, step, token, channel)
    rows = np.concatenate(
        [of.transpose(4, 1, 2, 0, 3).reshape(of.shape[4], -1, of[:, 0, 0, :, 0].size) for of in values], 1
    )
    joint = np.concatenate([rows, np.ones_like(rows[:, :1])], 1).astype(np.float64)
    np.testing.assert_allclose(
        trace_.gram_across("fit", POINTS), joint @ joint.transpose(0, 2, 1), rtol=1e-4, atol=1e-3
    )
    swapped = trace_.gram_across("fit", POINTS[::-1])
    size = len(trace_.branches) * STEPS
    np.testing.assert_array_equal(swapped[:, :size, :size], trace_.at(POINTS[2]).joint_gram("fit")[:, :-1, :-1])
    np.testing.assert_allclose(problem.select, problem.at(POINTS[0]).select, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("text", ["2x", "3x", "3.3x"])
def test_a_budget_is_spent(subject: tuple[Any, Problem], text: str) -> None:
    """Up to less than the cheapest part of a step; whole steps leave more."""
    problem, budget, settings = subject[1], Budget.parse(text), Settings(groups=2)
    (candidate,) = solve(problem, settings, [budget], 0)
    section = build_section(candidate)
    together = candidate.moved(mixed_schedules(problem, settings, budget, candidate.groups)[0])
    assert build_section(together).flops_ratio == pytest.approx(section.flops_ratio, rel=0.05)
    assert section.action_flops is not None
    assert section.flops_ratio is not None
    assert budget.share is not None
    full = section.action_flops[0]
    parts = [problem.at(point).trace.cost.tail_flops for point in POINTS]
    spare = STEPS * full * (budget.share - 1 / section.flops_ratio)
    assert 0 <= spare < parts[1] - parts[0]
    whole = build_section(solve(Problem(problem.trace), Settings(groups=2), [budget], 0)[0])
    assert whole.flops_ratio is not None
    assert whole.flops_ratio >= section.flops_ratio


@pytest.fixture
def mixed(subject: tuple[Any, Problem]) -> Candidate:
    palette = (COMPUTE, *(Action(forecast=(name,)) for name in NAMES))
    schedule = Schedule(palette=palette, tables={EVERY: (0, 0, 1, 2, 0, 1, 1, 2, 0, 1, 3, 1)})
    return Candidate(subject[1], Settings(groups=2), schedule)


@pytest.mark.parametrize("sources", ["own", "all"])
def test_a_rollout_does_what_the_runtime_does(subject: tuple[Any, Problem], mixed: Candidate, sources: str) -> None:
    pipe, problem = subject
    section = build_section(mixed.moved(sources=sources, repay=0.5))
    assert {row.point for row in rows_of(section)} == set(NAMES)
    assert section.is_joint == (sources == "all")
    jobs = problem.workload.of("fit")[:2]
    plan = Plan(name="mixed", sections=(section,))
    with apply_plan(pipe, plan, "error") as session:
        driven = sample_latents(pipe, jobs, STEPS, 2)
        report = session.report()
    assert (report.computed, report.partly) == (4, 3)
    gradients = list[torch.Tensor]()
    for level in levels_of(pipe.transformer):
        with recomputing(pipe.transformer, level), TapRollout(pipe, section, level != "nothing") as rollout:
            taps = torch.from_numpy(plan_taps(section)).float().requires_grad_()
            rollout.follow(taps)
            with torch.enable_grad():
                rolled = sample_latents(pipe, jobs, STEPS, 2, with_grad=True)
            torch.testing.assert_close(rolled.detach(), driven, rtol=1e-3, atol=1e-4)
            (gradient,) = torch.autograd.grad(rolled.square().sum(), taps)
        assert (gradient.abs().flatten(1).sum(1) > 0).all(), "every row has a part in it"
        gradients.append(gradient)
    assert len(gradients) == 3
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-3, atol=1e-3 * gradients[0].abs().max().item())
    begin, expand = coordinates(problem, section, "channel")
    np.testing.assert_allclose(expand(begin).numpy(), plan_taps(section), rtol=1e-4, atol=1e-5)


@pytest.fixture
def apart(subject: tuple[Any, Problem]) -> Candidate:
    """Branches that are computed on steps of their own."""
    problem = replace(subject[1], partial=(), apart=True)
    return replace(solve(problem, Settings(groups=2), [BUDGET], 0)[0], schedule=branch_schedule_of(problem))


BUDGET = Budget.parse("3x")


def branch_schedule_of(problem: Problem) -> Schedule:
    settings = Settings(groups=2)
    return branch_schedule(problem, settings, BUDGET, partition(problem, settings, 0))


def test_branches_are_computed_on_steps_of_their_own(subject: tuple[Any, Problem], apart: Candidate) -> None:
    """The cheapest of all pairs of schedules, within the budget; a rollout does what the runtime does."""
    pipe, problem = subject[0], apart.problem
    counts = [len(apart.schedule.of(branch).computed_steps) for branch in problem.trace.branches]
    cost = problem.trace.cost
    light = cost.predicted_flops(3)
    spent = sum(count * (cost.full_flops - light) / 2 for count in counts) + STEPS * light
    assert 0 <= STEPS * cost.full_flops / 3 - spent < cost.full_flops / 2
    section = build_section(apart.moved(repay=0.5))
    assert {row.branch for row in rows_of(section)} == set(problem.trace.branches)
    jobs = problem.workload.of("fit")[:2]
    with apply_plan(pipe, Plan(name="apart", sections=(section,)), "error") as session:
        driven = sample_latents(pipe, jobs, STEPS, 2)
        ratio = session.report().flops_ratio
    assert ratio == pytest.approx(section.flops_ratio, rel=1e-6)
    with TapRollout(pipe, section, checkpointed=False), torch.no_grad():
        rolled = sample_latents(pipe, jobs, STEPS, 2)
    torch.testing.assert_close(rolled, driven, rtol=1e-3, atol=1e-4)
    moves = neighbours(apart.schedule, 1)
    assert {
        branch
        for one in moves
        for branch in problem.trace.branches
        if one.tables[branch] != apart.schedule.tables[branch]
    } == set(problem.trace.branches)


def test_pairs_of_schedules_are_the_cheapest_there_are(subject: tuple[Any, Problem], apart: Candidate) -> None:
    """Against all schedules of both branches with as many calls, cost as `Candidate` replays it with fitted taps."""
    problem, calls = apart.problem, sum(len(apart.schedule.of(b).computed_steps) for b in apart.problem.trace.branches)
    rng, branches = np.random.default_rng(0), problem.trace.branches

    def fitted_cost(schedule: Schedule) -> float:
        parts = apart.moved(schedule).parts.values()
        return float(sum(sum(found.costs["fitted"]) for found in parts if found.costs))

    best = fitted_cost(apart.schedule)
    for _ in range(200):
        first = int(rng.integers(max(1, calls // 2 - 1), calls // 2 + 2))
        drawn = [
            sorted({0, *(1 + rng.choice(STEPS - 1, count - 1, replace=False)).tolist()})
            for count in (first, calls - first)
        ]
        tables = {b: Schedule.from_steps(STEPS, own).tables[EVERY] for b, own in zip(branches, drawn, strict=True)}
        other = Schedule(palette=apart.schedule.palette, tables={EVERY: tables[branches[0]], **tables})
        assert fitted_cost(other) >= best * (1 - 1e-9)


def test_its_cost_is_that_of_both_points_errors_together(mixed: Candidate) -> None:
    """A schedule of whole steps costs the same, whatever the palette; a part in place of a forecast costs something."""
    problem = mixed.problem
    whole = Schedule.from_steps(STEPS, mixed.schedule.computed_steps)
    named = Schedule(palette=mixed.schedule.palette, tables=whole.tables)
    assert mixed.moved(named).cost == pytest.approx(Candidate(problem, mixed.settings, whole).cost, rel=1e-9)
    assert mixed.cost < mixed.moved(named).cost


def test_moves_keep_what_a_schedule_costs(mixed: Candidate) -> None:
    found = neighbours(mixed.schedule, 1)
    assert mixed.schedule not in found
    assert {tuple(sorted(one.tables[EVERY])) for one in found} == {tuple(sorted(mixed.schedule.tables[EVERY]))}
    assert all(one.palette == mixed.schedule.palette and one.tables[EVERY][0] == 0 for one in found)
    assert any(one.computed_steps == mixed.schedule.computed_steps for one in found), "a part moves, too"


def test_the_command_makes_a_plan_of_its_palette(tmp_path: Path) -> None:
    work = Workload(KINDS["one call"][1], 14, STEPS, 1)
    trace(
        tiny.glyphs(), work, POINTS[:2], tmp_path / "t.zarr", model_name="tiny:glyphs", batch=4, tokens=8, across=True
    )
    few: dict[str, Any] = {"trials": 2, "probes": 0, "confirm": 5, "rollouts": 3, "refine": 5, "iterations": 1}
    limits = SearchLimits(palette="trunk,behind:1", model="tiny:glyphs", **few)
    (path,) = search_plans("3.3x", [str(tmp_path / "t.zarr")], limits, tmp_path / "study")
    section = load_plan(path).section
    assert set(section.places) <= {FEATURE, "behind:1"}
    ratio = section.flops_ratio
    assert ratio is not None
    assert ratio >= 3.3 / 1.021
    assert (path.parent / "pictures" / "schedule.png").exists()


def test_refusals(tmp_path: Path, subject: tuple[Any, Problem]) -> None:
    where, out = subject[1].trace.where, tmp_path / "s"
    for palette in ("behind:1,trunk", "trunk,behind:1,behind:1", "trunk,", "branches", "trunk,trunk:residual"):
        with pytest.raises(BudgetError, match="expected trunk, then points behind first blocks"):
            search_plans("3x", [where], SearchLimits(palette=palette), out)
    with pytest.raises(TraceError, match="trace again with --point trunk,behind:3 --across"):
        search_plans("3x", [where], SearchLimits(palette="trunk,behind:3"), out)
    with pytest.raises(StudyError, match="--palette is for --preset best"):
        search_plans("3x", [where], SearchLimits(palette="trunk", preset="hold"), out)
    work = Workload(KINDS["one call"][1], 14, 4, 1)
    points = tuple(map(parse_point, ("trunk", "output")))
    with pytest.raises(TraceError, match="same channels and tokens"):
        trace(tiny.glyphs(), work, points, tmp_path / "o", model_name="t", batch=4, tokens=8, across=True)
    plain = Workload(tuple({"class_labels": label, "guidance_scale": 1.0} for label in range(4)), 14, 4, 1)
    trace(tiny.glyphs(), plain, POINTS[:2], tmp_path / "p", model_name="t", batch=4, tokens=8)
    with pytest.raises(TraceError, match="has no guidance whose branches"):
        search_plans("3x", [str(tmp_path / "p")], SearchLimits(palette="trunk,branches"), out)
    with pytest.raises(TraceError, match="has no products of points"):
        search_plans("3x", [str(tmp_path / "p")], SearchLimits(palette="trunk,behind:1"), out)
