"""Plans without calibration: what one call shows, where steps are computed, what is said of it."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from plans import STEPS, make_plan

from hyca_calib.commands.describing import describe
from hyca_calib.commands.options import EvaluateOptions
from hyca_calib.commands.plans import evaluate_file
from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_runtime import AttachError, CertificateError, apply_plan, load_plan, save_plan, starter_plan
from hyca_runtime.errors import BudgetError
from hyca_runtime.flop_count import count_flops
from hyca_runtime.solvers import Hold
from hyca_runtime.starter.rule import CURVE, SOLVER, learnt_steps
from studies.starter.rule import learnt_curve, published
from studies.zoo import PIPELINES


def test_the_curve_is_that_of_the_published_plans() -> None:
    assert learnt_curve(published(["demo", "demo-class", "demo-video"])) == CURVE


@pytest.mark.parametrize(("steps", "count"), [(50, 9), (28, 8), (8, 5), (4, 4), (12, 1), (5, 4)])
def test_steps_of_the_rule(steps: int, count: int) -> None:
    found = learnt_steps(steps, count)
    assert len(found) == count == len(set(found))
    assert (found[0], found == tuple(sorted(found)), max(found) < steps) == (0, True, True)


def test_a_plan_that_keeps_its_budget(pipe: EmojiPipeline) -> None:
    before = draw(pipe)
    plan = starter_plan(pipe, STEPS, "2.5x")
    assert "forward" not in vars(pipe.transformer)
    assert torch.equal(draw(pipe), before)
    section, told = plan.section, make_plan(pipe.transformer).section
    assert section.grid.timesteps == pytest.approx(told.grid.timesteps)
    assert section.grid.scheduler_timesteps == pytest.approx(told.grid.scheduler_timesteps)
    assert section.model == told.model
    assert (section.grid.scheduler, section.forecast.num_channels) == (
        told.grid.scheduler,
        pipe.transformer.config.in_channels,
    )
    assert section.forecast.groups_of()[0].solver == SOLVER.spec()
    assert section.flops_ratio is not None
    assert section.flops_ratio >= 2.5
    more = section.model_copy(
        update={"schedule": section.schedule.from_steps(STEPS, range(len(section.schedule.computed_steps) + 1))}
    )
    assert more.flops_ratio is not None
    assert more.flops_ratio < 2.5
    full = count_flops(lambda: pipe("red heart", num_inference_steps=1, output_type="latent"))
    assert section.action_flops is not None
    assert section.action_flops[0] == pytest.approx(full, rel=0.05), "beside a text encoder"
    with apply_plan(pipe, plan, on_mismatch="error") as session:
        draw(pipe)
        assert session.report().computed == len(section.schedule.computed_steps)


def draw(pipe: EmojiPipeline) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    options: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "latent", "return_dict": False}
    latents: torch.Tensor = pipe("red heart", generator=generator, **options)[0]
    return latents


@pytest.mark.parametrize(("name", "networks"), [("Wan 2.1", 1), ("Wan 2.2", 2), ("FLUX.1", 1)])
def test_pipelines_of_diffusers(name: str, networks: int) -> None:
    """Guidance in calls of its own, two networks, another sampler."""
    pipe, generator = PIPELINES[name].build(), torch.Generator().manual_seed(0)
    call = PIPELINES[name].arguments(lambda *shape: torch.randn(*shape, generator=generator))
    plan = starter_plan(pipe, STEPS, "1.5x", **call)
    assert len(plan.sections) == networks
    assert sum(section.schedule.num_steps for section in plan.sections) == STEPS
    with apply_plan(pipe, plan, on_mismatch="error") as session:
        pipe(num_inference_steps=STEPS, output_type="latent", **call)
        report = session.report()
    assert report.steps == STEPS
    assert report.computed == sum(len(section.schedule.computed_steps) for section in plan.sections)


def test_what_is_refused(pipe: EmojiPipeline) -> None:
    for budget in ("10 steps", 3):
        with pytest.raises(BudgetError, match="is no speed-up of 1x or more"):
            starter_plan(pipe, budget=budget)  # type: ignore[arg-type]
    with pytest.raises(BudgetError, match="budget 40x cannot be met by the transformer: one of 4 steps costs"):
        starter_plan(pipe, 4, "40x")
    for steps in (0, 8.5, "28"):
        with pytest.raises(BudgetError, match="expected how many the sampler makes"):
            starter_plan(pipe, steps)  # type: ignore[arg-type]
    with pytest.raises(AttachError, match="expected a pipeline"):
        starter_plan(pipe.transformer)
    assert starter_plan(pipe, 4, "1x").section.schedule.computed_steps == (0, 1, 2, 3)


def test_it_says_what_it_is(pipe: EmojiPipeline, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    save_plan(starter_plan(pipe, STEPS, "2x", solver=Hold()), path)
    assert describe(str(path))["calibration"].startswith("none, uncalibrated")
    with pytest.raises(CertificateError, match="got none"):
        apply_plan(pipe, path, require=10.0)
    (tmp_path / "prompts.txt").write_text("".join(f"{call['prompt']}\n" for call in tiny.prompts()))
    evaluate_file(EvaluateOptions(path, "tiny:pipeline", tmp_path / "prompts.txt", samples=5))
    assert "certified, PSNR" in capsys.readouterr().err.replace("\n", "")
    certificate = load_plan(path).section.certificate
    assert certificate is not None
    assert certificate.num_samples == 5
    assert describe(str(path))["calibration"] == "none, uncalibrated"
