"""Probes of pipelines that call no network in few steps, or only know some numbers of steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
from storage import record

from hyca_calib.commands.options import SearchLimits
from hyca_calib.commands.searching import search_with
from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.pipelines.short_runs import shortest
from hyca_calib.pipelines.workload import Workload
from hyca_runtime import load_plan
from hyca_runtime.errors import WorkloadError


class OfStrength(EmojiPipeline):
    """As diffusers' image-to-image: a share of the steps is run, which may be none."""

    def __call__(self, prompt: Any, num_inference_steps: int = 8, **options: Any) -> Any:  # type: ignore[override]
        if not (steps := int(0.4 * num_inference_steps)):
            raise ValueError("the number of pipeline steps is 0")
        return super().__call__(prompt, num_inference_steps=steps, **options)


class Distilled(EmojiPipeline):
    """It has schedules of 6 and 12 steps only."""

    def __call__(self, prompt: Any, num_inference_steps: int = 12, **options: Any) -> Any:  # type: ignore[override]
        if num_inference_steps not in (6, 12):
            raise ValueError(f"schedules of 6 and 12 steps, got {num_inference_steps}")
        return super().__call__(prompt, num_inference_steps=num_inference_steps, **options)


def test_steps_double_until_something_is_found() -> None:
    asked = list[int]()

    def run(steps: int) -> str | None:
        asked.append(steps)
        if steps < 4:
            raise WorkloadError("too few")
        return "found" if steps >= 16 else None

    assert shortest(20, run) == "found"
    assert asked == [2, 4, 8, 16]
    assert shortest(8, run) is None
    with pytest.raises(WorkloadError, match="too few"):
        shortest(3, run)
    asked.clear()
    with pytest.raises(WorkloadError, match="too few"):
        shortest(20, run, in_vain=lambda: True)
    assert asked == [2]


@pytest.mark.parametrize(
    ("preset", "kind", "steps"),
    [
        ("seacache", OfStrength, 20),
        ("smoothcache", OfStrength, 20),
        ("cachequant", OfStrength, 20),
        ("seacache", Distilled, 12),
    ],
)
def test_presets_measure_what_two_steps_do_not_show(
    preset: str, kind: type[EmojiPipeline], steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pipe = tiny.as_kind(kind)
    record("t.zarr", Workload(tiny.prompts(), 7, steps, 0), pipe)
    budget, limits = "1.2x", SearchLimits(preset=preset)
    (path,) = search_with(lambda model: pipe, budget, ["t.zarr"], limits, Path("study"), reported=False)
    assert load_plan(path).section.schedule.num_steps == (8 if kind is OfStrength else 12)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_search_ends_where_fewer_steps_cannot_be_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pipe = tiny.as_kind(Distilled)
    record("t.zarr", Workload(tiny.prompts(), 7, 12, 0), pipe)
    limits = SearchLimits(trials=1, confirm=0.01, rollouts=1, probes=0, refine=0)
    (path,) = search_with(lambda model: pipe, "3x", ["t.zarr"], limits, Path("study"), reported=False)
    assert "fewer_steps" not in load_plan(path).provenance
    assert "not compared with the sampler alone in 4 steps: Distilled failed" in capsys.readouterr().err.replace(
        "\n", " "
    )
