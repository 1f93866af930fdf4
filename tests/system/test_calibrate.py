"""From a model to plans with certificates and reports by one command, killed anywhere, announced beforehand."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from commands import MODEL, run
from processes import LEAST_EFFORT, SMALL_EFFORT, forked, small_calibration
from torch import nn

from hyca_calib.bench.results import DemoRun
from hyca_calib.commands import announced as announcing
from hyca_calib.commands import calibration, demonstrating
from hyca_calib.commands.announced import Announcement, StageWork, announced, fitted
from hyca_calib.commands.calibrate_options import CalibrateOptions
from hyca_calib.commands.calibrating import Calibrated, calibrate_pipe
from hyca_calib.commands.describing import describe
from hyca_calib.commands.spending import Spent, read_spending, spending, told_spending
from hyca_calib.pipelines.builtin_prompts import builtin_prompts
from hyca_calib.pipelines.threads import best_threads, timed_threads
from hyca_calib.quality.evaluate import Evaluation
from hyca_calib.records.console import stages
from hyca_calib.search.effort import EFFORTS, Effort
from hyca_calib.search.smaller import LEAST_RANK
from hyca_calib.search.study import StudyFolder
from hyca_calib.trace import timed_model
from hyca_runtime import load_plan
from hyca_runtime.errors import StudyError

ASKED = (*MODEL, "--steps", "14", "--budget", "3x", "--threads", "1")
SMALL = ("calibrate", "--effort", "quick", *ASKED)
OUT = Path("studies/tiny-pipeline-3x")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EFFORTS, "quick", LEAST_EFFORT)


def unmeasured(plan: Path) -> dict[str, Any]:
    """What a plan says, without what was measured."""
    found: dict[str, Any] = json.loads(plan.read_text())
    for name in ("timing", "certificate"):
        assert found["sections"][0].pop(name) is not None
    return found


def plan_states(folder: Path) -> dict[str, str]:
    """What ``hyca info`` says of the plans of several budgets."""
    told = describe(str(folder))
    assert (told["model"], told["budgets"]) == ("tiny", "2x,3x")
    return {name: state for name, state in told.items() if state in ("begun", "complete")}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_killed_in_every_stage_it_ends_as_if_nothing_had_been(folder: Path) -> None:
    whole = run(*SMALL, "--out", "whole")
    assert whole.exit_code == 0, whole.output
    assert whole.stdout == "whole/plan.json\n"
    told, spent = describe("whole"), read_spending(Path("whole"))
    assert {"trace", "probe", "tune", "confirm", "refine", "evaluate", "report"} <= set(spent)
    for stage in (*spent, "in all"):
        assert re.search(r"^[\d.]+ s, announced .+ %\); host .+, announced .+ %\)$", told[f"{stage}: took"]), stage
    for victim in ("manifest.json", "refine.safetensors", "evaluation.json", "report.html"):
        process = forked().Process(target=small_calibration, args=(folder, victim, *ASKED, "--out", "killed"))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, victim
        assert not Path("killed/report.html").exists()
    done = run(*SMALL, "--out", "killed")
    assert done.exit_code == 0, done.output
    plans = [unmeasured(Path(name) / "plan.json") for name in ("whole", "killed")]
    for name, plan in zip(("whole", "killed"), plans, strict=True):
        assert plan["provenance"].pop("trace") == f"{name}/trace.zarr"
    assert plans[0] == plans[1]
    assert plans[0]["provenance"]["prompts"] == "built-in images"
    assert plans[0]["provenance"]["threads"] == 1
    assert plans[0]["provenance"]["effort"] == LEAST_EFFORT.told
    assert "On the test split: PSNR" in Path("killed/report.md").read_text(), "the report knows the certificate"
    assert run("evaluate", *MODEL, "--plan", "killed/plan.json", "--samples", 2, "--no-certify").exit_code == 0


def test_a_dry_run_tells_and_writes_nothing(folder: Path) -> None:
    done = run(*SMALL, "--prompts", "prompts.txt", "--dry-run")
    assert done.exit_code == 0, done.output
    for stage in ("trace", "probe", "tune", "confirm", "refine", "evaluate", "report", "in all"):
        assert stage in done.stderr
    assert done.stdout == ""
    assert sorted(path.name for path in folder.iterdir()) == ["prompts.txt"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--max-hours", "1e-9"), "the least that tells anything takes"),
        (("--budget", "100x"), "cannot be met"),
        (("--budget", "banana"), "banana"),
        (("--effort", "heroic"), "heroic"),
        (("--refine-at", "num_frames=8"), "takes no num_frames"),
        (("--refine-at", "0.5"), "expected height, width, num_frames with numbers"),
        (("--out", "."), "is not empty and holds no calibration"),
        (("--out", "prompts.txt"), "prompts.txt is a file, expected a folder"),
    ],
)
def test_bad_input_is_refused_before_any_work(folder: Path, options: tuple[str, ...], reason: str) -> None:
    refused = run(*SMALL, "--prompts", "prompts.txt", *options)
    assert refused.exit_code == 2
    assert reason in " ".join(refused.stderr.split())
    assert not OUT.exists()


def test_a_folder_is_of_one_calibration(folder: Path) -> None:
    asked = {"steps": 12, "seed": 0, "model": "tiny", "budget": "2x,3x"}
    StudyFolder.open(folder / "c" / "2x", {"budget": "2x", "limits": {}})
    calibration.Settled(asked, LEAST_EFFORT, 1).keep(folder / "c")
    assert calibration.Settled.in_folder(folder / "c", asked) == calibration.Settled(asked, LEAST_EFFORT, 1)
    assert plan_states(folder / "c") == {"2x": "begun"}
    with pytest.raises(StudyError, match="holds a calibration with another seed, steps"):
        calibration.Settled.in_folder(folder / "c", {"steps": 13, "seed": 1})
    (folder / "c" / "calibration.json").write_text("{}")
    with pytest.raises(StudyError, match="no calibration"):
        calibration.Settled.in_folder(folder / "c", asked)


def of_images() -> tuple[Any, nn.Module]:
    pipe = tiny.pipeline()
    return pipe, pipe.transformer.transformer_blocks[0]


def of_chunks() -> tuple[Any, nn.Module]:
    pipe = tiny.stream()
    return pipe, pipe.transformer.blocks[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("made", [of_images, of_chunks])
def test_as_many_calls_are_made_as_were_announced(
    made: Callable[[], tuple[Any, nn.Module]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EFFORTS, "quick", SMALL_EFFORT)
    (pipe, block), calls, told = made(), list[int](), list[Announcement]()
    block.register_forward_pre_hook(  # runs where the network is computed
        lambda module, args, kwargs: calls.append(len(next(iter([*args, *kwargs.values()])))), with_kwargs=True
    )
    keep = calibration.Settled.keep

    def heard(*given: Any) -> Announcement:
        told.append(announced(*given))
        return told[-1]

    def kept(settled: calibration.Settled, folder: Path) -> calibration.Settled:
        calls.clear()
        return keep(settled, folder)

    monkeypatch.setattr(calibration, "announced", heard)
    monkeypatch.setattr(calibration.Settled, "keep", kept)
    options = CalibrateOptions("tiny", steps=14, budget="3x", effort="quick", out=folder / "c", batch=4, threads=1)
    prompts = builtin_prompts("built-in images")
    calibrate_pipe(pipe, prompts, options)
    assert sum(calls) == pytest.approx(sum(work.calls for work in told[-1].stages), rel=0.2)


@pytest.mark.usefixtures("unreported")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_may_refine_through_smaller_samples(folder: Path) -> None:
    done = run(*SMALL, "--prompts", "prompts.txt", "--refine-at", "height=8,width=8")
    assert done.exit_code == 0, done.output
    told = load_plan(OUT / "plan.json").provenance["refinement"]
    assert told["size"] == {"height": 8, "width": 8}
    assert ("full_size_because" in told) == (told["rank_correlation"] < LEAST_RANK)
    refused = run(*SMALL, "--prompts", "prompts.txt")
    assert refused.exit_code == 2
    assert "holds a calibration with another refine_at" in " ".join(refused.stderr.split())


def test_several_processes_are_sent_to_the_steps(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    refused = run(*SMALL, "--prompts", "prompts.txt")
    assert refused.exit_code == 2
    assert "a calibration is one process" in refused.stderr


def test_a_network_without_room_for_its_gradient_is_announced_as_computed_twice(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured, roomy = timed_model._with_gradient, list[bool]()

    def cramped(module: Any, call: Any) -> tuple[float | None, int]:
        roomy.append(module.is_gradient_checkpointing)
        if not roomy[-1]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return measured(module, call)

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(timed_model, "_with_gradient", cramped)
    done = run(*SMALL, "--prompts", "prompts.txt", "--dry-run")
    assert done.exit_code == 0
    assert roomy == [False, True]
    assert "by evolution" not in done.stderr
    monkeypatch.setattr(timed_model, "_with_gradient", full)
    assert "taps will be refined by evolution" in run(*SMALL, "--prompts", "prompts.txt", "--dry-run").stderr


def test_as_many_steps_precede_the_first_forecast_as_in_published_plans() -> None:
    apart = list[int]()
    for path in Path(calibration.__file__).parents[2].glob("studies/bench/*/*.plan.json"):
        schedule = load_plan(path).section.schedule
        computed = schedule.computed_steps
        early = next(i for i, step in enumerate(computed) if step != i)
        apart.append(early - announcing._before_forecasts(schedule.num_steps, len(computed)))
    assert len(apart) > 20
    assert sum(map(bool, apart)) < len(apart) / 2
    assert -2 <= min(apart) <= max(apart) <= 6


def test_what_was_spent_stands_beside_what_was_announced(tmp_path: Path) -> None:
    works = [StageWork(name, 1, 1, 10.0, 0, 2**30) for name in ("trace", "refine 2x", "refine 3x")]
    for _ in range(2):  # of a calibration that goes on
        with spending(tmp_path, torch.device("cpu")), stages() as tell:
            tell("trace", 0.0, "")
            tell("refine", 0.0, "")
            tell("refine", 1.0, "")
    assert [*read_spending(tmp_path)] == ["trace", "refine"]
    spent = {"refine": Spent(25.0, 0, 2**29), "trace": Spent(5.0, 0, 2**29)}
    assert told_spending(Announcement(tuple(works)), spent) == {
        "trace: took": "5 s, announced 10 s (-50 %); host 512.0 MiB, announced 1.0 GiB (-50 %)",
        "refine: took": "25 s, announced 20 s (+25 %); host 512.0 MiB, announced 1.0 GiB (-50 %)",
        "in all: took": "30 s, announced 30 s (+0 %); host 512.0 MiB, announced 1.0 GiB (-50 %)",
    }
    assert told_spending(Announcement(tuple(works)), {}) == {}


def test_a_cut_is_no_deeper_than_it_must_be() -> None:
    def announce(effort: Effort) -> Announcement:
        return Announcement((StageWork("refine", 1, 1, 3.6 * effort.iterations, 0, 0),))

    whole = EFFORTS["thorough"]
    assert fitted(announce, whole, 0.48) == whole
    less = fitted(announce, whole, 0.24)
    assert less == whole.cut(0.5)
    with pytest.raises(StudyError, match=r"takes 0\.004 hours; allow more"):
        fitted(announce, whole, 0.003)


def test_the_fewest_threads_that_are_about_as_fast() -> None:
    assert best_threads({1: 1.0, 2: 0.95, 4: 0.93}) == 1
    assert best_threads({1: 4.0, 2: 2.0, 4: 2.5}) == 2
    before, seen = torch.get_num_threads(), list[int]()
    assert [*timed_threads(lambda: seen.append(torch.get_num_threads()), 6)] == [1, 2, 4, 6]
    assert sorted(set(seen)) == [1, 2, 4, 6]
    assert torch.get_num_threads() == before


def test_threads_are_timed_where_nobody_says_them(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(calibration, "timed_threads", lambda run: {1: 2.0, 2: 1.0})
    before, used = torch.get_num_threads(), list[int]()
    monkeypatch.setattr(torch, "set_num_threads", used.append)  # two would wait for each other on a busy machine
    done = run("calibrate", "--effort", "quick", *MODEL, "--steps", 12, "--prompts", "prompts.txt", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "2 threads, the fastest here (1: 2 s, 2: 1 s)" in done.stderr
    assert used == [2, before]


def test_the_demo_is_a_calibration_and_records_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = Evaluation(
        psnr_db=70.0,
        psnr_db_worst=60.0,
        ssim=1.0,
        ssim_worst=1.0,
        latent_error=0.0,
        flops_ratio=5.0,
        psnr_db_each=(80.0, 60.0),
        wall_ratio=4.0,
        steps_total=50,
        steps_computed=10,
        cache_bytes=1,
        num_samples=2,
        batch=8,
    )
    asked = list[CalibrateOptions]()

    def calibrate(options: CalibrateOptions) -> list[Calibrated]:
        asked.append(options)
        return [Calibrated(options.folder / "plan.json", options.folder / "report.html", result, 3)]

    monkeypatch.setattr(demonstrating, "calibrate", calibrate)
    done = run("demo", "--effort", "quick", "--record", "run.json")
    assert done.exit_code == 0, done.output
    assert asked == [CalibrateOptions("demo", budget="5x", effort="quick", point="trunk")]
    assert asked[0].folder == Path("studies/demo-5x")
    found = DemoRun.model_validate_json(Path("run.json").read_text())
    assert (found.budget, found.threads, found.result) == ("5x", 3, result)
    asked[0].folder.mkdir(parents=True)
    refused = run("demo", "--record", "run.json")
    assert refused.exit_code == 2
    assert "--record tells of a whole run" in refused.stderr
