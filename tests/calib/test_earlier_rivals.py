"""Figures of other methods that an earlier comparison measured, beside new plans."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from comparisons import comparison, facts_of, fewer_steps
from plans import make_plan

from hyca_calib.bench.choice import windows
from hyca_calib.bench.comparison import Comparison
from hyca_calib.bench.earlier import check_alike, measured_earlier, others_of, without
from hyca_calib.bench.notebook import MEASURED, Notebook
from hyca_calib.bench.results import Bench, Row
from hyca_calib.bench.stage import Stage
from hyca_calib.bench.sweep import Sweep
from hyca_calib.commands.bench_options import BenchOptions
from hyca_calib.commands.benching import bench_all
from hyca_calib.pipelines.workload import Workload
from hyca_calib.records.provenance import Provenance
from hyca_runtime import save_plan
from hyca_runtime.errors import StudyError

COSTS = (1.5, 2.0)


def run(over: Comparison) -> tuple[list[Row], list[Sweep]]:
    sweeps = over.sweeps(COSTS)
    return over.baselines(over.chosen(sweeps, windows(COSTS))), sweeps


def noting(workload: Workload, folder: Path, code: str, earlier: dict[str, Any] | None = None) -> Comparison:
    notebook = Notebook(folder, {"made by": code}, earlier or {})
    return comparison(workload, [fewer_steps()], notebook)


def test_they_are_not_measured_again(workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, sweeps = run(noting(workload, tmp_path, "old code"))
    assert rows
    bench = Bench(facts_of(workload), (0,), tuple(rows), COSTS, tuple(sweeps), {"a schedule": [1, 2]})
    known = measured_earlier(bench, tmp_path)
    notes = (tmp_path / MEASURED).read_text()
    monkeypatch.setattr(Stage, "score", None)
    monkeypatch.setattr(Stage, "run", None)
    again, swept = run(noting(workload, tmp_path, "new code", known))
    assert again == rows
    assert swept == sweeps
    assert (tmp_path / MEASURED).read_text() == notes, "what others measured is not noted as ours"
    with pytest.raises(TypeError):
        run(noting(workload, tmp_path, "new code"))


def test_what_a_table_shows_stays_in_it(workload: Workload, tmp_path: Path) -> None:
    rows, _ = run(noting(workload, tmp_path, "code"))
    over = noting(workload, tmp_path, "code")
    known = [row.method for row in rows]
    assert [baseline.name for baseline in over.shown(rows, beside=())] == known
    (first, *_) = over.shown(rows, beside=())
    assert [baseline.name for baseline in over.shown(rows, beside=[first])] == known[1:]
    other = replace(rows[0], family="forgotten", method="of a family that is no more")
    assert over.shown([other, replace(rows[0], result=None)], beside=()) == []


def test_our_own_rows_are(workload: Workload, tmp_path: Path) -> None:
    rows, sweeps = run(noting(workload, tmp_path, "code"))
    ours = replace(rows[0], method="HyCa plan 2x", ours=True)
    known = measured_earlier(Bench(facts_of(workload), (0,), (ours,), COSTS, tuple(sweeps)), tmp_path)
    assert not [name for name in known if name.startswith("HyCa")]


def test_they_were_measured_on_the_same(workload: Workload) -> None:
    facts = facts_of(workload)
    check_alike(facts, {**facts.model_dump(), "commit": "another", "date": "2026-01-01"})
    with pytest.raises(StudyError, match=f"threads {facts.threads} then, 99 now"):
        check_alike(facts, {**facts.model_dump(), "threads": 99})


def test_another_model_is_told_before_anything_is_measured(workload: Workload, tmp_path: Path) -> None:
    Bench(facts_of(workload), (0,), ()).write(tmp_path)
    with pytest.raises(StudyError, match=r"on something else \(model tiny:pipeline then, demo now; workload .*\)"):
        bench_all(BenchOptions(model="demo", keep_rivals=True, out=tmp_path))


def test_families_that_are_measured_again(workload: Workload, tmp_path: Path) -> None:
    rows, sweeps = run(noting(workload, tmp_path, "code"))
    bench = Bench(facts_of(workload), (0,), tuple(rows), COSTS, tuple(sweeps))
    left = without(bench, [sweeps[0].family])
    assert left.sweeps == ()
    assert left.rows == ()
    assert without(bench, []) == bench
    bench.write(tmp_path)
    with pytest.raises(StudyError, match=r"--again FORA: no such family; there are fewer steps"):
        bench_all(BenchOptions(model="demo", keep_rivals=True, again=["FORA"], out=tmp_path))


def test_nothing_is_swept_for_plans_that_do_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prompts.txt").write_text("".join(f"{call['prompt']}\n" for call in tiny.prompts()))
    save_plan(make_plan(tiny.glyphs().transformer), tmp_path / "plan.json")
    monkeypatch.setattr(Comparison, "sweeps", None)
    asked = BenchOptions(
        plans=[tmp_path / "plan.json"], model="tiny:pipeline", prompts=tmp_path / "prompts.txt", samples=7, steps=8
    )
    with pytest.raises(StudyError, match=r"no plan runs on tiny:pipeline, .*is for a DiTTransformer2DModel"):
        bench_all(replace(asked, out=tmp_path / "bench"))


def test_the_first_to_measure_them_is_told(workload: Workload) -> None:
    facts = facts_of(workload)
    first = others_of(facts)
    assert type(first) is Provenance
    assert first.commit == facts.commit
    assert others_of(facts.model_copy(update={"commit": "later", "others": first})) == first
