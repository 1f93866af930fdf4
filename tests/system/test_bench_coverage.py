"""Bounds held against samples that they were not made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import tiny
from commands import MODEL, run

from hyca_calib.bench.coverage import CoverageRun, drawn
from hyca_calib.bench.documents.coverage_table import coverage_table
from hyca_calib.commands import bench_coverage
from hyca_calib.pipelines.workload import Workload
from hyca_calib.quality.evaluate import evaluate_plan
from hyca_calib.records.atomic import write_json
from hyca_calib.records.provenance import provenance

STEPS = 12


def test_samples_are_drawn_with_replacement_and_are_no_split_s() -> None:
    workload = Workload(tiny.prompts(), num_samples=14, num_steps=12, seed=3)
    jobs, test = drawn(workload, 400, 1), workload.of("test")
    assert len({job.seed for job in jobs}) == 400
    assert {job.seed for job in jobs}.isdisjoint(job.seed for job in workload.jobs)
    counts = Counter(repr(job.call) for job in jobs)
    assert counts.keys() == {repr(job.call) for job in test}
    assert len({*counts.values()}) > 1, "not each as often as the others"
    assert drawn(workload, 400, 1) == jobs != drawn(workload, 400, 2)


def made_up(held: Iterable[float], calibrating: Iterable[float]) -> CoverageRun:
    facts = provenance("cpu").model_dump()
    made = {"calibrating_db": tuple(map(float, calibrating)), "held_out_db": tuple(map(float, held))}
    return CoverageRun.model_validate({**facts, **made, "model": "demo", "budget": "5x", "level": 0.9, "seed": 0})


def test_the_bound_is_the_tenth_worst_of_ninety_nine() -> None:
    found = made_up(range(200), range(1, 100))
    assert found.bound_db == 10.0
    assert found.covered == 190
    assert found.coverage.expected == pytest.approx(0.9)


def test_bounds_of_one_distribution_cover_as_often_as_told() -> None:
    chance, inside = np.random.default_rng(0), 0
    for _ in range(400):
        each = chance.gumbel(40, 3, 300)
        found = made_up(each[100:], each[:100])
        inside += found.coverage.low <= found.covered / 200 <= found.coverage.high
    assert 0.92 <= inside / 400 <= 0.98, "95 of 100"


@pytest.mark.usefixtures("unreported")
def test_the_command_goes_on_where_it_was_cut(traced_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = next((traced_folder / "traces").glob("*.zarr"))
    assert run("search", *MODEL, "--trace", trace, "--preset", "hold", "--budget", "2x", "--out", "s").exit_code == 0
    monkeypatch.setattr(bench_coverage, "CALIBRATING", 9)
    asked = ("bench", "coverage", *MODEL, "--prompts", "prompts.txt", "--plan", "s/plan.json", "--samples", 3)
    kept, evaluate, calls = Path("out/coverage.samples.json"), evaluate_plan, list[int]()

    def counted(pipe: object, plan: object, jobs: object, steps: int, batch: int) -> object:
        calls.append(len(jobs))  # type: ignore[arg-type]
        if len(calls) == 3:
            raise MemoryError
        return evaluate(pipe, plan, jobs, steps, batch)  # type: ignore[arg-type]

    monkeypatch.setattr("hyca_calib.bench.coverage.evaluate_plan", counted)
    with pytest.raises(MemoryError):
        run(*asked, "--batch", 4, "--out", "out")
    assert kept.exists()
    done = run(*asked, "--batch", 4, "--out", "out")
    assert done.exit_code == 0, done.output
    assert calls == [4, 4, 4, 4], "what was measured is not measured again"
    found = CoverageRun.model_validate_json(Path("out/coverage.json").read_text())
    assert (len(found.calibrating_db), len(found.held_out_db), found.known) == (9, 3, True)
    assert f"bound of 9 samples {found.bound_db:.1f} dB, holds for {found.covered} others" in done.stderr
    assert run("bench", "coverage", *MODEL).exit_code == 2


def test_the_table(tmp_path: Path) -> None:
    assert coverage_table(tmp_path) == "*Not measured yet.*"
    found = made_up(range(200), range(1, 100))
    write_json(tmp_path / "studies/bench/demo/coverage.json", found)
    told, expected = coverage_table(tmp_path), found.coverage
    low, high = round(200 * expected.low), round(200 * expected.high)
    assert 160 < low < 180 < high < 196
    assert f"| demo | 5x | 99 samples: 10.0 dB | 190 of 200 (95.0 %) | {low} to {high} |" in told
    assert "lies below" not in told
    worse = made_up(range(-40, 160), range(1, 100))
    write_json(tmp_path / "studies/bench/demo/coverage.json", worse)
    assert worse.chance < 0.01
    assert "`demo` at 5x lies below: a bound holds for no more in 0.1 % of such draws." in coverage_table(tmp_path)
