"""Budgets of time where steps may be computed by quantised weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from storage import record

from hyca_calib.commands.options import SearchLimits
from hyca_calib.commands.quantised_presets import _kept_shares
from hyca_calib.commands.searching import search_with
from hyca_calib.costs.budget import Budget
from hyca_calib.costs.flops import TimedOn
from hyca_calib.costs.run_seconds import RunSeconds
from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Workload
from hyca_calib.records.origins import announced_in
from hyca_calib.search.precision.calibration import known_variants
from hyca_calib.search.precision.step_seconds import step_shares
from hyca_calib.search.precision.variants import parse_variants
from hyca_calib.search.problem import Problem
from hyca_calib.search.schedules import precise_schedule
from hyca_calib.search.settings import Settings
from hyca_calib.trace.store import Trace
from hyca_runtime import load_plan
from hyca_runtime.errors import BudgetError
from hyca_runtime.schedule import DEFAULT, Action

STEPS, SETTINGS = 12, Settings(groups=1)
TIMED = RunSeconds.through(2.0, ((0.1, 0.5), (0.5, 1.3)), TimedOn("a CPU (1 thread)", "float32", 2))


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    folder = tmp_path_factory.mktemp("seconds")
    work = Workload(tiny.prompts(), num_samples=7, num_steps=STEPS, seed=3)
    record(str(folder / "t.zarr"), work, batch=2)
    found = Problem(Trace(folder / "t.zarr"))
    return replace(found, variants=known_variants(tiny.pipeline(), found, parse_variants("int8"), folder))


def taking(problem: Problem, share: float) -> Problem:
    """The same where a step by int8 weights takes a share of the time of others."""
    assert problem.variants is not None
    return replace(problem, variants=replace(problem.variants, step_shares={"int8": share}))


def scheduled(problem: Problem, budget: Budget) -> Any:
    return precise_schedule(problem, SETTINGS, budget, [np.arange(problem.trace.num_channels)], "int8")


@pytest.mark.parametrize("share", [0.3, 0.8])
@pytest.mark.parametrize("text", ["1.5x wall", "0.6s"])
def test_a_schedule_takes_no_longer_than_its_budget(problem: Problem, text: str, share: float) -> None:
    budget, cost, known = Budget.parse(text).within(TIMED), problem.trace.cost, taking(problem, share)
    actions = scheduled(known, budget).actions()
    price = {True: cost.full_flops, False: share * cost.full_flops}
    light = cost.predicted_flops(SETTINGS.depth)
    spent = sum(price[action.variant == DEFAULT] if action.computes else light for action in actions)
    assert budget.share is not None
    assert spent <= budget.share * STEPS * cost.full_flops * (1 + 1e-6)
    more = (
        share * cost.full_flops if len({action.computes for action in actions}) == 2 else (1 - share) * cost.full_flops
    )
    assert spent + more > budget.share * STEPS * cost.full_flops, "one more, or a dearer one, would not fit"


def test_what_saves_no_time_or_was_not_timed_is_refused(problem: Problem) -> None:
    budget = Budget.parse("2x wall").within(TIMED)
    with pytest.raises(BudgetError, match=r"as int8 costs 1.20 of what it costs otherwise, .* leave it out of"):
        scheduled(taking(problem, 1.2), budget)
    with pytest.raises(BudgetError, match=r"steps by int8, .* are not timed, .* use '10x bitops'"):
        scheduled(problem, budget)


def test_where_a_forecast_takes_as_long_low_steps_are_all_computed(problem: Problem) -> None:
    budget, cost = Budget.parse("2x wall").within(TIMED), problem.trace.cost
    fast = taking(problem, cost.predicted_flops(SETTINGS.depth) / cost.full_flops)
    assert all(action.computes for action in scheduled(fast, budget).actions())


def test_calls_are_timed_and_the_network_is_as_before(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, seconds = tiny.pipeline(), itertools.cycle([4.0, 1.0])

    def seconds_of(call: Callable[[], Any]) -> float:
        call()
        return next(seconds)

    monkeypatch.setattr("hyca_calib.search.precision.step_seconds.seconds_of", seconds_of)
    before = sample_latents(pipe, problem.workload.of("test"), STEPS, 2)
    found = step_shares(pipe, problem, parse_variants("int8,int8_weights:simulated"))
    assert found == {"int8": 0.25}, "a simulated variant has no time of its own"
    assert (sample_latents(pipe, problem.workload.of("test"), STEPS, 2) == before).all()


@pytest.mark.parametrize(
    ("precision", "budget", "fault"),
    [
        ("int8:simulated", "2x wall", "simulated variants save no time"),
        ("int8", "20%", "as many FLOPs; give it in bit operations or time, such as '10x bitops' or '2.5x wall'"),
    ],
)
def test_what_is_known_to_fail_is_refused_at_once(tmp_path: Path, precision: str, budget: str, fault: str) -> None:
    record(str(tmp_path / "t.zarr"), Workload(tiny.prompts(), num_samples=7, num_steps=STEPS, seed=3), batch=2)
    limits = SearchLimits(precision=precision)
    with pytest.raises(BudgetError, match=fault):
        search_with(lambda model: tiny.pipeline(), budget, [str(tmp_path / "t.zarr")], limits, tmp_path / "out")


@pytest.mark.usefixtures("unreported")
def test_what_saves_no_time_is_refused_unless_bits_are_asked_for_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was measured is kept, and a plan whose budget is not of time does not tell of it."""
    monkeypatch.chdir(tmp_path)
    record("t.zarr", Workload(tiny.prompts(), num_samples=7, num_steps=STEPS, seed=3), batch=2)
    timed = list[int]()

    def shares(pipe: Any, problem: Problem, specs: Any) -> dict[str, float]:
        timed.append(1)
        return {"int8": 1.5}

    monkeypatch.setattr("hyca_calib.commands.searching.run_seconds", lambda pipe, trace: TIMED)
    monkeypatch.setattr("hyca_calib.commands.quantised_presets.step_shares", shares)
    limits = SearchLimits(trials=1, probes=0, rollouts=3, refine=0, precision="int8", roundings=1)
    for _ in range(2):
        with pytest.raises(BudgetError, match=r"steps take no less time than others here \(int8 1.50 times as long\)"):
            search_with(lambda model: tiny.pipeline(), "2.5x wall", ["t.zarr"], limits, Path("one"), reported=False)
    assert len(timed) == 1
    pipe, problem = tiny.pipeline(), Problem(Trace("t.zarr"))
    for text, times in (("int8", 2), ("int8,int8_weights", 3), ("int8", 3)):
        _kept_shares(pipe, problem, parse_variants(text), Path("shares"))
        assert len(timed) == times, "others are not taken for these"
    bits, wall = search_with(
        lambda model: tiny.pipeline(), "9x bitops,2.5x wall", ["t.zarr"], limits, Path("two"), reported=False
    )
    assert load_plan(wall).section.variants is None
    assert load_plan(bits).section.variants is not None
    assert load_plan(bits).section.timing is None


@pytest.mark.usefixtures("unreported")
def test_a_plan_tells_the_time_of_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    record("t.zarr", Workload(tiny.prompts(), num_samples=7, num_steps=STEPS, seed=3), batch=2)
    monkeypatch.setattr("hyca_calib.commands.searching.run_seconds", lambda pipe, trace: TIMED)
    monkeypatch.setattr("hyca_calib.commands.quantised_presets.step_shares", lambda pipe, problem, specs: {"int8": 0.2})
    limits = SearchLimits(trials=1, probes=0, rollouts=3, refine=0, precision="int8", roundings=1)
    (path,) = search_with(lambda model: tiny.pipeline(), "2.5x wall", ["t.zarr"], limits, Path("out"), reported=False)
    plan = load_plan(path)
    section, told = plan.section, announced_in(plan.provenance)
    assert section.variants is not None, "steps at a fifth of the time are worth having"
    assert told is not None
    assert section.timing is not None
    low = section.schedule.palette.index(Action(variant="int8"))
    full = next(i for i, action in enumerate(section.schedule.palette) if action.computes and action.variant == DEFAULT)
    assert section.timing.seconds[low] == pytest.approx(0.2 * section.timing.seconds[full])
    assert told.seconds <= 2.0 / 2.5 * 1.001
    assert section.flops_ratio is not None
    assert told.seconds < TIMED.of(1 / section.flops_ratio)
