"""What plans tell of themselves: seconds of steps, and certificates that are of their very content."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plans import changed, joint_plan, layered_plan, make_plan, probing_plan

from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_runtime import Plan, PlanError, apply_plan, load_plan, merge_plans, save_plan
from hyca_runtime.certified import content_digest, valid_certificate
from hyca_runtime.errors import CertificateWarning
from hyca_runtime.plan_facts import Certificate, Quality, Timing

TIMING = Timing(device="a GPU", dtype="bfloat16", batch=2, seconds=(0.5, 0.01))
BENCH = Path(__file__).parents[2] / "studies/bench"


def certified(plan: Plan) -> Plan:
    """The plan with a certificate on each of its sections."""

    def of(content: str) -> Certificate:
        facts: dict[str, Any] = {
            "workload": "0",
            "num_samples": 48,
            "metric": "PSNR",
            "mean_db": 41.0,
            "worst_db": 35.5,
        }
        facts |= {"lower_db": 40.25, "level": 0.95, "weights": "1", "device": "a GPU", "dtype": "bfloat16"}
        return Certificate(**facts | {"versions": {}, "commit": "2", "date": "2026-11-28", "content": content})

    given = [s.model_copy(update={"certificate": of(content_digest(s, plan.sections))}) for s in plan.sections]
    return plan.model_copy(update={"sections": tuple(given)})


def test_seconds_are_kept_and_told(pipe: EmojiPipeline, plan: Plan, tmp_path: Path) -> None:
    timed = changed(plan, timing=TIMING)
    save_plan(timed, tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == timed != plan
    assert timed.section.seconds_ratio == pytest.approx(12 * 0.5 / 2.08)
    assert plan.section.seconds_ratio is None
    with apply_plan(pipe, timed) as session:
        pipe("red heart", num_inference_steps=12)
        report = session.report()
    assert report.seconds_ratio == pytest.approx(timed.section.seconds_ratio)
    assert report.followed == timed.sections
    assert "2.94x by FLOPs of the transformer, 2.88x by seconds on a GPU in bfloat16)" in str(report)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("timing.seconds", [0.5], "timing.seconds: expected 2 numbers, one per action, got 1"),
        ("timing.seconds", [0.0, 0.1], "timing.seconds: expected positive numbers"),
        ("timing.batch", 0, "timing.batch"),
        ("timing.divice", "cpu", 'unknown field; did you mean "device"'),
        ("certificate.split", "select", "certificate.split"),
        ("certificate.level", 1.0, "certificate.level"),
        ("certificate.new_prompt", {"least_db": 30.0, "level": 1.0, "num_prompts": 9}, "certificate.new_prompt.level"),
        ("certificate.new_prompt", {"least": 3.0, "level": 0.9, "num_prompts": 9, "least_db": 3.0}, 'mean "least_db"'),
        ("certificate.worst", 1.0, 'unknown field; did you mean "worst_db"'),
    ],
)
def test_what_cannot_be_is_refused(plan: Plan, tmp_path: Path, path: str, value: Any, reason: str) -> None:
    content = certified(changed(plan, timing=TIMING)).model_dump(mode="json")
    part, field = path.split(".")
    content["sections"][0][part][field] = value
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(PlanError, match=reason):
        load_plan(tmp_path / "plan.json")


@pytest.mark.parametrize("make", [make_plan, layered_plan, probing_plan, joint_plan])
def test_a_certificate_survives_the_file(pipe: EmojiPipeline, tmp_path: Path, make: Callable[[Any], Plan]) -> None:
    plan = certified(make(pipe.transformer))
    save_plan(plan, tmp_path / "plan.json")
    again = load_plan(tmp_path / "plan.json")
    assert again == plan
    assert again.outdated == ()
    retold = again.section.model_copy(update={"quality": Quality(split="select", num_samples=1, psnr_db=1.0)})
    assert valid_certificate(retold, [retold]) == plan.section.certificate


def test_a_certificate_survives_version_2_written_anew(tmp_path: Path) -> None:
    save_plan(certified(load_plan(BENCH / "demo/5x.plan.json")), tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json").outdated == ()


def _swapped(section: dict[str, Any]) -> None:
    table = section["schedule"]["tables"]["*"]
    table[1], table[2] = table[2], table[1]


@pytest.mark.parametrize(
    "edit",
    [
        _swapped,
        lambda section: section["points"]["feature"]["groups"]["*"][0]["solver"].update(name="hold", configuration={}),
        lambda section: section["points"]["feature"]["at"].update(keep="residual"),
        lambda section: section["grid"].update(scheduler_timesteps=None),
    ],
    ids=["schedule", "solver", "point", "grid"],
)
def test_a_changed_plan_is_not_certified(plan: Plan, tmp_path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    content = certified(plan).model_dump(mode="json")
    edit(content["sections"][0])
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(content))
    with pytest.warns(CertificateWarning, match="transformer's plan was changed after it was certified.*evaluate"):
        found = load_plan(path)
    assert found.outdated == found.sections
    assert valid_certificate(found.section, found.sections) is None
    assert found.section.certificate is not None


def test_of_a_merged_plan_what_still_holds_stays(pipe: EmojiPipeline, plan: Plan) -> None:
    """Runs of other step counts change nothing, another network does: both were measured without the other."""
    other = make_plan(pipe.transformer, (0, 1, 4), steps=8)
    steps = merge_plans([certified(plan), other], "steps")
    assert [section.certificate is None for section in steps.sections] == [False, True]
    foreign = other.section.model.model_copy(update={"transformer": "AnotherTransformer"})
    with pytest.raises(PlanError, match="as transformer they expect AnotherTransformer and FluxTransformer2DModel"):
        merge_plans([plan, changed(other, model=foreign)], "two models")
    second = changed(other, component="transformer_2")
    networks = merge_plans([certified(plan), certified(second)], "networks")
    assert all(section.certificate is None for section in networks.sections)
    together = certified(networks)
    assert merge_plans([together], "again").sections == together.sections
    assert together.outdated == ()
    swapped = together.model_copy(update={"sections": together.sections[::-1]})
    assert swapped.outdated == ()
