"""Efforts: the same plan whatever the load or speed of the machine, and no clock beside them."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import MODEL, run
from processes import SMALL_EFFORT, forked, spinning

from hyca_calib.search.effort import EFFORTS, LEAST

STEPS = 12
QUICK = (*MODEL, "--effort", "quick")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EFFORTS, "quick", SMALL_EFFORT)


def searched(out: str, *options: str) -> dict[str, Any]:
    """The plan of a search with little effort, without what was measured."""
    done = run("search", "--budget", "3x", *QUICK, *options, "--out", out)
    assert done.exit_code == 0, done.output
    plan: dict[str, Any] = json.loads(Path(done.stdout.strip()).read_text())
    assert len(plan["sections"][0].pop("timing")["seconds"]) == 2
    return plan


@pytest.mark.usefixtures("unreported")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_same_plan_on_a_busy_machine_whose_clock_runs_on(
    traced_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = searched("alone")
    assert alone["provenance"]["effort"] == SMALL_EFFORT.told
    assert alone["provenance"]["refinement"]["iterations"] == SMALL_EFFORT.iterations
    assert len(json.loads(Path("alone/result.json").read_text())["rollouts"]) == SMALL_EFFORT.rollouts
    late = itertools.count(step=3600)
    monkeypatch.setattr("hyca_calib.search.stopwatch.monotonic", lambda: next(late))
    for module in ("refine", "refinement_state"):
        monkeypatch.setattr(f"hyca_calib.search.{module}.time", SimpleNamespace(monotonic=lambda: next(late)))
    busy = forked().Process(target=spinning, daemon=True)
    busy.start()
    try:
        beside = searched("beside")
    finally:
        busy.kill()
        busy.join()
    assert json.dumps(beside) == json.dumps(alone)


@pytest.mark.parametrize("option", [("--confirm", "2"), ("--refine", "0"), ("--timeout", "9"), ("--trials", "3")])
def test_an_effort_takes_no_other_limits(traced_folder: Path, option: tuple[str, str]) -> None:
    refused = run("search", "--budget", "3x", *QUICK, *option)
    assert refused.exit_code == 2
    assert f"--effort quick decides how much is done, without a clock; got {option[0]}, too" in refused.output
    assert not Path("studies").exists()


@pytest.mark.parametrize(
    ("clock", "count"),
    [("confirm", "rollouts"), ("refine", "iterations"), ("refine", "fresh"), ("refine", "refine-at")],
)
def test_what_counts_for_nothing_is_refused(traced_folder: Path, clock: str, count: str) -> None:
    value = "height=8" if count == "refine-at" else "4"
    refused = run("search", "--budget", "3x", f"--{clock}", "0", f"--{count}", value)
    assert refused.exit_code == 2
    assert f"--{clock} 0 leaves out what --{count} is for" in refused.output
    assert not Path("studies").exists()


def test_another_effort_is_another_study(traced_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("studies/s")
    folder.mkdir(parents=True)
    (folder / "request.json").write_text(json.dumps({"effort": EFFORTS["standard"].told}))
    refused = run("search", "--budget", "3x", *QUICK, "--out", folder)
    assert refused.exit_code == 2
    assert "holds a study with another" in refused.output


def test_a_cut_is_even_and_leaves_the_least() -> None:
    whole = EFFORTS["thorough"]
    half = whole.cut(0.5)
    assert [getattr(half, name) / getattr(whole, name) for name in LEAST] == [0.5] * len(LEAST)
    assert (half.share, half.batch) == (0.5, whole.batch)
    assert whole.differing(half).startswith("samples 224 -> 112, probes 64 -> 32, ")
    least = whole.cut(1e-6)
    assert {name: getattr(least, name) for name in LEAST} == LEAST
    assert replace(SMALL_EFFORT, samples=7).cut(0.01).samples == 7, "what is below the least stays"


def test_efforts_grow() -> None:
    quick, standard, thorough = (EFFORTS[name] for name in ("quick", "standard", "thorough"))
    for name in LEAST:
        assert getattr(quick, name) < getattr(standard, name) < getattr(thorough, name)
