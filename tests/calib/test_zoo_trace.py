"""Tracing and searching on pipelines of other families, from trace to applied plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import controlled
import pytest
import torch
from adapters import PICTURE_PROMPT, SKIP_LAYER, pausing, with_picture_prompt
from diffusers import FlowMatchHeunDiscreteScheduler
from PIL import Image
from torch import Tensor, nn
from torchao.quantization import Int8WeightOnlyConfig, quantize_

from hyca_calib.costs.budget import Budget, parse_budgets
from hyca_calib.pipelines.by_hand import hand_plan
from hyca_calib.pipelines.workload import Workload
from hyca_calib.search.options import Refinement, RolloutLimits, SearchOptions, Tuning
from hyca_calib.search.problem import Problem
from hyca_calib.search.run import search
from hyca_calib.search.study import StudyFolder
from hyca_calib.search.tune import tune
from hyca_calib.trace.run import trace
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan, apply_plan
from hyca_runtime.compiled_plan import OnMismatch
from hyca_runtime.errors import AttachError, WorkloadError
from hyca_runtime.plan import merge_plans
from hyca_runtime.point import parse_point
from studies.zoo import PIPELINES
from studies.zoo.base import Randn, TinyPipeline

STEPS = 6


class Prompted:
    """A pipeline of the zoo that is called with prompts: each word is a seed of embeddings.

    Args:
        arguments: more of every call.
        parts: other components.
    """

    def __init__(self, tiny: str | TinyPipeline, arguments: Mapping[str, Any] | None = None, **parts: Any) -> None:
        tiny = PIPELINES[tiny] if isinstance(tiny, str) else tiny
        self.tiny = replace(
            tiny,
            parts={**tiny.parts, **parts},
            arguments=lambda randn: {**tiny.arguments(randn), **(arguments or {})},
        )
        self.pipe = self.tiny.build()
        self.components = self.pipe.components
        self.scheduler = self.pipe.scheduler

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pipe, name)

    def __call__(
        self, prompt: list[str], generator: list[torch.Generator], num_inference_steps: int, **_: Any
    ) -> tuple[Tensor]:
        (word,), (noise,) = prompt, generator
        seed = int(word) + 10 * int(torch.randint(1 << 30, (1,), generator=noise))
        return (self.tiny.call(self.pipe, num_inference_steps, seed=seed),)


def plan_for(
    pipe: Prompted, folder: Path, point: str = "trunk", component: str = "transformer", budget: str = "1.5x"
) -> tuple[Trace, Plan]:
    workload = Workload(tuple({"prompt": str(i)} for i in range(7)), 7, STEPS, 0)
    path = folder / f"{component}.zarr"
    trace(pipe, workload, parse_point(point), path, model_name="zoo", batch=1, tokens=4, component=component)
    recorded = Trace(path)
    options = SearchOptions(RolloutLimits(minutes=60, rollouts=3), Refinement(0.0))
    study = StudyFolder.open(folder / f"study-{component}", {"trace": str(path)})
    (wanted,) = parse_budgets(budget)
    assert isinstance(wanted, Budget)
    problem = Problem(recorded)
    candidates = tune(problem, (wanted,), Tuning(trials=3, timeout=3600, groups=2), study.journal, 0)[wanted]
    return recorded, search(pipe, [candidates], wanted, study, options)


@pytest.mark.filterwarnings("ignore:In CPU autocast")  # Mochi's own pipeline
@pytest.mark.parametrize(
    ("name", "branches", "steps"),
    [
        ("FLUX.1", ["cond", "uncond"], 6),
        ("FLUX.1 image to image", ["", "#1"], 4),
        ("Qwen-Image", ["cond", "uncond"], 6),
        ("SD3", ["1/2", "2/2"], 6),
        ("PixArt-alpha", ["1/2", "2/2"], 6),
        ("Z-Image", ["1/2", "2/2"], 6),
        ("Lumina2", ["", "#1"], 6),
        ("Wan 2.1", ["cond", "uncond"], 6),
        ("HunyuanVideo", ["cond", "uncond"], 6),
        ("HunyuanVideo Framepack", ["", "#1"], 6),
        ("LTX", ["cond_uncond 1/2", "cond_uncond 2/2"], 6),
        ("LTX-2", ["cond_uncond", "uncond_stg", "uncond_modality"], 6),
        ("CogVideoX", ["cond_uncond 1/2", "cond_uncond 2/2"], 6),
        ("Mochi", ["cond_uncond 1/2", "cond_uncond 2/2"], 6),
        ("Qwen-Image 2.1", ["cond", "uncond"], 6),
    ],
)
def test_trace_search_apply(tmp_path: Path, name: str, branches: list[str], steps: int) -> None:
    searched_and_applied(Prompted(name), tmp_path, branches, steps)


class InInferenceMode(Prompted):
    @torch.inference_mode()
    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Tensor]:
        return super().__call__(*args, **kwargs)


def picture_prompted() -> Prompted:
    pipe = Prompted("FLUX.1", PICTURE_PROMPT)
    with_picture_prompt(pipe.pipe)
    return pipe


def quantised() -> nn.Module:
    network: nn.Module = PIPELINES["FLUX.1"].parts["transformer"]()
    quantize_(network, Int8WeightOnlyConfig())
    return network


TWO = ["cond", "uncond"]
CALL_SHAPES: dict[str, tuple[Callable[[], Prompted], list[str], int]] = {
    "guidance within an interval": (lambda: Prompted("SD3", SKIP_LAYER), [""], 6),
    "guidance that ends": (lambda: Prompted("Lumina2", {"cfg_trunc_ratio": 0.5}), [""], 6),
    "guidance that pauses": (lambda: Prompted("Chroma", {"callback_on_step_end": pausing}), [""], 6),
    "guidance that pauses, by name": (lambda: Prompted("Wan 2.1", {"callback_on_step_end": pausing}), ["cond"], 6),
    "conditioning cast at every step": (
        lambda: Prompted("Sana", transformer=lambda: PIPELINES["Sana"].parts["transformer"]().bfloat16()),
        ["1/2", "2/2"],
        6,
    ),
    "two calls a step": (
        lambda: Prompted("SD3", scheduler=lambda: FlowMatchHeunDiscreteScheduler(shift=3.0)),
        ["1/2", "2/2"],
        11,
    ),
    "a ControlNet": (lambda: Prompted(controlled.ALL[controlled.FLUX]), ["", "#1"], 6),
    "a picture as prompt": (picture_prompted, TWO, 6),
    "inference mode": (lambda: InInferenceMode("FLUX.1"), TWO, 6),
    "weights in eight bits": (lambda: Prompted("FLUX.1", transformer=quantised), TWO, 6),
}


@pytest.mark.parametrize("shape", CALL_SHAPES)
@pytest.mark.filterwarnings("ignore::hyca_runtime.errors.MissingHistoryWarning")
def test_call_shapes_are_searched(tmp_path: Path, shape: str) -> None:
    make, branches, steps = CALL_SHAPES[shape]
    searched_and_applied(make(), tmp_path, branches, steps, on_mismatch="compute")


def searched_and_applied(
    pipe: Prompted, folder: Path, branches: list[str], steps: int, on_mismatch: OnMismatch = "error"
) -> None:
    recorded, plan = plan_for(pipe, folder)
    assert recorded.branches == branches
    assert recorded.num_steps == steps
    assert recorded.gain.min() >= 0
    assert recorded.gain.max() > 0
    with apply_plan(pipe.pipe, plan, on_mismatch) as session:
        found = pipe.tiny.call(pipe.pipe, STEPS)
        report, promised = session.report(), session.memory()
    assert found.isfinite().all()
    assert report.steps == steps
    assert 0 < report.computed < steps
    assert report.cache_bytes == promised


def film_to_film(strength: float) -> Prompted:
    def arguments(randn: Randn) -> dict[str, Any]:
        film = [Image.new("RGB", (48, 32))] * 9
        given = {key: value for key, value in PIPELINES["Wan 2.1"].arguments(randn).items() if key != "num_frames"}
        return given | {"video": film, "strength": strength}

    return Prompted(replace(PIPELINES["Wan 2.1"], kind="WanVideoToVideoPipeline", arguments=arguments))


@pytest.mark.parametrize(("strength", "steps"), [(0.4, 4), (0.05, 0)])
def test_little_strength(tmp_path: Path, strength: float, steps: int) -> None:
    """Of a run of two steps, which tells what a trace needs, nothing would be left."""
    workload = Workload(tuple({"prompt": str(i)} for i in range(7)), 7, 10, 0)
    path = tmp_path / "t.zarr"
    none_left = pytest.raises(WorkloadError, match=r"drew 0 samples .*\(are 10 steps too few for this strength")
    with nullcontext() if steps else none_left:
        trace(film_to_film(strength), workload, parse_point("trunk"), path, model_name="zoo", batch=1, tokens=4)
        assert Trace(path).num_steps == steps


def test_a_scheduler_that_is_not_told_where_it_begins_is_followed() -> None:
    """It looks the first time up in its grid at its first step, which is after the first call."""
    pipe = film_to_film(0.6)
    steps, computed = 6, [0, 1, 4]
    plan = hand_plan(pipe.pipe, parse_point("trunk"), lambda: pipe.tiny.call(pipe.pipe, 10), lambda _: computed)
    times = plan.section.grid.scheduler_timesteps or ()
    assert len(times) == steps
    with apply_plan(pipe.pipe, plan, "error") as session:
        pipe.tiny.call(pipe.pipe, 10)
        assert times == tuple(pipe.scheduler.timesteps[-steps:].tolist())
        assert (session.report().computed, session.report().steps) == (len(computed), steps)


def test_a_point_that_does_not_give_the_step_back_is_refused(tmp_path: Path) -> None:
    """CogVideoX has a norm between its last block and the final one, so the embedding is not what is added to."""
    with pytest.raises(AttachError, match="predicted from its own feature to be that step, got a relative error"):
        plan_for(Prompted("CogVideoX"), tmp_path, "trunk:residual")


POINTS = ("output", "trunk:residual", "blocks", "span:blocks.0..blocks.1:residual", "modules:blocks.*.attn1")


@pytest.mark.parametrize("point", POINTS)
def test_every_kind_of_point_can_be_searched(tmp_path: Path, point: str) -> None:
    pipe = Prompted("Wan 2.1")
    recorded, plan = plan_for(pipe, tmp_path, point, budget="4 steps")
    assert str(recorded.point) == point
    with apply_plan(pipe.pipe, plan, "error") as session:
        assert pipe.tiny.call(pipe.pipe, STEPS).isfinite().all()
        assert session.report().computed == 4


def test_two_networks_one_plan(tmp_path: Path) -> None:
    pipe = Prompted("Wan 2.2")
    full = pipe.tiny.call(pipe.pipe, STEPS)
    plans = [plan_for(pipe, tmp_path, component=c, budget="1.3x")[1] for c in ("transformer", "transformer_2")]
    assert [plan.section.schedule.num_steps for plan in plans] == [2, 4]
    with apply_plan(pipe.pipe, merge_plans(plans, "wan"), "error") as session:
        found = pipe.tiny.call(pipe.pipe, STEPS)
        report = session.report()
    assert report.steps == STEPS
    assert report.computed == sum(len(plan.section.schedule.computed_steps) for plan in plans) < STEPS
    assert {key[0] for key in report.streams} == {"transformer", "transformer_2"}
    assert not torch.equal(found, full)
    assert torch.equal(pipe.tiny.call(pipe.pipe, STEPS), full)
