"""Runs of few steps, calibrated: budgets are spent by steps that run a part, and what they gain is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from commands import MODEL, run
from plans import make_plan
from processes import LEAST_EFFORT

from hyca_calib.commands import few_steps
from hyca_calib.commands.bench_options import BenchOptions
from hyca_calib.commands.calibrate_options import CalibrateOptions
from hyca_calib.pipelines.workload import Workload
from hyca_calib.search.effort import EFFORTS
from hyca_calib.search.fewer_steps import FewerSteps
from hyca_runtime import load_plan

ASKED = ("calibrate", "--effort", "quick", "--prompts", "prompts.txt", "--threads", "1", *MODEL)
pytestmark = pytest.mark.usefixtures("unreported")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EFFORTS, "quick", LEAST_EFFORT)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_budget_between_whole_steps_is_spent(folder: Path) -> None:
    done = run(*ASKED, "--steps", 8, "--budget", "1.8x")
    assert done.exit_code == 0, done.output
    assert "8 steps are few: some may run the first 1, 2, 3 of 4 blocks" in done.stderr
    plan = load_plan(done.stdout.strip())
    assert plan.section.flops_ratio == pytest.approx(1.8, rel=0.06), "4 of 8 steps would be 2x"
    assert any(action.forecast and "behind" in action.forecast[0] for action in plan.section.schedule.palette)
    beside = FewerSteps.told_in(plan)
    assert beside is not None
    assert beside.steps == 4
    assert str(beside) in " ".join(done.stderr.split())
    assert "beside fewer steps" in run("info", done.stdout.strip()).stdout


def test_what_gains_nothing_is_told() -> None:
    better, worse = FewerSteps(4, 49.6, 63.0), FewerSteps(4, 49.6, 48.9)
    assert str(better).startswith("13.4 dB gained over fewer steps: latent PSNR 63.00 dB, 4 steps of the sampler")
    assert str(worse).startswith("nothing can be gained at this cost: latent PSNR 48.90 dB")
    strange = make_plan(tiny.pipeline().transformer).model_copy(update={"provenance": {"fewer_steps": "?"}})
    assert FewerSteps.told_in(strange) is None


def test_long_runs_and_points_that_are_asked_for_are_left_alone() -> None:
    pipe, workload = tiny.pipeline(), Workload(tiny.prompts(), 14, 8)
    assert few_steps.palette_of(pipe, CalibrateOptions(steps=13), workload) is None
    assert few_steps.palette_of(pipe, CalibrateOptions(steps=8, point="output"), workload) is None
    assert few_steps.palette_of(pipe, CalibrateOptions(steps=8), workload) == "trunk,behind:1,behind:2,behind:3"


def test_a_bench_of_few_steps_looks_behind_first_blocks() -> None:
    options, workload = BenchOptions(budgets="1.5x", model=MODEL[1]), Workload(tiny.prompts(), 14, 8)
    points = few_steps.of_few_steps(options, workload).points
    assert points == ["trunk", "behind:1", "behind:2", "behind:3"]
    assert few_steps.palette_in(points) == "trunk,behind:1,behind:2,behind:3"
    assert few_steps.palette_in(["trunk", "trunk:residual"]) is None
    for other in (BenchOptions(), BenchOptions(budgets="1.5x", points=["output"])):
        assert few_steps.of_few_steps(other, workload) is other
    assert few_steps.of_few_steps(options, replace(workload, num_steps=50)) is options


def test_a_network_without_such_points_computes_whole_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe: Any = tiny.pipeline()
    monkeypatch.setattr(pipe.transformer, "transformer_blocks", None)
    monkeypatch.setattr(pipe.transformer, "single_transformer_blocks", None)
    assert few_steps.palette_of(pipe, CalibrateOptions(steps=8), Workload(tiny.prompts(), 14, 8)) is None
    assert "whole steps alone, of 8: FluxTransformer2DModel has no list of blocks" in capsys.readouterr().err
