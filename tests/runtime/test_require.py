"""Plans that must have a certificate: which are refused, and what the refusal says."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import tiny
import torch
from plans import make_plan

from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_runtime import CertificateError, Plan, apply_plan
from hyca_runtime.certified import content_digest, signature_of
from hyca_runtime.errors import PlanError, PrecisionWarning
from hyca_runtime.noise_gain import noise_gain_db
from hyca_runtime.plan_facts import Certificate
from hyca_runtime.precision import precision_of
from hyca_runtime.solvers import Hold, Newton


def certified(plan: Plan, **told: Any) -> Plan:
    """The plan with a certificate of 40.25 dB in float32, or of what is told."""
    facts: dict[str, Any] = {"workload": "0", "num_samples": 48, "metric": "PSNR", "mean_db": 41.0, "worst_db": 35.5}
    facts |= {"lower_db": 40.25, "level": 0.95, "sided": 1, "weights": "1", "device": "a GPU", "dtype": "float32"}
    facts |= {
        "versions": {},
        "commit": "2",
        "date": "2026-11-28",
        "content": content_digest(plan.section, plan.sections),
    }
    section = plan.section.model_copy(update={"certificate": Certificate(**facts | told)})
    return plan.model_copy(update={"sections": (section,)})


def signed(plan: Plan, pipe: EmojiPipeline) -> Plan:
    plain = certified(plan).section.certificate
    assert plain is not None
    return certified(plan, signature=signature_of(plain, pipe.transformer))


def test_a_certified_plan_is_applied(pipe: EmojiPipeline, plan: Plan) -> None:
    apply_plan(pipe, certified(plan), require=40.25).remove()
    apply_plan(pipe, plan).remove()


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"content": "other"}, "got one of other content, for the plan was changed since; measure it"),
        ({"lower_db": None}, "got no bound, of 48 samples; measure it on more prompts"),
        ({"level": 0.9}, "got a bound at 90 %, of 48 samples"),
        ({"lower_db": 39.9}, "got 39.90 dB; search a plan with a larger budget, or require less"),
        ({"dtype": "bfloat16"}, "expected weights in bfloat16, as it was certified, got float32; load it so, or"),
        ({"dtype": "torchao: int8, float32"}, "got float32"),
        ({"signature": "0"}, "expected the weights and the certificate that were signed, got others"),
    ],
)
def test_others_are_refused(pipe: EmojiPipeline, plan: Plan, told: dict[str, Any], reason: str) -> None:
    with pytest.raises(CertificateError) as error:
        apply_plan(pipe, certified(plan, **told), require=40.0)
    assert "'test', transformer: expected" in str(error.value)
    assert reason in str(error.value)
    assert str(error.value).endswith("Nothing was changed")
    assert "forward" not in vars(pipe.transformer)


@pytest.mark.parametrize("least", [float("nan"), "40", True])
def test_what_is_no_number_is_not_required(pipe: EmojiPipeline, plan: Plan, least: Any) -> None:
    with pytest.raises(PlanError, match="require: expected a number of dB, got"):
        apply_plan(pipe, certified(plan), require=least)


def test_no_certificate_at_all(pipe: EmojiPipeline, plan: Plan) -> None:
    with pytest.raises(CertificateError, match=r"certificate of at least 40 dB at 95 %, got none; measure it on this"):
        apply_plan(pipe, plan, require=40.0)


def test_quantised_weights_are_told_apart(pipe: EmojiPipeline, plan: Plan) -> None:
    half = pipe.transformer.to(torch.bfloat16)
    assert precision_of(half) == "bfloat16"
    with pytest.raises(CertificateError, match="expected weights in float32, as it was certified, got bfloat16"):
        apply_plan(pipe, certified(plan), require=30.0)
    apply_plan(pipe, certified(plan, dtype="bfloat16"), require=30.0).remove()


def test_what_was_certified_in_bfloat16_is_refused_on_int8(pipe: EmojiPipeline, plan: Plan) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    pipe.transformer.to(torch.bfloat16)
    made = certified(plan, dtype="bfloat16")
    apply_plan(pipe, made, require=40.0).remove()
    quantization.quantize_(pipe.transformer, quantization.Int8WeightOnlyConfig())
    with pytest.raises(
        CertificateError, match=r"expected weights in bfloat16, as it was certified, got .*int8"
    ) as error:
        apply_plan(pipe, made, require=40.0)
    assert "\n" not in str(error.value)
    assert "measure it on this model" in str(error.value)
    with pytest.warns(PrecisionWarning, match=rf"int8.*expected loss: {noise_gain_db(plan.section):.1f} dB of the"):
        apply_plan(pipe, made).remove()
    with warnings.catch_warnings():
        warnings.simplefilter("error", PrecisionWarning)
        apply_plan(pipe, certified(plan, dtype=precision_of(pipe.transformer))).remove()
        apply_plan(pipe, plan).remove()  # nobody knows what it was made on


def test_noise_of_computed_steps_weighs_as_often_as_it_is_forecast(pipe: EmojiPipeline) -> None:
    held = make_plan(pipe.transformer, solvers=[Hold()])
    line = make_plan(pipe.transformer, solvers=[Newton(1)])
    assert held.section.schedule.computed_steps == line.section.schedule.computed_steps == (0, 1, 4, 8)
    assert noise_gain_db(held.section) == pytest.approx(decibels(1, 3, 4, 4), abs=1e-3)
    assert noise_gain_db(line.section) == pytest.approx(decibels(1 - 3, 6 - 2, 6 - 1.5, 5.5), abs=1e-3)
    assert noise_gain_db(make_plan(pipe.transformer, computed=range(12)).section) == pytest.approx(0.0, abs=1e-6)


def decibels(*weighed: float) -> float:
    """What twelve even steps make of noise, of which each computed one weighs so much in all."""
    return 10 * math.log10(sum(w * w for w in weighed) / 12)


def test_a_signature_is_of_every_number_and_word(pipe: EmojiPipeline, plan: Plan) -> None:
    own = signed(plan, pipe)
    apply_plan(pipe, own, require=40.0).remove()
    better = own.section.certificate
    assert better is not None
    with pytest.raises(CertificateError, match="signed"):
        apply_plan(pipe, certified(plan, signature=better.signature, lower_db=40.5), require=40.0)
    weight = pipe.transformer.transformer_blocks[0].attn.to_q.weight
    with torch.no_grad():
        weight[1, 1] += 1e-3
    with pytest.raises(CertificateError, match="signed"):
        apply_plan(pipe, own, require=40.0)
    apply_plan(pipe, own).remove()


def test_a_session_asks_the_same_of_later_plans(pipe: EmojiPipeline, plan: Plan) -> None:
    with apply_plan(pipe, certified(plan), require=40.0) as session:
        with session.following(certified(make_plan(tiny.pipeline().transformer, (0, 5)))):
            pass
        with pytest.raises(CertificateError), session.following(plan):
            pass
