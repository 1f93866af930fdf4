"""The distilled model: its weights are what differs, it comes nearer in eight steps, and its card says how near."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hyca_calib.demo import demo_pipeline, demo_prompts, weights_of
from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.demo.turbo.pipeline import CHANGED, STEPS, TurboPipeline
from studies.training.emoji import distil_card
from studies.training.emoji.distil import TRAINED, Recipe, own_errors, step_loss, teacher_run

WEIGHTS = weights_of("demo-turbo")


def test_size_and_card() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12e6
    assert {path.suffix for path in files} == {".json", ".safetensors", ".md", ".png"}
    card, facts = (WEIGHTS / "README.md").read_text(), json.loads((WEIGHTS / "training.json").read_text())
    found = facts["psnr_db"]
    for way, each in found.items():
        assert len(each) == 2 * distil_card.EACH, way
        assert distil_card.told(each[: distil_card.EACH]) in card
        assert distil_card.told(each[distil_card.EACH :]) in card
    for fact in (f"{facts['step']} steps", f"{facts['recipe']['runs']} runs", "Licence", distil_card.verdict(found)):
        assert fact in card
    assert demo_prompts("demo-turbo") == demo_prompts("demo")


def test_only_what_was_trained_differs(tmp_path: Path) -> None:
    taught, own = demo_pipeline(), demo_pipeline("demo-turbo")
    assert isinstance(own, TurboPipeline)
    before = taught.transformer.state_dict()
    differs = {name for name, tensor in own.transformer.state_dict().items() if not torch.equal(tensor, before[name])}
    assert differs
    assert all(name.startswith(TRAINED) for name in differs)
    own.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [CHANGED]
    again = TurboPipeline.from_weights(tmp_path).transformer.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in own.transformer.state_dict().items())


def test_the_verdict_is_what_was_measured() -> None:
    assert distil_card.verdict({"own": [41.0, 43.0], "taught": [40.0, 44.5]}).startswith(
        "**Distillation has brought it"
    )
    assert "2.0 dB nearer on average, 2 of 2" in distil_card.verdict({"own": [42.0, 43.0], "taught": [40.0, 41.0]})


@pytest.fixture
def runs(pipe: EmojiPipeline) -> torch.Tensor:
    recipe = Recipe(batch=2, runs=2, teacher_steps=12, student_steps=8)
    return teacher_run(pipe, ["red heart", "dog"], recipe, torch.Generator().manual_seed(0))


def test_runs_of_the_teacher_are_cut_where_the_student_steps(pipe: EmojiPipeline, runs: torch.Tensor) -> None:
    assert runs.shape[:2] == (STEPS + 1, 2)
    points = list[torch.Tensor]()

    def keep(*told: Any) -> dict[str, torch.Tensor]:
        points.append(told[-1]["latents"])
        return {}

    pipe(["red heart", "dog"], num_inference_steps=12, latents=runs[0], callback_on_step_end=keep)
    torch.testing.assert_close(runs[1], (points[0] + points[1]) / 2)
    torch.testing.assert_close(runs[2], points[2])
    torch.testing.assert_close(runs[-1], points[-1])


def test_a_student_that_goes_the_teachers_way_has_no_loss(runs: torch.Tensor) -> None:
    """And steps at which it is off are drawn the most."""
    words, random = torch.tensor([[0], [1]]), torch.Generator().manual_seed(0)

    def knowing(state: torch.Tensor, t: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        step = (STEPS * (1 - t)).round().long()
        return STEPS * (state - runs[step + 1, words[:, 0]])

    def off_at_the_end(state: torch.Tensor, t: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        return knowing(state, t, words) + (t < 1.5 / STEPS).float().view(-1, 1, 1)

    assert own_errors(knowing, runs, words).max() < 1e-9
    missed = own_errors(off_at_the_end, runs, words)
    torch.testing.assert_close(missed, torch.eye(STEPS)[-1])
    loss_of = step_loss(runs, words, missed, Recipe(batch=4))
    assert loss_of(knowing, random) < 1e-9
    assert loss_of(off_at_the_end, random).item() == pytest.approx(1.0)
