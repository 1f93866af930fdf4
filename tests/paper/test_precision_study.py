"""The study of caching and quantising: plans that are made low, and its table."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from plans import make_plan

from hyca_calib.commands.options import SearchLimits
from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.search.cachequant.site import measure_site
from hyca_calib.search.precision.variants import parse_variants
from hyca_calib.search.presets import PRESETS, preset_section
from hyca_calib.search.problem import Problem
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan, apply_plan, save_plan
from hyca_runtime.schedule import DEFAULT
from studies.precision.__main__ import RESULTS, page, published, table
from studies.precision.ways import ALONE, CORRECTED, JOINT, NAIVE, Ways, in_low

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


def test_int8_alone_takes_roundings_in_turn(recorded: Trace, tmp_path: Path) -> None:
    problem = Problem(recorded)
    site = measure_site(tiny.pipeline(), problem, parse_variants("int8"))
    made = Ways(problem, "t.zarr", SearchLimits(), tmp_path, site)
    plain, in_turn = (made.plan(way, 0) for way in ALONE)
    assert plain is not None
    assert in_turn is not None
    assert plain.section.bits_ratio == in_turn.section.bits_ratio
    (spec,) = (in_turn.section.variants or {}).values()
    assert spec.asymmetric
    assert spec.phases == (0.0, 0.5)


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


def test_a_preset_is_made_with_the_options_that_it_has(
    recorded: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, asked = Problem(recorded), list[tuple[str, SearchLimits]]()
    site = measure_site(tiny.pipeline(), problem, parse_variants("int8"))

    def made(budget: str, traces: list[str], limits: SearchLimits, out: Path) -> list[Path]:
        asked.append((budget, limits))
        save_plan(make_plan(tiny.pipeline().transformer), tmp_path / "plan.json")
        return [tmp_path / "plan.json"]

    monkeypatch.setattr("studies.precision.ways.search_plans", made)
    made_by = Ways(problem, "t.zarr", SearchLimits(model="tiny", trials=3, strict=True), tmp_path, site)
    for way in (CORRECTED, JOINT):
        made_by.plan(way, 12)
    assert asked == [
        ("12x bitops", SearchLimits(preset="cachequant", model="tiny")),
        ("12x bitops", SearchLimits(model="tiny", trials=3, strict=True, precision="int8")),
    ]


def test_the_committed_page_is_that_of_the_committed_numbers() -> None:
    assert (RESULTS / "README.md").read_text() == page(published())


def test_joint_search_is_three_decibels_ahead_of_both_naively() -> None:
    """The committed figures: what the search is for."""
    for results in published():
        rows = {(row["way"], row["asked"]): row for row in results["rows"] if "agreement_db" in row}
        asked = {at for way, at in rows if way == NAIVE}
        assert asked
        for at in asked:
            joint, naive = (rows[way, at] for way in (JOINT, NAIVE))
            ahead = [a - b for a, b in zip(joint["agreement_db"], naive["agreement_db"], strict=True)]
            assert sum(ahead) / len(ahead) > 3, results["model"]
            assert joint["bits_ratio"] > 0.98 * naive["bits_ratio"]
