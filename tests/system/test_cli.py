"""The commands as a user types them, on the tiny model; and every kind of bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from commands import MODEL, run, write_trace
from processes import forked, killed_command
from typer.main import get_group
from typer.testing import CliRunner

from hyca_calib.cli import app
from hyca_calib.commands import benching
from hyca_calib.commands.options import SearchLimits, TraceOptions
from hyca_calib.commands.presets import OFFERS
from hyca_calib.search.sources import BEST, SOURCES
from hyca_calib.trace.store import Trace
from hyca_runtime import load_plan

BENCH = Path(__file__).parents[2] / "studies/bench"
COMMANDS = get_group(app).commands
COUNTED = [*MODEL, "--trials", "2", "--probes", "4", "--confirm", "60", "--rollouts", "4", "--refine", "60"]
QUICK = [*COUNTED, "--iterations", "2"]
"""Searches that end by numbers, never by the clock."""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trace in it."""
    return write_trace(tmp_path_factory.mktemp("recorded"), 7, 12)


@pytest.fixture
def traced(folder: Path, recorded: Path) -> Path:
    """A copy of the trace, in the working folder."""
    return Path(shutil.copytree(recorded, folder / "traces" / recorded.name))


@pytest.fixture
def studied(traced: Path, folder: Path) -> Path:
    done = run("search", "--budget", "3x", *QUICK, "--out", "studies/s")
    assert done.exit_code == 0, done.output
    return folder / done.stdout.strip()


@pytest.fixture
def brief_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    """One exact solution, one look at the clock, and searches of the least work."""
    monkeypatch.setattr(benching, "QUICK_LIMITS", replace(benching.QUICK_LIMITS, trials=2, probes=4))
    monkeypatch.setattr("hyca_calib.bench.stage.NUM_EXACT", 1)
    monkeypatch.setattr("hyca_calib.bench.stage.REPEATS", 1)


@pytest.mark.usefixtures("brief_bench")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_trace_search_evaluate_report(traced: Path, studied: Path, folder: Path) -> None:
    assert Trace(traced).num_steps == 12
    assert {p.name for p in studied.parent.iterdir()} >= {
        "journal.log",
        "pictures",
        "plan.json",
        "report.html",
        "report.md",
        "request.json",
        "result.json",
        "runs",
    }
    page = (studied.parent / "report.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 6
    assert "http" not in page
    for link in ("wall", "schedule", "errors", "trajectories", "tried"):
        assert f"pictures/{link}.png" in (studied.parent / "report.md").read_text()
        assert (studied.parent / "pictures" / f"{link}.png").stat().st_size > 1000

    done = run(
        "evaluate", "--model", "tiny:pipeline", "--plan", studied, "--prompts", "prompts.txt", "--samples", 3, "--json"
    )
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    assert {"psnr_db", "ssim", "flops_ratio", "wall_ratio", "steps_total", "steps_computed", "cache_bytes"} <= set(
        figures
    )
    assert figures["num_samples"] == 3
    assert figures["steps_total"] == 12
    assert figures["flops_ratio"] == figures["steps_flops_ratio"] >= 3, "nothing else runs on every step"
    section = load_plan(studied).section
    assert figures["flops_ratio"] == pytest.approx(section.flops_ratio, rel=0.02)
    assert section.certificate is not None
    assert section.certificate.num_samples == 3
    assert section.timing is not None
    cost = Trace(traced).cost
    assert section.timing.seconds == (cost.full_seconds, cost.predicted_seconds)
    assert (section.timing.dtype, section.timing.batch) == ("float32", 1)

    again = run("search", "--budget", "3x", *QUICK, "--out", "studies/s")
    assert again.exit_code == 0
    assert "complete already" in again.stderr
    (studied.parent / "report.html").unlink()
    assert run("report", "--study", studied.parent, *MODEL).exit_code == 0
    for page in ("report.html", "report.md"):
        assert f"On the test split: PSNR {section.certificate.mean_db:.2f} dB" in (studied.parent / page).read_text()

    bench = ["bench", "--model", "tiny:pipeline", "--prompts", "prompts.txt", "--samples", 14, "--steps", 12]
    done = run(*bench, "--plan", studied, "--only", "fewer steps", "--settings", 3, "--out", "b")
    assert done.exit_code == 0, done.output
    rows = json.loads((folder / "b" / "bench.json").read_text())["rows"]
    assert sum(row["ours"] for row in rows) == 1
    assert all(row["result"] is not None for row in rows)
    assert "HyCa plan s" in (folder / "b" / "bench.md").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("brief_bench", "unreported")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_quick_bench_makes_its_own_plans(folder: Path) -> None:
    bench = ["bench", "--quick", *MODEL, "--prompts", "prompts.txt", "--budget", "2x,3x", "--steps", 9, "--out", "b"]
    bench += ["--point", "trunk", "--point", "trunk:residual"]
    bench += ["--samples", 7, "--rollouts", "4", "--iterations", "2", "--settings", "2"]
    others = ["fewer steps", "DPM-Solver++", "TaylorSeer", "MagCache", "HyCa as published", "L2P"]
    bench += [f"--only={family}" for family in others]
    done = run(*bench)
    assert done.exit_code == 0, done.output
    rows = json.loads((folder / "b" / "bench.json").read_text())["rows"]
    assert {row["family"] for row in rows} >= {"HyCa", *others}
    assert [row["method"] for row in rows if row["ours"]] == ["HyCa plan 2x", "HyCa plan 3x"]
    assert (folder / "b" / "bench.csv").read_text().count("\n") == len(rows) + 1
    assert (folder / "b" / "bench.png").stat().st_size > 10_000
    assert set(json.loads((folder / "b/plans/2x/result.json").read_text())["points"]) == {"trunk", "trunk:residual"}
    assert "complete already" in run(*bench).stderr


@pytest.mark.usefixtures("unreported")
def test_several_budgets_in_one_go(traced: Path) -> None:
    quick = [*MODEL, "--trials", "1", "--probes", "0", "--confirm", "0", "--refine", "0"]
    done = run("search", "--budget", "2x,3x,1x", *quick, "--out", "studies/many")
    assert done.exit_code == 0, done.output
    ratios = [load_plan(line).section.flops_ratio or 0 for line in done.stdout.split()]
    assert ratios[0] >= 2
    assert ratios[1] >= 3
    assert ratios[2] == 1
    page = Path("studies/many/front.md").read_text()
    assert (
        page.index("| 1.00x | 12 of 12 |") < page.index(f"| {ratios[0]:.2f}x |") < page.index(f"| {ratios[1]:.2f}x |")
    )
    assert Path("studies/many/front.png").stat().st_size > 1000


def test_presets_are_plans_too(traced: Path) -> None:
    done = run("search", "--budget", "2x", "--preset", "hyca", "--multistep", "recursive", *MODEL)
    assert done.exit_code == 0, done.output
    plan = Path(done.stdout.strip())
    assert plan.parent.name.endswith("2x-hyca")
    assert json.loads((plan.parent / "result.json").read_text())["multistep"] == "recursive"
    assert "Recipe" in (plan.parent / "report.md").read_text()
    refused = run("search", "--budget", "2x", "--preset", "alchemy")
    assert refused.exit_code == 2
    assert "unknown preset 'alchemy'. Known: best" in refused.output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["search", "--budget", "banana"], "banana"),
        (["search", "--budget", "0.5x"], "more than the full run"),
        (["search", "--budget", "100x"], "cannot be met"),
        (["search", "--budget", "3x", "--trace", "nowhere.zarr"], "no such trace"),
        (["trace", "--model", "tiny:nothing", "--prompts", "prompts.txt"], "cannot import the factory"),
        (["trace", "--model", "no_such_package:pipe", "--prompts", "prompts.txt"], "cannot import the factory"),
        (["trace", "--model", "tiny:prompts", "--prompts", "prompts.txt"], "expected a pipeline"),
        pytest.param(
            *(["trace", "--model", "./no/such/folder", "--prompts", "prompts.txt"], "unknown model"),
            marks=pytest.mark.filterwarnings("ignore:`torch_dtype`:FutureWarning"),  # older diffusers know nothing else
        ),
        (["trace", "--model", "tiny:pipeline"], "give --prompts"),
        (["trace", "--prompts", "none.txt"], "cannot read the prompts"),
        (["trace", "--samples", "2"], "need at least 7 samples"),
        (["evaluate", "--plan", "none.json"], "cannot read the plan"),
        (["report", "--study", "none"], "no complete study"),
        (["search", "--budget", "3x"], "if you trust it, say so with --model tiny:pipeline"),
        (["search", "--budget", "3x", "--model", "demo"], "its weights differ"),
        (["trace", "--samples", "many"], "valid integer"),
        (
            ["trace", "--model", "tiny:pipeline", "--prompts", "prompts.txt", "--out", ".", "--overwrite"],
            "holds no trace",
        ),
        (["search", "--budget", "3x", "--trace", "."], "is there, but no trace"),
        (["trace", "--model", "own", "--prompts", "prompts.txt"], "diffusers cannot load it"),
        (["nonsense"], "No such command"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(traced: Path, arguments: list[str], reason: str) -> None:
    Path("own").mkdir()
    Path("own/model_index.json").write_text('{"_class_name": "OwnPipeline", "_diffusers_version": "0.36.0"}')
    done = run(*arguments)
    assert done.exit_code == 2, done.stderr
    assert reason in " ".join(done.stderr.split())
    assert done.stdout == ""


def test_an_error_of_a_process_is_one_line(folder: Path) -> None:
    """As a shell shows it, the last line whatever imports print; and the Hub is not asked."""
    command = [sys.executable, "-W", "ignore", "-m", "hyca_calib", "trace", "--model", "someone/something"]
    command += ["--prompts", "prompts.txt"]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert "fetched only with --download" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_truncated_trace_is_refused(traced: Path) -> None:
    (traced / "points" / "trunk" / "gram" / "zarr.json").write_text("{")
    done = run("search", "--budget", "3x", *QUICK)
    assert done.exit_code == 2
    assert "damaged or truncated" in done.stderr
    assert not list(Path("studies").glob("*"))


@pytest.mark.usefixtures("unreported")
def test_a_killed_search_leaves_no_plan_and_is_taken_up_again(traced: Path, folder: Path) -> None:
    arguments = ["search", "--budget", "3x", *COUNTED, "--iterations", "4", "--out", "studies/killed"]
    study = folder / "studies" / "killed"
    process = forked().Process(target=killed_command, args=(folder, "refine.safetensors", *arguments))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (study / "refine.safetensors").exists()
    assert not (study / "plan.json").exists()
    assert run("evaluate", "--plan", study / "plan.json").exit_code == 2
    journal = (study / "journal.log").read_text()
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    assert (study / "journal.log").read_text().startswith(journal)
    assert (study / "plan.json").exists()
    assert run(*[*arguments, "--seed", "5"]).exit_code == 2  # another request in the same folder


def test_what_is_not_said_has_the_defaults_of_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []
    monkeypatch.setattr("hyca_calib.commands.tracing.trace_model", given.append)

    def search_plans(*asked: object) -> list[Path]:
        given.append(asked)
        return []

    monkeypatch.setattr("hyca_calib.commands.searching.search_plans", search_plans)
    assert run("trace").exit_code == run("trace", "--steps", 9, "--force").exit_code == 0
    assert run("search", "--budget", "2x", "--trials", 3).exit_code == 0
    assert given == [TraceOptions(), TraceOptions(steps=9, force=True), ("2x", [], SearchLimits(trials=3), None)]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_explains_every_option(command: str) -> None:
    done = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "300", "TERM": "dumb"})
    assert done.exit_code == 0
    assert f"Example: python -m hyca_calib {command}" in done.output
    assert all(getattr(p, "help", None) for p in COMMANDS[command].params if p.name != "help")


def test_an_old_plan_is_written_anew(folder: Path) -> None:
    old = BENCH / "demo/5x.plan.json"
    plan = Path(shutil.copy(old, folder / "plan.json"))
    done = run("upgrade", plan, "--out", "new.json")
    assert done.exit_code == 0, done.output
    assert plan.read_bytes() == old.read_bytes()
    assert json.loads((folder / "new.json").read_text())["version"] == 3
    assert run("upgrade", plan).exit_code == 0
    assert load_plan(plan) == load_plan("new.json") == load_plan(old)
    assert run("upgrade", "none.json").exit_code == 2


def test_an_option_of_another_preset_is_refused() -> None:
    for options, told in (
        (("--multistep", "recursive"), "--multistep is for --preset hold or taylorseer or foca or hicache or hyca"),
        (("--preset", "dicache", "--lookahead", "4"), "--lookahead is for --preset smoothcache, got --preset dicache"),
        (("--preset", "teacache", "--trials", "9"), "--trials is for --preset best or adaptive, got --preset teacache"),
        (("--preset", "dbcache", "--refine", "3"), "of dbcache its fitted rows: add --fitted, or leave it out"),
        (("--preset", "hyca", "--effort", "quick"), "--effort is for --preset best or adaptive or"),
        (("--preset", "smothcache"), 'did you mean "smoothcache"?'),
    ):
        refused = run("search", "--budget", "2x", *options)
        assert refused.exit_code == 2
        assert told in " ".join(refused.output.split())


def test_every_preset_says_where_it_is_from() -> None:
    assert {BEST, *SOURCES} == set(OFFERS)
    help_text = " ".join(run("search", "--help").output.replace("│", " ").split())
    for name, source in SOURCES.items():
        assert f"{name}: {source.partition(':')[0]}" in help_text
