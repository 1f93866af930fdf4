"""The committed comparisons: whole, inside their sweeps, and what a fresh process measures."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import pytest
from processes import forked

from hyca_calib.bench.choice import is_wanted
from hyca_calib.bench.results import FULL, OURS, Bench, Row, read_bench
from hyca_calib.bench.sweep import open_ends
from hyca_calib.bench.verify import TOLERANCE_DB, Verification, families_of
from hyca_calib.pipelines.defaults import prompts_of
from hyca_calib.pipelines.load import load_pipeline
from hyca_calib.pipelines.workload import Workload
from hyca_calib.quality.metrics import prompt_groups
from hyca_calib.records.provenance import processor
from hyca_runtime import load_plan

RESULTS = Path(__file__).parents[2] / "studies" / "bench"
MODELS = sorted(path.parent.name for path in RESULTS.glob("*/bench.json"))
PLANS, BASELINES = 1, 1
"""Rows of a table that are measured again."""

AWAITED = {"demo-video": pytest.mark.xfail(strict=True, reason="to be swept again by wider sweeps, as its table says")}

each_model = pytest.mark.parametrize("model", MODELS)


def workload_of(bench: Bench) -> Workload:
    made = bench.facts.workload
    return Workload(prompts_of(bench.facts.model, None), made.num_samples, made.num_steps, made.seed)


@each_model
def test_they_say_where_they_come_from(model: str) -> None:
    bench = read_bench(RESULTS / model)
    known = {"commit", "code", "date", "device", "processor", "threads", "versions", "workload", "batch", "weights"}
    assert known <= bench.facts.model_fields_set
    assert {"torch", "diffusers", "cache-dit"} <= set(bench.facts.versions)
    workload = workload_of(bench)
    assert bench.facts.workload == workload.describe()
    assert bench.groups == prompt_groups(workload.of("test"))


@each_model
def test_every_family_that_attaches_has_results(model: str) -> None:
    bench = read_bench(RESULTS / model)
    shown = {row.family for row in bench.rows if row.result}
    assert FULL in shown
    assert OURS in shown
    for sweep in bench.sweeps:
        if sweep.refused:
            assert sweep.family not in shown
            continue
        failed = [score.method for score in sweep.tried if score.error]
        assert len(failed) < len(sweep.tried) / 10, failed
        assert max(score.flops_ratio for score in sweep.tried) > 1.05, f"{sweep.family} never acts"
        assert sweep.family in shown


@each_model
def test_what_lies_open_is_told(model: str) -> None:
    """Computed again from everything that was tried, by the ladders of today."""
    bench = read_bench(RESULTS / model)
    families = {f.name: f for f in families_of(bench, load_pipeline(model), workload_of(bench))}
    shown, waiting = {sweep.family for sweep in bench.sweeps}, (RESULTS.parent / "README.md").read_text()
    assert shown <= set(families)
    asked = [name for name in families if is_wanted(name, [*families], bench.facts.only)]
    assert [name for name in asked if name not in shown and f"`{name}`" not in waiting] == [], "neither shown nor told"
    found = {sweep.family: open_ends(families[sweep.family], sweep.tried, bench.costs) for sweep in bench.sweeps}
    assert found == {sweep.family: [*sweep.open_ends] for sweep in bench.sweeps}


@pytest.mark.parametrize("model", [pytest.param(model, marks=AWAITED.get(model, ())) for model in MODELS])
def test_no_optimum_lies_at_an_edge(model: str) -> None:
    assert {one.family: one.open_ends for one in read_bench(RESULTS / model).sweeps if one.open_ends} == {}


@each_model
def test_plans_lie_beside_their_figures(model: str) -> None:
    for row in read_bench(RESULTS / model).rows:
        if row.ours:
            assert load_plan(RESULTS / model / str(row.settings["plan"])).sections


def drawn(bench: Bench, seed: int) -> list[Row]:
    """Some of our plans and some baselines, among those that have figures."""
    known, rng = [row for row in bench.rows if row.result and row.settings], random.Random(seed)
    ours, others = ([row for row in known if row.ours == own] for own in (True, False))
    return rng.sample(ours, PLANS) + rng.sample(others, BASELINES)


@pytest.mark.slow
def test_fresh_processes_find_the_same() -> None:
    """Table and settings drawn anew at every run of this test; the seed is in the message."""
    seed = random.SystemRandom().randrange(10**6)
    model = random.Random(seed).choice(MODELS)
    bench = read_bench(RESULTS / model)
    if processor() != bench.facts.processor:
        pytest.skip(f"measured on {bench.facts.processor}; another processor rounds otherwise, which thresholds see")
    forked()  # its server is a fresh process, too
    how = Verification(RESULTS / model, partial(load_pipeline, model), workload_of(bench))
    wrong = [check for check in how.rows(drawn(bench, seed)) if not check.off_by <= TOLERANCE_DB]
    assert not wrong, f"{model}, seed {seed}"
