"""What evaluating a plan writes into it, and when it does not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from plans import STEPS, make_plan

from hyca_calib.commands.describing import describe
from hyca_calib.commands.options import EvaluateOptions
from hyca_calib.commands.plans import evaluate_file
from hyca_calib.pipelines.by_hand import hand_plan
from hyca_calib.pipelines.workload import Workload
from hyca_calib.quality.evaluate import evaluate_plan
from hyca_calib.quality.metrics import interval, prompt_groups
from hyca_runtime import CertificateError, Plan, PlanError, apply_plan, load_plan, save_plan
from hyca_runtime.certified import signature_of
from hyca_runtime.errors import CertificateWarning
from hyca_runtime.fingerprint import weights_digest
from hyca_runtime.plan_facts import Certificate, NewPromptBound
from hyca_runtime.point import parse_point

WORKLOAD = Workload(tiny.prompts(), num_samples=14, num_steps=STEPS, seed=3)


@pytest.fixture
def options(tmp_path: Path) -> EvaluateOptions:
    """Evaluates a plan that says its workload."""
    (tmp_path / "prompts.txt").write_text("".join(f"{call['prompt']}\n" for call in tiny.prompts()))
    plan = make_plan(tiny.pipeline().transformer)
    told = plan.model_copy(update={"provenance": {"workload": WORKLOAD.describe().model_dump()}})
    save_plan(told, tmp_path / "plan.json")
    return EvaluateOptions(tmp_path / "plan.json", "tiny:pipeline", tmp_path / "prompts.txt", samples=3)


def certificate_in(options: EvaluateOptions) -> Certificate | None:
    return load_plan(options.plan).sections[0].certificate


def test_what_was_found_stands_in_the_plan(options: EvaluateOptions, capsys: pytest.CaptureFixture[str]) -> None:
    before = load_plan(options.plan)
    found = evaluate_file(replace(options, samples=6, level=0.8))
    after, told = load_plan(options.plan), certificate_in(options)
    assert told is not None
    assert after.section.model_copy(update={"certificate": None}) == before.section
    jobs = WORKLOAD.of("test")[:6]
    mean, low, _ = interval(found.agreement_db_each, groups=prompt_groups(jobs), level=0.9)
    assert (told.mean_db, told.lower_db, told.worst_db) == (mean, low, min(found.agreement_db_each))
    assert told.worst_db < low < mean
    assert told.new_prompt == NewPromptBound(least_db=told.worst_db, level=0.8, num_prompts=6)
    assert (found.new_prompt_db, found.new_prompt_level, found.num_prompts) == (told.worst_db, 0.8, 6)
    assert f" dB, a new prompt {told.worst_db:.2f} dB or more with probability 0.8 (6 prompts), 6 test samples" in str(
        told
    )
    assert (told.num_samples, told.workload, told.metric) == (6, WORKLOAD.digest, "PSNR")
    assert told.weights == weights_digest(tiny.pipeline().transformer)
    assert (told.dtype, told.attention, told.sided, told.level) == ("float32", "native", 1, 0.95)
    assert (told.flops_ratio, told.wall_ratio, told.signature) == (found.flops_ratio, found.wall_ratio, None)
    assert f"x fewer FLOPs, {found.wall_ratio:.2f}x less time, " in str(told)
    assert "torch" in told.versions
    assert f"{options.plan}: certified, {told}" in capsys.readouterr().err.replace("\n", "")
    facts = describe(str(options.plan))
    assert facts["transformer: certificate"].startswith(f"PSNR {mean:.2f} dB (at least {low:.2f} at 95 %), worst")
    assert facts["transformer: certified"].startswith(f"weights {told.weights[:12]}, workload {told.workload[:12]}, c")
    assert sorted(path.name for path in options.plan.parent.iterdir()) == ["plan.json", "prompts.txt"]


def test_it_is_signed_when_asked(options: EvaluateOptions) -> None:
    evaluate_file(replace(options, samples=6, sign=True))
    told, pipe = certificate_in(options), tiny.pipeline()
    assert told is not None
    assert told.signature == signature_of(told, pipe.transformer)
    assert str(told).endswith(", signed")
    assert told.lower_db is not None
    apply_plan(pipe, options.plan, require=told.lower_db).remove()
    pipe.transformer.proj_out.bias.data += 1.0
    with pytest.raises(CertificateError):
        apply_plan(pipe, options.plan, require=told.lower_db)


def test_few_prompts_bound_nothing(options: EvaluateOptions, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate_file(replace(options, samples=4, coverage=True))
    heard = capsys.readouterr().err
    assert "no bound for a new prompt at 0.9: it takes 9 test prompts, got 4" in heard
    assert "coverage not told, it needs at least 9 prompts for the bound at 0.9 and 1 beside them, got 2 and 2" in heard
    told = certificate_in(options)
    assert told is not None
    assert (told.lower_db, told.new_prompt) == (None, None)
    assert " dB (no bound, of so few prompts), worst " in str(told)
    assert "at least" not in str(told)
    assert "new prompt" not in str(told)


def test_coverage_is_told(options: EvaluateOptions, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate_file(replace(options, samples=6, level=0.6, coverage=True, certify=False))
    assert "bounds of 3 prompts hold for 0.7" in capsys.readouterr().err


def test_the_file_is_left_alone(options: EvaluateOptions, capsys: pytest.CaptureFixture[str]) -> None:
    before = options.plan.read_bytes()
    evaluate_file(replace(options, certify=False))
    assert "certified" not in capsys.readouterr().err
    evaluate_file(replace(options, steps=6, on_mismatch="adapt", samples=1))
    assert "not certified, the runs were not the plan's (" in capsys.readouterr().err
    assert options.plan.read_bytes() == before


def test_a_signed_one_is_not_replaced_by_an_unsigned_one(
    options: EvaluateOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate_file(replace(options, sign=True))
    before = options.plan.read_bytes()
    evaluate_file(options)
    assert "not certified, its certificate is signed; give --sign to replace it" in capsys.readouterr().err
    assert options.plan.read_bytes() == before


def test_other_weights_and_a_model_that_is_not_given_are_told(
    options: EvaluateOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = load_plan(options.plan)
    made = {"name": "tiny:pipeline", "component": "transformer", "weights_digest": "of others"}
    save_plan(plan.model_copy(update={"provenance": {**plan.provenance, "model": made}}), options.plan)
    evaluate_file(replace(options, certify=False))
    told = " ".join(capsys.readouterr().err.split())
    assert "the transformer has other weights than the one that was traced, of 'tiny:pipeline'" in told
    with pytest.raises(PlanError, match="is of 'tiny:pipeline'; say with --model where that is"):
        evaluate_file(replace(options, model=None))


def test_fewer_samples_do_not_replace_it(options: EvaluateOptions, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate_file(options)
    before = options.plan.read_bytes()
    evaluate_file(replace(options, samples=2))
    assert "its certificate is of 3 samples, these are 2" in capsys.readouterr().err
    assert options.plan.read_bytes() == before


def test_an_edit_meanwhile_is_not_overwritten(
    options: EvaluateOptions, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    edited = make_plan(tiny.pipeline().transformer, computed=(0, 5))

    def slow(*arguments: Any) -> Any:
        save_plan(edited, options.plan)
        return evaluate_plan(*arguments)

    monkeypatch.setattr("hyca_calib.commands.plans.evaluate_plan", slow)
    evaluate_file(options)
    assert "not certified, the file was changed meanwhile" in capsys.readouterr().err
    assert load_plan(options.plan) == edited


def test_a_file_that_cannot_be_written_costs_no_figures(
    options: EvaluateOptions, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(plan: Plan, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hyca_calib.quality.certify.save_plan", full)
    assert evaluate_file(options).num_samples == 3
    assert "not certified, cannot write it: No space left" in capsys.readouterr().err


def test_an_edited_plan_is_measured_anew(options: EvaluateOptions) -> None:
    evaluate_file(options)
    content = json.loads(options.plan.read_text())
    content["sections"][0]["schedule"]["tables"]["*"][2] = 0
    options.plan.write_text(json.dumps(content))
    with pytest.warns(CertificateWarning):
        assert describe(str(options.plan))["transformer: certificate"].startswith("none: the plan was changed after")
    with pytest.warns(CertificateWarning):
        evaluate_file(options)
    assert load_plan(options.plan).outdated == ()


def by_hand(options: EvaluateOptions, schedule: Sequence[int] = (0, 1, 4, 8)) -> Plan:
    pipe = tiny.pipeline()
    plan = hand_plan(
        pipe, parse_point("trunk"), lambda: pipe("red star", num_inference_steps=STEPS), lambda steps: schedule
    )
    save_plan(plan, options.plan)
    return plan


def test_a_plan_by_hand_is_measured(options: EvaluateOptions, capsys: pytest.CaptureFixture[str]) -> None:
    plan = by_hand(options)
    found = evaluate_file(options)
    assert (found.steps_computed, found.steps_total, found.num_samples) == (4, STEPS, 3)
    assert "not certified, it does not say which samples it was made on" in capsys.readouterr().err
    assert load_plan(options.plan) == plan
    other = plan.section.model_copy(update={"component": "transformer_2"})
    save_plan(plan.model_copy(update={"sections": (plan.section, other)}), options.plan)
    with pytest.raises(PlanError, match="does not say how many steps its pipeline makes; give --steps"):
        evaluate_file(options)
