"""The toolkit from Python: the examples of its docstrings, those of the documents, and pipelines of other kinds."""

from __future__ import annotations

import doctest
import runpy
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from forecaster import CLASSES, Forecaster
from processes import SMALL_EFFORT

import hyca_calib
from hyca_calib import api
from hyca_calib.pipelines.given import given_calls, quiet_pipeline
from hyca_calib.search.effort import EFFORTS
from hyca_calib.search.study import StudyFolder
from hyca_runtime import apply_plan, starter_plan
from hyca_runtime.errors import BudgetError, StudyError, WorkloadError

NOTEBOOK = Path(__file__).parents[2] / "docs/examples/notebook.py"
PROMPTS = [call["prompt"] for call in tiny.prompts()]
pytestmark = pytest.mark.usefixtures("unreported")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(EFFORTS, "quick", SMALL_EFFORT)


def test_every_example_is_true() -> None:
    names = {"hyca_calib": hyca_calib, "pipe": tiny.pipeline(), "prompts": PROMPTS}
    runner, finder = doctest.DocTestRunner(), doctest.DocTestFinder(recurse=False)
    for name in ("calibrate", "trace", "search", "evaluate", "check"):
        (example,) = finder.find(getattr(api, name), name, globs=names)
        assert example.examples, f"{name} has no example"
        example.globs = names  # each goes on with what those before it made
        runner.run(example, clear_globs=False)
    assert runner.summarize().failed == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyca_calib.demo.demo_pipeline", tiny.pipeline)
    monkeypatch.setattr("hyca_calib.demo.demo_prompts", tiny.prompts)
    made = runpy.run_path(str(NOTEBOOK))
    assert made["certificate"].num_samples == 6
    assert made["found"]["2x"].flops_ratio < made["found"]["4x"].flops_ratio
    assert made["verdict"] == "holds"
    assert (Path("studies/notebook/plan.json")).exists()


def test_functions_are_found_by_name() -> None:
    assert hyca_calib.calibrate is api.calibrate
    assert hyca_calib.evaluate is api.evaluate
    assert hyca_calib.check is api.check
    assert set(hyca_calib.__all__) == set(api.__all__) <= set(dir(hyca_calib))
    with pytest.raises(AttributeError, match="no attribute 'calibrat'"):
        getattr(hyca_calib, "calibrat")  # noqa: B009


def test_what_is_no_pipeline_or_no_prompt_is_told() -> None:
    pipe: Any = object()
    with pytest.raises(WorkloadError, match="what was given is a object; expected a pipeline"):
        hyca_calib.calibrate(pipe, PROMPTS)
    with pytest.raises(WorkloadError, match="expected a list of prompts, or the Path"):
        given_calls("a red heart")
    with pytest.raises(WorkloadError, match="prompt 2: mask is a object; expected what JSON can hold"):
        given_calls(["a red heart", {"prompt": "b", "mask": object()}])
    with pytest.raises(WorkloadError, match="generator cannot be given here"):
        given_calls([{"prompt": "b", "generator": 3}])
    number: Any = 3
    with pytest.raises(WorkloadError, match="prompt 1: expected a text or keywords of the call, got a int"):
        given_calls([number])


def test_what_is_no_budget_or_no_effort_is_told() -> None:
    for budget in (3, None, ["2x"]):
        with pytest.raises(BudgetError, match="is not one; expected a speed-up like 5x"):
            hyca_calib.calibrate(tiny.pipeline(), PROMPTS, budget=budget)  # type: ignore[arg-type]
    with pytest.raises(StudyError, match="effort 'heroic': expected quick, standard, thorough"):
        hyca_calib.calibrate(tiny.pipeline(), PROMPTS, effort="heroic")  # type: ignore[arg-type]


def test_a_plan_that_was_made_on_nothing_is_measured_as_by_the_command() -> None:
    pipe = tiny.pipeline()
    plan = starter_plan(pipe, steps=8, budget="2x")
    assert hyca_calib.evaluate(pipe, plan, PROMPTS, samples=2).num_samples == 2


def test_the_bar_of_a_pipeline_is_what_it_was() -> None:
    pipe = tiny.pipeline()
    pipe.set_progress_bar_config(desc="mine")
    with quiet_pipeline(pipe):
        assert pipe._progress_bar_config == {"disable": True}
    assert pipe._progress_bar_config == {"desc": "mine"}


def test_another_pipeline_than_the_traced_one_is_refused() -> None:
    recorded = hyca_calib.trace(tiny.pipeline(), PROMPTS, steps=8, samples=7, out="t.zarr")
    with pytest.raises(WorkloadError, match="this EmojiPipeline is not the one that was traced"):
        hyca_calib.search(tiny.pipeline(seed=1), recorded, effort="quick")
    StudyFolder.open(Path("s"), {"budget": "9x"})
    with pytest.raises(StudyError, match="holds a study with another"):
        hyca_calib.search(tiny.pipeline(), recorded, effort="quick", out="s")


@pytest.mark.parametrize(("point", "budget"), [("output", "2x"), ("modules:blocks.*.feed", "1.3x")])
def test_a_pipeline_that_is_none_of_diffusers(point: str, budget: str) -> None:
    pipe = Forecaster()
    series = [{"class_labels": label} for label in range(CLASSES)]
    plan = hyca_calib.calibrate(pipe, series, steps=12, budget=budget, effort="quick", point=point, out="s")
    assert {str(forecast.at) for forecast in plan.section.points.values()} == {point}
    with apply_plan(pipe, plan) as session:
        pipe([1], 12, [torch.Generator().manual_seed(0)])
        assert session.report().computed == len(plan.section.schedule.computed_steps) < 12
    assert plan.section.certificate is not None
    assert plan.section.certificate.metric == "signal-to-error ratio"
