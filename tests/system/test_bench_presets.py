"""``hyca bench presets``: every recipe at every budget beside static plans, what cannot be had, what fails."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from commands import MODEL, run
from plans import make_plan

from hyca_calib.bench.documents.preset_tables import preset_tables, presets_section, standing_at
from hyca_calib.bench.preset_results import (
    PresetFacts,
    PresetFigures,
    PresetRow,
    PresetTable,
    read_presets,
    worst_tenth,
)
from hyca_calib.bench.preset_runs import MeasuredSplit
from hyca_calib.commands import bench_presets
from hyca_calib.commands.bench_options import BenchOptions
from hyca_calib.commands.bench_presets import Clock
from hyca_calib.commands.presets import OFFERS, Offer
from hyca_calib.records.provenance import Provenance
from hyca_calib.search.step_caches import search, tries
from hyca_calib.trace.store import Trace
from hyca_runtime import save_plan

STEPS = 12


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tries, "SAMPLES", 1)
    monkeypatch.setattr(search, "HALVINGS", 2)


def bench(folder: Path, *options: object, budgets: str = "1.5x,3x", samples: int = 2) -> Any:
    (trace,) = (folder / "traces").glob("*.zarr")
    asked = ("--trace", trace, "--out", "out", "--budgets", budgets, "--samples", samples)
    return run("bench", "presets", *MODEL, *asked, *options)


def rows() -> dict[tuple[str, str], PresetRow]:
    return {row.place: row for row in read_presets(Path("out")).rows}


def test_from_a_trace_to_the_table(traced_folder: Path) -> None:
    """A closed form, a cache that decides in each run, one that cannot come so far, and a given plan."""
    save_plan(make_plan(tiny.pipeline().transformer), traced_folder / "3x.plan.json")
    only = ("--only", "hold", "--only", "smoothcache", "--only", "dbcache", "--plan", "3x.plan.json")
    done = bench(traced_folder, *only)
    assert done.exit_code == 0, done.output
    found = rows()
    assert {line for line, _ in found} == {"HyCa plan 3x.plan.json", "hold", "smoothcache", "dbcache"}
    assert "is the most" in found["smoothcache", "3x"].unmet
    assert not [row for row in found.values() if row.error]
    row, held = found["dbcache", "1.5x"], found["hold", "3x"].result
    assert row.result is not None
    assert held is not None
    assert len(row.result.psnr_db_each or ()) == len(row.result.flops_ratio_each) == 2
    assert 2 / sum(1 / ratio for ratio in row.result.flops_ratio_each) == pytest.approx(row.result.flops_ratio)
    assert held.flops_ratio_each == pytest.approx([held.flops_ratio] * 2)
    assert held.flops_ratio >= 3 / 1.02
    assert row.settings["asked"] == {"seed": 0}
    assert row.settings["found"]["threshold"] > 0
    assert row.made.known
    assert re.search(r"hold, 1\.5x; 5 left, about \d+ min", done.stderr)
    assert "dbcache, 3x; 0 left" in done.stderr
    page = (traced_folder / done.stdout.strip()).read_text()
    assert re.search(r"\| `smoothcache` \| \*{0,2}[\d./ ]+\*{0,2} \([\d.]+x\) \| at most [\d.]+x \|", page)
    assert "- At 3x " in page
    assert (traced_folder / "out/presets.png").stat().st_size > 10_000
    shared = traced_folder / "out/presets/dbcache"
    assert [path.parent for path in shared.rglob("thresholds.json")] == [shared]


def test_again_nothing_is_measured_twice_and_other_lines_stay(
    traced_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench(traced_folder, "--only", "hold", "--only", "taylorseer", budgets="3x").exit_code == 0
    before = rows()
    assert len(before) == 2

    def broken(*_: object) -> Any:
        raise RuntimeError("no such block\nin detail")

    with monkeypatch.context() as patch:
        patch.setitem(OFFERS, "foca", replace(OFFERS["foca"], prepare=broken))
        patch.setattr(MeasuredSplit, "figures", lambda *_: pytest.fail("measured again"))
        done = bench(traced_folder, "--only", "hold", "--only", "foca", budgets="3x")
    assert done.exit_code == 1, "a recipe failed"
    assert (traced_folder / done.stdout.strip()).exists()
    assert "cells that failed: 1" in done.stderr
    after = rows()
    assert {place: row for place, row in after.items() if place in before} == before
    assert after["foca", "3x"].error == "RuntimeError: no such block"
    page = Path("out/presets.md").read_text()
    assert "| `foca` | failed |" in page
    assert "- `foca` at 3x failed: RuntimeError: no such block" in page
    assert bench(traced_folder, "--only", "foca", budgets="3x").exit_code == 0, "it is tried again"
    assert not rows()["foca", "3x"].error

    assert bench(traced_folder, "--only", "hold", budgets="3x", samples=3).exit_code == 0
    assert [place for place in rows() if place[0] != "hold"] == [], "rows of other samples are dropped"
    done = bench(traced_folder, "--only", "hold", "--seed", 1, budgets="3x")
    assert done.exit_code == 2
    assert "holds a study with another seed (0, not 1)" in done.stderr


def test_published_plans_are_beside_presets_of_the_same_samples(traced_folder: Path) -> None:
    (path,) = (traced_folder / "traces").glob("*.zarr")
    made = Trace(path).workload().describe().model_dump()
    plan, published = make_plan(tiny.pipeline().transformer), traced_folder / "studies/bench/tiny-pipeline"
    published.mkdir(parents=True)
    for budget, facts in {"3x": made, "1.5x": made | {"seed": 7}, "9x": made}.items():
        told = plan.model_copy(update={"provenance": {"workload": facts}})
        save_plan(told, published / f"{budget}.plan.json")
    done = bench(traced_folder, "--only", "hold")
    assert done.exit_code == 0, done.output
    assert [budget for line, budget in rows() if line == bench_presets.PUBLISHED] == ["3x"]
    assert "passed over: studies/bench/tiny-pipeline/1.5x.plan.json was made on other prompts" in done.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--only", "seecache"], "no preset is called seecache; there are adaptive, adaptive --response"),
        (["--plan", "mine.json"], "mine.json does not say its budget; expected one of 1.5x, 3x, see --budget"),
    ],
)
def test_what_is_asked_in_vain(traced_folder: Path, options: list[str], told: str) -> None:
    save_plan(make_plan(tiny.pipeline().transformer), traced_folder / "mine.json")
    done = bench(traced_folder, *options)
    assert done.exit_code == 2
    assert told in " ".join(done.stderr.split())


def test_every_preset_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OFFERS, "newcache", Offer(OFFERS["hold"].prepare))
    lines = bench_presets._lines(BenchOptions(minutes=0.5, iterations=3))
    assert {*lines} == {*OFFERS, *bench_presets.MORE_LINES} - {*bench_presets.ELSEWHERE}
    assert (lines["dbcache"].order, lines["dbcache --order 1"].order) == (0, 1)
    trained = {name for name, limits in lines.items() if (limits.refine, limits.iterations) == (0.5, 3)}
    learnt = {"learning-to-cache", "learning-to-cache --free"}
    assert trained == {"adaptive", "adaptive --response 0.4", "dbcache --fitted", *learnt}


# ------------------------------------------------------------------------------------------------ made-up results

MADE = Provenance(commit="0123456789ab", date="2026-11-28", device="cpu", processor="slow", threads=1, versions={})


def row(line: str, budget: str, ratio: float, each: tuple[float, ...], static: bool = False) -> PresetRow:
    found = PresetFigures(
        psnr_db=sum(each) / len(each),
        psnr_db_worst=min(each),
        psnr_db_each=each,
        ssim=None,
        ssim_worst=None,
        latent_error=0.0,
        flops_ratio=ratio,
        worst_tenth_db=worst_tenth(each),
        flops_ratio_each=(ratio,) * len(each),
    )
    return PresetRow(line, budget, static, MADE, result=found)


def made_up(*found: PresetRow) -> PresetTable:
    workload = {"num_steps": 50, "seed": 0, "num_samples": 9, "num_prompts": 4, "digest": "", "prompts_digest": ""}
    facts = {"model": "demo", "weights": "0", "trace": "t", "workload": workload, "batch": 8, "groups": (0, 1, 2)}
    return PresetTable(PresetFacts.model_validate(facts), found)


TABLE = made_up(
    row("hold", "10x", 10.0, (20.0, 21.0, 22.0)),
    row("hold", "2x", 2.0, (40.0, 41.0, 42.0)),
    row("seacache", "2x", 2.1, (51.0, 52.0, 53.0)),
    row("seacache", "3x", 3.0, (38.0, 45.0, 42.0)),
    row("hold", "3x", 3.0, (35.0, 36.0, 37.0)),
    PresetRow("seacache", "10x", False, MADE, unmet="budget '10x' cannot be met by seacache: 8.5x is the most; ask"),
    PresetRow("hold", "20x", False, MADE, error="ValueError: no"),
    row("HyCa, refined", "2x", 2.05, (50.0, 51.0, 52.0), static=True),
    row("HyCa, refined", "3x", 3.1, (41.0, 41.0, 42.0), static=True),
)


def test_the_table_and_who_wins() -> None:
    text = preset_tables(TABLE)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[0] == "| plans of | 2x | 3x | 10x | 20x |"
    assert lines[2] == "| **HyCa, refined** | 51.0 / 50.0 (2.05x) | 41.3 / 41.0 (3.10x) |  |  |"
    assert "| `hold` | 41.0 / 40.0 (2.00x) | 36.0 / 35.0 (3.00x) | **21.0 / 20.0** (10.00x) | failed |" in lines
    assert "| `seacache` | **52.0 / 51.0** (2.10x) | **41.7 / 38.0** (3.00x) | at most 8.5x |  |" in lines
    words = " ".join(text.split())
    assert (
        "At 2x `seacache` with 52.0 dB at 2.10x beats the static plan (HyCa, refined) with 51.0 dB at 2.05x by +1.0 "
        "dB (+1.0 to +1.0)." in words
    )
    assert (
        "At 3x nobody is ahead: `seacache` with 41.7 dB at 3.00x is above the static plan (HyCa, refined) with 41.3 dB "
        "at 3.10x by +0.3 dB (" in words
    )
    assert "), and spends 3 % more. - At 10x" in words
    assert "At 10x there is only `hold` with 21.0 dB at 10.00x." in words
    assert standing_at(TABLE, "20x") == ""
    assert "commit 0123456789ab" in words
    alone = made_up(*(one for one in TABLE.rows if not one.static))
    told = standing_at(alone, "3x")
    assert told.startswith("At 3x `seacache` with 41.7 dB at 3.00x beats `hold` with 36.0 dB at 3.00x by +5.7 dB (+")


def test_results_below_the_root_are_shown_if_they_say_where_they_are_from(tmp_path: Path) -> None:
    assert "no figures are shown yet" in presets_section(tmp_path)
    TABLE.write(tmp_path / "studies/bench/demo")
    assert read_presets(tmp_path / "studies/bench/demo") == TABLE
    assert presets_section(tmp_path).startswith(preset_tables(TABLE))
    assert presets_section(tmp_path).endswith("](../studies/bench/demo/presets.png)")
    replace(TABLE, rows=(replace(TABLE.rows[0], made=MADE.model_copy(update={"commit": ""})),)).write(
        tmp_path / "studies/bench/demo"
    )
    assert "no figures are shown yet" in presets_section(tmp_path)


def test_the_worst_tenth_is_rounded_up() -> None:
    assert worst_tenth([5.0, 3.0, 4.0]) == 3.0
    assert worst_tenth([float(n) for n in range(12)]) == 0.5


def test_time_left_is_told_by_what_was_measured() -> None:
    clock = Clock(4)
    assert clock.told(1.0, measured=False) == "3 left"
    assert clock.told(120.0, measured=True) == "2 left, about 4 min"
