"""Budgets of time: what they allow, what plans announce, and what evaluating says of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from storage import record

from hyca_calib.commands.describing import describe
from hyca_calib.commands.options import EvaluateOptions, SearchLimits
from hyca_calib.commands.plans import evaluate_file
from hyca_calib.commands.searching import search_with
from hyca_calib.costs.budget import Budget
from hyca_calib.costs.flops import CostModel, TimedOn
from hyca_calib.costs.run_seconds import RunSeconds
from hyca_calib.pipelines.workload import Job, Workload
from hyca_calib.quality.evaluate import timed_calls
from hyca_calib.records.origins import Announced, announced_in
from hyca_calib.search.run_seconds import kept_seconds, run_seconds
from hyca_calib.trace.store import Trace
from hyca_runtime import load_plan
from hyca_runtime.errors import BudgetError, StudyError

ON = TimedOn("a CPU (1 thread)", "float32", 2)
TIMED = RunSeconds.through(2.0, ((0.1, 0.5), (0.5, 1.3)), ON)


def test_a_line_through_two_runs() -> None:
    assert TIMED.fixed == pytest.approx(0.3)
    assert TIMED.slope == pytest.approx(2.0)
    assert TIMED.of(0.25) == pytest.approx(0.8)
    assert TIMED.share_within(0.8) == pytest.approx(0.25)
    assert TIMED.share_within(9.0) == 1.0
    assert RunSeconds(1.0, 0.5, -0.1, ON).share_within(0.9) == 0.0, "nothing is known where less takes longer"


@pytest.mark.parametrize(("text", "share"), [("0.8s", 0.25), ("2.5x wall", 0.25), ("1xwall", 0.85)])
def test_time_becomes_a_share(text: str, share: float) -> None:
    budget = Budget.parse(text, 0.02)
    assert (budget.needs_seconds, budget.text, budget.tolerance) == (True, text.replace(" ", ""), 0.0)
    with pytest.raises(BudgetError, match="only search and calibrate measure"):
        budget.most_flops(1000.0, 4.0, 50)
    within = budget.within(TIMED)
    assert within.share == pytest.approx(share)
    assert not within.needs_seconds
    assert within.announced(0.2)["announced"] == {
        "seconds": pytest.approx(0.7),
        "full_seconds": 2.0,
        "device": ON.device,
        "dtype": "float32",
        "batch": 2,
    }


def test_what_cannot_be_met() -> None:
    with pytest.raises(BudgetError, match=r"2.5 s of a sample on a CPU .*, but the full run takes 2 s; no plan"):
        Budget.parse("2.5s").within(TIMED)
    with pytest.raises(BudgetError, match=r"what runs beside the network takes 0.3 s; allow more"):
        Budget.parse("0.3s").within(TIMED)
    cost = CostModel(full_flops=1000.0, tail_flops=4.0, feature_numel=0, full_seconds=1.0, predicted_seconds=0.01)
    with pytest.raises(BudgetError, match=r"'5xwall' .* one of 8 steps takes 0.557 s of a sample already, 2 s in full"):
        Budget.parse("5x wall").within(TIMED).computed_steps(cost, 8, 3)
    with pytest.raises(BudgetError, match="above 0 seconds"):
        Budget.parse("0s")
    with pytest.raises(BudgetError, match="more than the full run"):
        Budget.parse("0.5x wall")
    assert Budget.parse("5x").within(TIMED) == Budget.parse("5x")
    assert Budget.parse("5x").announced(0.2) == {}


def test_a_plan_announces_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("".join(f"{call['prompt']}\n" for call in tiny.prompts()))
    record("t.zarr", Workload(tiny.prompts(), num_samples=7, num_steps=12, seed=3), batch=2)
    limits, timed = SearchLimits(preset="hold"), list[RunSeconds]()

    def measure(pipe: Any, trace: Trace) -> RunSeconds:
        found = run_seconds(pipe, trace)  # whose figures on a busy machine are anybody's guess
        assert found.timed_on.batch == 2
        assert found.full > 0
        timed.append(TIMED)
        return TIMED

    monkeypatch.setattr("hyca_calib.commands.searching.run_seconds", measure)
    for _ in range(2):  # the second finds all complete
        (path,) = search_with(
            lambda model: tiny.pipeline(), "2.5x wall", ["t.zarr"], limits, Path("study"), reported=False
        )
    assert len(timed) == 1
    assert kept_seconds(path.parent, Trace("t.zarr")) == TIMED
    record("other.zarr", Workload(tiny.prompts(), num_samples=7, num_steps=12, seed=4), batch=2)
    assert kept_seconds(path.parent, Trace("other.zarr")) is None, "what was timed for another trace"
    plan = load_plan(path)
    told, ratio = announced_in(plan.provenance), plan.section.flops_ratio
    assert told is not None
    assert ratio is not None
    assert told.seconds == pytest.approx(TIMED.of(1 / ratio))
    assert told.seconds <= 2.0 / 2.5 < TIMED.of(1 / ratio + 1 / 12)
    assert describe(str(path))["announced"].endswith(f"2 s in full, on {ON.device} in float32, batches of 2")
    found = evaluate_file(EvaluateOptions(path, "tiny:pipeline", tmp_path / "prompts.txt", samples=2))
    assert found.seconds is not None
    heard = capsys.readouterr().err.replace("\n", " ")
    assert (
        f"announced {told.seconds:.3g} s a sample, on {ON.device} in batches of 2; measured {found.seconds:.3g} s"
        in heard
    )
    with pytest.raises(BudgetError, match="take one process"):
        search_with(lambda model: tiny.pipeline(), "1s", ["t.zarr"], replace(limits, workers=2), Path("other"))


def test_a_replaced_trace_is_not_that_of_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its path is the same, and the model or the workload another."""
    monkeypatch.chdir(tmp_path)
    limits, workload = SearchLimits(preset="hold"), Workload(tiny.prompts(), num_samples=7, num_steps=12, seed=3)

    def search() -> Path:
        found = search_with(lambda model: tiny.pipeline(), "2x", ["t.zarr"], limits, Path("study"), reported=False)
        return found[0]

    record("t.zarr", workload)
    plan = search().read_bytes()
    record("t.zarr", workload, overwrite=True)
    assert search().read_bytes() == plan, "the same once more"
    for pipe, other in ((tiny.pipeline(seed=1), workload), (tiny.pipeline(), replace(workload, seed=4))):
        record("t.zarr", other, pipe, overwrite=True)
        with pytest.raises(StudyError, match="a study with another content of traces"):
            search()


def test_what_a_plan_took_is_told_apart_from_a_machine_that_became_slower() -> None:
    told = Announced(seconds=0.2, full_seconds=0.5, device="a CPU", dtype="float32", batch=8)
    assert told.beside(0.231, 0.55) == (
        "announced 0.2 s a sample; measured 0.231 s (+15.5 %), while the full run took 0.55 s where 0.5 s were timed "
        "(+10.0 %): +5.0 % are the plan's"
    )


def test_seconds_of_a_sample_are_those_of_the_largest_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = tuple(Job(i, "test", i, {"prompt": f"{i}"}) for i in range(5))
    clock = iter([0.0, 4.0, 10.0, 16.0, 20.0, 29.0])  # two calls of two samples, then one of one
    monkeypatch.setattr("hyca_calib.quality.evaluate.time.perf_counter", lambda: next(clock))
    monkeypatch.setattr("hyca_calib.quality.evaluate.sample_images", lambda *asked: asked[1])
    parts, seconds = timed_calls(None, jobs, 4, 2)
    assert [len(part) for part in parts] == [2, 2, 1]
    assert seconds == 2.5


def test_others_tell_nothing() -> None:
    assert announced_in({}) is None
    assert announced_in({"budget": "5x"}) is None
    assert announced_in({"budget": {"announced": {"seconds": "soon"}}}) is None
