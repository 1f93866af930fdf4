"""Plans that are put together from several: measured and checked as their parts are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from plans import make_plan

from hyca_calib.commands.describing import describe
from hyca_calib.commands.options import EvaluateOptions
from hyca_calib.commands.plans import evaluate_file
from hyca_calib.pipelines.defaults import workload_of
from hyca_calib.pipelines.workload import Workload
from hyca_calib.records.origins import origins
from hyca_calib.search.lineage import own_problem, part_for, settings_of
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan, load_plan, merge_plans, save_plan
from hyca_runtime.errors import PlanError, WorkloadError

WORDS = [f"{call['prompt']}\n" for call in tiny.prompts()]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    (tmp_path / "prompts.txt").write_text("".join(WORDS))
    return tmp_path / "prompts.txt"


def made(steps: int, **more: Any) -> Plan:
    """A plan that says on which workload it was made."""
    workload = Workload(tiny.prompts(), num_samples=14, num_steps=steps, seed=3)
    plan = make_plan(tiny.pipeline().transformer, computed=(0, 1, 4), steps=steps)
    return plan.model_copy(update={"provenance": {"workload": workload.describe().model_dump(), **more}})


def test_a_plan_for_both_networks_was_made_on_one_workload(prompts: Path) -> None:
    first, second = made(12), made(12)
    other = second.section.model_copy(update={"component": "transformer_2"})
    merged = merge_plans([first, second.model_copy(update={"sections": (other,)})], "wan")
    for steps in (None, 20):
        assert workload_of(merged.provenance, "tiny:pipeline", prompts, steps).num_steps == 12


def test_a_plan_for_several_step_counts_is_measured_at_each(prompts: Path, tmp_path: Path) -> None:
    merged = merge_plans([merge_plans([made(12)], "one"), made(8)], "both")
    save_plan(merged, tmp_path / "both.json")
    options = EvaluateOptions(tmp_path / "both.json", "tiny:pipeline", prompts, samples=2)
    told = describe(str(tmp_path / "both.json"))
    assert [told[f"transformer at {n} steps: steps"][:10] for n in (12, 8)] == ["3 of 12 co", "3 of 8 com"]
    for steps in (8, 12):
        found = evaluate_file(replace(options, steps=steps))
        assert (found.steps_computed, found.steps_total) == (3, steps)
    certificates = [section.certificate for section in load_plan(options.plan).sections]
    assert [of is not None and of.num_samples for of in certificates] == [2, 2], "each by the run of its steps"
    assert len({of.workload for of in certificates if of}) == 2
    with pytest.raises(PlanError, match="merged from plans for 12 and 8 steps; say which of them with --steps"):
        evaluate_file(options)
    with pytest.raises(PlanError, match="merged from plans for 12 and 8 steps; 7 are none of them"):
        evaluate_file(replace(options, steps=7))


@pytest.mark.parametrize(
    "provenance",
    [{}, {"merged": []}, {"merged": "?"}, {"merged": [1]}, {"merged": [{"workload": 3}]}, {"workload": {}}],
)
def test_a_plan_that_does_not_say_its_workload(provenance: dict[str, Any], prompts: Path) -> None:
    with pytest.raises(PlanError, match="does not say which workload"):
        workload_of(provenance, "tiny:pipeline", prompts)


def test_other_prompts_are_refused(prompts: Path) -> None:
    prompts.write_text("".join(WORDS[1:]))
    with pytest.raises(WorkloadError, match="not the prompts"):
        workload_of(merge_plans([made(12)], "one").provenance, "tiny:pipeline", prompts)


def test_a_part_is_checked_by_its_own_account(recorded: Trace) -> None:
    workload = recorded.attributes.workload.model_dump()
    first = made(12, trace=recorded.where, settings={"groups": 5}, workload=workload)
    second = made(8, settings={"groups": 7})
    merged = merge_plans([second, merge_plans([first], "inner")], "both")
    assert [origin["settings"]["groups"] for origin in origins(merged.provenance)] == [7, 5]
    part = part_for(merged, recorded)
    assert part.sections == first.sections
    assert settings_of(part, part.section).groups == 5
    assert own_problem(part)[0] is not None
    assert part_for(first, recorded).sections == first.sections
    alone = first.model_copy(update={"provenance": {}})
    assert part_for(alone, recorded).provenance == {}
    assert part_for(merged.model_copy(update={"provenance": {}}), recorded).sections == merged.sections
