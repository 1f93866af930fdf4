"""``hyca calibrate --from PLAN``: an earlier plan is kept where it holds, begun with where it does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from commands import MODEL, run
from plans import make_plan
from processes import SMALL_EFFORT

import hyca_calib
from hyca_calib.search.effort import EFFORTS
from hyca_calib.search.study import StudyFolder
from hyca_runtime import load_plan, save_plan
from hyca_runtime.certified import valid_certificate

ASKED = ("calibrate", "--effort", "quick", "--prompts", "prompts.txt", "--threads", "1")
PROMPTS = [call["prompt"] for call in tiny.prompts()]

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.usefixtures("unreported")]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EFFORTS, "quick", SMALL_EFFORT)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated plan."""
    folder = tmp_path_factory.mktemp("old") / "c"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EFFORTS, "quick", SMALL_EFFORT)
        patch.setattr("hyca_calib.commands.searching.report", lambda *_: None)
        hyca_calib.calibrate(tiny.pipeline(), PROMPTS, steps=14, budget="3x", effort="quick", out=folder)
    return folder / "plan.json"


def begun_with(plan: Path, *options: object) -> Any:
    return run(*ASKED, *MODEL, "--steps", 14, "--budget", "3x", "--from", plan, *options)


def result_of(done: Any) -> dict[str, Any]:
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = StudyFolder(Path(done.stdout.strip()).parent).read_result()
    return found


def test_a_plan_that_holds_is_kept_and_certified_anew(folder: Path, old: Path) -> None:
    done = begun_with(old, "--seed", 5)
    result = result_of(done)
    assert done.stdout.strip() == "studies/tiny-pipeline-3x-from/plan.json"
    assert "holds: PSNR" in " ".join(done.stderr.split())
    assert result["rollouts"] == []
    was, now = load_plan(old).section, load_plan(done.stdout.strip())
    assert now.section.points == was.points
    assert now.section.schedule == was.schedule
    certificate = valid_certificate(now.section, now.sections)
    assert certificate is not None
    assert was.certificate is not None
    assert certificate.workload != was.certificate.workload
    assert now.provenance["from"]["plan"] == load_plan(old).name
    assert now.provenance["held"]["upper_db"] >= was.certificate.lower_db
    told = run("info", done.stdout.strip()).stdout
    assert "kept as it was: it held" in told


def test_a_plan_whose_certificate_promises_more_is_begun_with(folder: Path, old: Path) -> None:
    plan = load_plan(old)
    certificate = plan.section.certificate
    assert certificate is not None
    promising = certificate.model_copy(update={"lower_db": 200.0})
    section = plan.section.model_copy(update={"certificate": promising})
    save_plan(plan.model_copy(update={"sections": (section,)}), Path("promising.json"))
    done = begun_with(Path("promising.json"), "--out", "c")
    result = result_of(done)
    assert "does not hold" in " ".join(done.stderr.split())
    assert [rolled["settings"]["inherit"] for rolled in result["rollouts"]].count(True) >= 1
    effort = load_plan("c/plan.json").provenance["effort"]
    assert effort == SMALL_EFFORT.started(probed=True).told
    assert effort["probes"] == 0
    again = run(*ASKED, *MODEL, "--steps", 14, "--budget", "3x", "--out", "c")
    assert again.exit_code == 2
    assert "holds a calibration with another from" in again.stderr


def test_other_steps_begin_with_its_schedule(folder: Path, old: Path) -> None:
    made = hyca_calib.calibrate(
        tiny.pipeline(), PROMPTS, steps=16, budget="3x", effort="quick", start=load_plan(old), out="c"
    )
    assert len(made.section.schedule.computed_steps) > len(load_plan(old).section.schedule.computed_steps)
    assert made.section.certificate is not None
    assert made.provenance["from"]["trace"] == load_plan(old).provenance["trace"]
    assert not any(
        rolled["settings"]["inherit"] for rolled in json.loads(Path("c/result.json").read_text())["rollouts"]
    )


def test_of_few_steps_a_plan_is_kept_with_its_palette(folder: Path) -> None:
    pipe = tiny.pipeline()
    old = hyca_calib.calibrate(pipe, PROMPTS, steps=6, budget="1.8x", effort="quick", out="old")
    assert len(old.section.points) > 1
    made = hyca_calib.calibrate(pipe, PROMPTS, steps=6, budget="1.8x", effort="quick", start=old, seed=5, out="new")
    assert "held" in made.provenance
    assert made.section.points == old.section.points
    assert made.section.schedule == old.section.schedule
    certificate = old.section.certificate
    assert certificate is not None
    promising = certificate.model_copy(update={"lower_db": 200.0})
    section = old.section.model_copy(update={"certificate": promising})
    begun = old.model_copy(update={"sections": (section,)})
    searched = hyca_calib.calibrate(pipe, PROMPTS, steps=6, budget="1.8x", effort="quick", start=begun, out="other")
    assert "held" not in searched.provenance
    rollouts = json.loads(Path("other/result.json").read_text())["rollouts"]
    assert any(rolled["settings"]["inherit"] for rolled in rollouts)


def test_less_is_announced(folder: Path, old: Path) -> None:
    done = begun_with(old, "--dry-run")
    assert done.exit_code == 0, done.output
    stages = [line.split()[1] for line in done.stderr.splitlines() if line.startswith("│")]
    assert stages == ["trace", "check", "tune", "confirm", "refine", "evaluate", "report", "in"]
    done = run(*ASKED, *MODEL, "--steps", 16, "--budget", "3x", "--from", old, "--dry-run")
    assert "check" not in done.stderr, "on other steps its rows are none"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"transformer": "WanTransformer3DModel"}, "the plan is for a WanTransformer3DModel, the model is a Flux"),
        ({"config_digest": "0" * 64}, "of another configuration; calibrate without it"),
    ],
)
def test_another_architecture_is_refused_before_any_work(folder: Path, change: dict[str, str], reason: str) -> None:
    plan = make_plan(tiny.pipeline().transformer)
    section = plan.section.model_copy(update={"model": plan.section.model.model_copy(update=change)})
    save_plan(plan.model_copy(update={"sections": (section,)}), Path("other.json"))
    refused = begun_with(Path("other.json"))
    assert refused.exit_code == 2
    assert reason in " ".join(refused.stderr.split())
    assert not Path("studies").exists()


def test_another_point_is_refused(folder: Path, old: Path) -> None:
    refused = begun_with(old, "--point", "output")
    assert refused.exit_code == 2
    assert "caches at 'trunk', got --point output" in " ".join(refused.stderr.split())
