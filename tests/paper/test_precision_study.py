"""The study of caching and quantising: plans that are made low, and its table."""

from __future__ import annotations

import pytest
import tiny

from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.search.cachequant.site import measure_site
from hyca_calib.search.precision.variants import parse_variants
from hyca_calib.search.presets import PRESETS, preset_section
from hyca_calib.search.problem import Problem
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan, apply_plan
from hyca_runtime.schedule import DEFAULT
from studies.precision.__main__ import table
from studies.precision.ways import in_low

pytest.importorskip("torchao")


def test_a_cached_plan_in_int8_computes_the_same_steps_and_keeps_its_rows(recorded: Trace) -> None:
    pipe, problem = tiny.pipeline(), Problem(recorded)
    _, own = preset_section(problem, PRESETS["taylorseer"], Budget.parse("3x"), 0)
    site = measure_site(pipe, problem, parse_variants("int8"))
    low = in_low(problem, own, site)
    assert low.points == own.points
    assert low.schedule.tables == own.schedule.tables
    assert low.flops_ratio == own.flops_ratio
    full, quantised, _ = site.costs("bitops")
    assert own.flops_ratio is not None
    assert low.bits_ratio is not None
    assert own.flops_ratio < low.bits_ratio < own.flops_ratio * full / quantised
    with apply_plan(pipe, Plan(name="low", sections=(low,)), "error") as session:
        sample_latents(pipe, problem.workload.of("test")[:1], problem.workload.num_steps, 1)
        report = session.report()
    assert report.computed_at == own.schedule.computed_steps
    done = [action for of in report.streams.values() for action, count in of.actions.items() if count]
    assert {action.variant for action in done if action.computes} == {"int8"}
    assert {action.variant for action in done if not action.computes} == {DEFAULT}


def test_the_table_tells_intervals_and_what_cannot_be() -> None:
    rows = [
        {
            "way": "int8 only",
            "asked": 0.0,
            "bits_ratio": 8.666,
            "agreement_db": [30.0],
            "interval": [30.0, 29.5, 30.25],
        },
        {"way": "both, naively", "asked": 4.0, "reason": "int8 alone saves more"},
    ]
    assert table(rows).splitlines()[2:] == [
        "|  | int8 only | 8.67x | 30.0 (29.5 to 30.2) |",
        "| 4x | both, naively | | int8 alone saves more |",
    ]
