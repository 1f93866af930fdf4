"""Call shapes of diffusers' own pipelines: traced whole, followed, or refused aloud. Weights are tiny."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from adapters import PICTURE_PROMPT, SKIP_LAYER, pausing, with_picture_prompt
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler, FlowMatchLCMScheduler
from torch import Tensor

from hyca_calib.pipelines.by_hand import hand_plan
from hyca_calib.pipelines.workload import Job
from hyca_calib.trace.recorder import Recorder
from hyca_calib.trace.recording import Recording
from hyca_runtime import Plan, PlanMismatchError, apply_plan
from hyca_runtime.attach.points import find_block_lists
from hyca_runtime.errors import MissingHistoryWarning, PlanMismatchWarning, TraceError
from hyca_runtime.point import parse_point
from studies.zoo import PIPELINES

STEPS, COMPUTED = 12, (0, 1, 4, 8)


@dataclass
class Shape:
    """A pipeline of the zoo, changed, and called with more arguments; `passes`: how often a call denoises."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    change: Callable[[Any], object] = lambda pipe: None
    steps: int = STEPS
    passes: int = 1

    def __post_init__(self) -> None:
        self.tiny = PIPELINES[self.name]
        self.pipe = self.tiny.build()
        self.change(self.pipe)

    def draw(self, seed: int = 0) -> Tensor:
        return self.tiny.call(self.pipe, self.steps, seed=seed, **self.arguments)

    def plan(self) -> Plan:
        return hand_plan(self.pipe, parse_point("trunk"), self.draw, lambda n: [s for s in COMPUTED if s < n])

    def record(self, monkeypatch: pytest.MonkeyPatch) -> Recording:
        monkeypatch.setattr("hyca_calib.trace.recorder.sample_latents", lambda *_: self.draw())
        with Recorder(self.pipe, parse_point("trunk"), most_tokens=64) as recorder:
            return recorder.record([Job(0, "fit", 0, {})], self.steps, seed=0)


@contextmanager
def counted_blocks(pipe: Any) -> Iterator[list[int]]:
    """How many blocks ran in each call of the network."""
    calls = list[int]()
    blocks = [block for place in find_block_lists(pipe.transformer) for block in place.module.children()]
    handles = [block.register_forward_pre_hook(lambda *_: calls.append(calls.pop() + 1)) for block in blocks]
    handles.append(pipe.transformer.register_forward_pre_hook(lambda *_: calls.append(0)))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def ended(*names: str) -> dict[str, Any]:
    """A callback that switches guidance off half-way, as diffusers' guide has it."""

    def callback(pipe: Any, step: int, _time: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if step != STEPS // 2 - 1:
            return {}
        pipe._guidance_scale = 1.0
        return {name: tensors[name].chunk(2)[-1] for name in names}

    return {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": list(names)}


HALF_GUIDED = ended("prompt_embeds", "pooled_prompt_embeds")


def scheduled(kind: Any, **config: Any) -> Callable[[Any], None]:
    def change(pipe: Any) -> None:
        pipe.scheduler = kind(**config)

    return change


SHAPES: dict[str, tuple[Callable[[], Shape], int, dict[str, tuple[int, int]], list[str]]] = {
    # what it is: the pipeline, its steps, calls computed and made in each branch, branches that are traced
    "guidance in one call": (lambda: Shape("SD3"), 12, {"": (4, 12)}, ["1/2", "2/2"]),
    "guidance in two calls": (lambda: Shape("Chroma"), 12, {"": (4, 12), "#1": (4, 12)}, ["", "#1"]),
    "guidance within an interval": (
        lambda: Shape("SD3", SKIP_LAYER),
        12,
        {"": (4, 12), "#1": (4, 5)},  # steps 1 to 5; it has both features of step 5's forecast then
        [""],
    ),
    "guidance that a callback ends": (lambda: Shape("SD3", HALF_GUIDED), 12, {"": (3, 6), "#1": (6, 6)}, []),
    "guidance that a callback ends, in two calls": (
        lambda: Shape("Chroma", ended()),
        12,
        {"": (4, 12), "#1": (3, 6)},
        [""],
    ),
    "guidance that pauses": (
        lambda: Shape("Chroma", {"callback_on_step_end": pausing}),
        12,
        {"": (4, 12), "#1": (4, 4)},  # steps 0, 3, 6 and 9
        [""],
    ),
    "guidance that the pipeline ends": (lambda: Shape("Z-Image", {"cfg_truncation": 0.2}), 12, {"": (7, 12)}, []),
    "conditioning cast at every step": (
        lambda: Shape("Sana", change=lambda pipe: pipe.transformer.to(torch.bfloat16)),
        12,
        {"": (4, 12)},
        ["1/2", "2/2"],
    ),
    "a step that fills a cache of keys": (
        lambda: Shape("Qwen-Image 2.1"),
        12,
        {"cond": (4, 12), "uncond": (4, 12)},
        ["cond", "uncond"],
    ),
    "two calls a step": (
        lambda: Shape("SD3", change=scheduled(FlowMatchHeunDiscreteScheduler, shift=3.0), steps=8),
        15,
        {"": (4, 15)},
        ["1/2", "2/2"],
    ),
    "chunks, each denoised on its own": (
        lambda: Shape("HunyuanVideo Framepack", passes=2),
        12,
        {"": (4, 12), "#1": (4, 12)},
        ["", "#1"],
    ),
    "a picture as prompt": (
        lambda: Shape("FLUX.1", PICTURE_PROMPT, with_picture_prompt),
        12,
        {"cond": (4, 12), "uncond": (4, 12)},
        ["cond", "uncond"],
    ),
    "image to image": (lambda: Shape("FLUX.1 image to image", steps=18), 11, {"": (4, 11), "#1": (4, 11)}, ["", "#1"]),
}

TOLD = {
    "guidance within an interval": "it began at step 1",
    "guidance that a callback ends": "it began at step 6",
    "guidance that pauses": "a step of the plan passed without a call",
    "guidance that the pipeline ends": "the shapes of what it is called with changed",
}
"""Why steps that the plan predicts are computed, in the shapes where some are."""


@pytest.mark.filterwarnings("ignore::hyca_runtime.errors.MissingHistoryWarning")
@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_followed_and_nothing_is_announced_that_was_not_done(name: str) -> None:
    make, steps, streams, _ = SHAPES[name]
    shape = make()
    plan = shape.plan()
    assert plan.section.schedule.num_steps == steps
    with apply_plan(shape.pipe, plan) as session, counted_blocks(shape.pipe) as calls:
        found = shape.draw()
        report = session.report()
        assert {key[1]: (count.computed, count.steps) for key, count in report.streams.items()} == streams
        assert report.steps == steps
        predicted = sum(total - computed for computed, total in streams.values())
        assert calls.count(0) == shape.passes * predicted
        assert report.off_plan == TOLD.get(name, "")
        assert torch.equal(shape.draw(), found)


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_traced_whole_or_refused_with_the_cause(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, steps, _, branches = SHAPES[name]
    shape = make()
    if not branches:
        with pytest.raises(
            TraceError, match=r"got samples x tokens 2 x \d+ on step 0 and 1 x \d+ on step [68], as where guid"
        ):
            shape.record(monkeypatch)
        return
    recording = shape.record(monkeypatch)
    assert recording.branches == branches
    assert len(recording.timesteps) == len(recording.scheduler_timesteps or recording.timesteps) == steps
    sizes = {
        tuple(part.shape for part in step) for of_branch in recording.points["trunk"].features for step in of_branch
    }
    assert len(sizes) == 1
    assert recording.first_computed == (2 if "fills a cache" in name else 1)


def test_frames_with_times_of_their_own_are_computed_and_refused_by_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Diffusion forcing: several calls are made before the first step of the scheduler that is known."""
    sky = PIPELINES["SkyReels V2"]
    arguments: dict[str, Any] = {"prompt": None, "num_frames": 17}
    changed = replace(sky, kind="SkyReelsV2DiffusionForcingPipeline", arguments=lambda r: sky.arguments(r) | arguments)
    monkeypatch.setitem(PIPELINES, "forcing", changed)
    shape = Shape("forcing")
    plan = shape.plan()
    with apply_plan(shape.pipe, plan, "error") as session:
        shape.draw()
        assert session.report().computed == len(COMPUTED)
    shape.arguments = {"ar_step": 2, "causal_block_size": 1}
    with apply_plan(shape.pipe, plan) as session:
        shape.draw()
        report = session.report()
    assert report.off_plan == "calls of one branch on a step went from 9 to 1"
    assert all(count.predicted == 0 for count in report.streams.values())
    with pytest.raises(TraceError, match=r"frames with a time of their own each cannot be traced: .* got 1; call it"):
        shape.record(monkeypatch)


def test_a_cache_of_keys_changes_no_forecast() -> None:
    shape, plain = Shape("Qwen-Image 2.1"), Shape("Qwen-Image 2.1", {"use_kv_cache": False})
    plan = shape.plan()
    with apply_plan(shape.pipe, plan, "error"), apply_plan(plain.pipe, plan, "error"):
        torch.testing.assert_close(shape.draw(), plain.draw())


def test_a_late_branch_is_told_once_and_is_an_error_where_that_is_asked_for() -> None:
    shape = Shape("SD3", SKIP_LAYER)
    plan = shape.plan()
    with apply_plan(shape.pipe, plan), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", MissingHistoryWarning)
        arguments = shape.arguments | {"num_inference_steps": STEPS, "output_type": "latent"}
        embeds = shape.tiny.arguments(torch.ones)
        for _ in range(2):
            shape.pipe(generator=torch.Generator().manual_seed(0), **embeds, **arguments)
    messages = [str(warning.message) for warning in told if warning.category is MissingHistoryWarning]
    assert len(messages) == 1
    assert (
        "predicts step 2, but it is computed: branch '#1' lacks earlier features, for it began at step 1" in messages[0]
    )
    with apply_plan(shape.pipe, plan, "error"), pytest.raises(PlanMismatchError, match="branch '#1' lacks"):
        shape.draw()


class TestScheduler:
    """The pipeline's scheduler is looked up at each run."""

    def test_an_equal_one_may_take_its_place(self) -> None:
        shape = Shape("FLUX.1")
        plan = shape.plan()
        with apply_plan(shape.pipe, plan, "error") as session:
            found = shape.draw()
            shape.pipe.scheduler = type(shape.pipe.scheduler).from_config(shape.pipe.scheduler.config)
            assert torch.equal(shape.draw(), found)
            assert session.report().computed == len(COMPUTED)

    def test_another_pipeline_of_the_network_may_run_first(self) -> None:
        shape, other = Shape("FLUX.1"), Shape("FLUX.1")
        plan = shape.plan()
        other.pipe.transformer = shape.pipe.transformer
        fresh = FlowMatchEulerDiscreteScheduler.from_config(shape.pipe.scheduler.config)
        shape.pipe.scheduler = fresh  # untouched: it still has the timesteps of its training
        with apply_plan(shape.pipe, plan, "error") as session:
            for drawing in (other, shape, other):
                drawing.draw()
                assert session.report().computed == len(COMPUTED)

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (scheduled(FlowMatchLCMScheduler), "the sampler is FlowMatchLCMScheduler, not FlowMatchEuler"),
            (
                scheduled(FlowMatchEulerDiscreteScheduler, stochastic_sampling=True),
                "the sampler is FlowMatchEulerDiscreteScheduler with noise, not FlowMatchEuler",
            ),
        ],
        ids=["another kind", "with noise"],
    )
    def test_another_kind_does_not_follow_without_a_word(self, change: Callable[[Any], None], told: str) -> None:
        shape = Shape("FLUX.1", change=scheduled(FlowMatchEulerDiscreteScheduler))
        section = shape.plan().section
        grid = section.grid.model_copy(update={"scheduler": "FlowMatchEulerDiscreteScheduler"})
        plan = Plan(name="x", sections=(section.model_copy(update={"grid": grid}),))
        with apply_plan(shape.pipe, plan, "error") as session:
            shape.draw()
            assert session.report().computed == len(COMPUTED)
            change(shape.pipe)
            with pytest.raises(PlanMismatchError, match=told):
                shape.draw()

    def test_it_may_begin_at_a_later_step(self) -> None:
        """Image to image under a plan of text to image: steps are computed until the history is the plan's."""
        shape, later = Shape("FLUX.1"), Shape("FLUX.1 image to image")
        plan = shape.plan()
        later.pipe.transformer = shape.pipe.transformer
        later.pipe.scheduler = type(shape.pipe.scheduler).from_config(shape.pipe.scheduler.config)
        with apply_plan(later.pipe, plan) as session, warnings.catch_warnings():
            warnings.simplefilter("error", PlanMismatchWarning)
            later.draw()
            report = session.report()
        assert report.off_plan.startswith("it began at step 4")
        assert (report.computed, report.steps) == (5, 8)  # steps 4 to 8; step 9 is forecast from 8 and 4

    def test_it_may_begin_at_a_step_that_the_plan_predicts(self) -> None:
        shape, later = Shape("FLUX.1"), Shape("FLUX.1 image to image", {"strength": 0.05})
        plan = shape.plan()
        later.pipe.transformer = shape.pipe.transformer
        with apply_plan(later.pipe, plan) as session:
            with pytest.warns(MissingHistoryWarning, match=r"predicts step 11, .* for it began at step 11"):
                later.pipe(**later.tiny.arguments(torch.ones) | later.arguments, num_inference_steps=STEPS)
            assert (session.report().computed, session.report().steps) == (1, 1)
            assert session.report().off_plan == "it began at step 11"
        with apply_plan(later.pipe, plan, "error"), pytest.raises(PlanMismatchError, match="predicts step 11"):
            later.draw()


def test_timesteps_that_round_to_one_are_told_of_beforehand() -> None:
    shape = Shape("FLUX.1", steps=50)
    section = shape.plan().section
    network = shape.pipe.transformer.to(torch.bfloat16)
    plan = Plan(name="x", sections=(section,))
    with pytest.warns(PlanMismatchWarning, match=r"steps 0 and 1 have one timestep in torch.bfloat16"):
        apply_plan(network, plan).remove()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        apply_plan(shape.pipe, plan).remove()  # its scheduler tells


def test_threads_that_say_nothing_follow() -> None:
    """Each has a pipeline of its own around one network; the session knows the first one's scheduler."""
    shapes = [Shape("FLUX.1") for _ in range(3)]
    plan = shapes[0].plan()
    for shape in shapes[1:]:
        shape.pipe.transformer = shapes[0].pipe.transformer
    with apply_plan(shapes[0].pipe, plan, "error") as session, ThreadPoolExecutor(len(shapes)) as pool:
        alone = [shape.draw(seed) for seed, shape in enumerate(shapes)]

        def draw(number: int) -> tuple[Tensor, int]:
            found = shapes[number].draw(number)
            return found, session.report(own=True).computed

        for _ in range(3):
            for number, (found, computed) in enumerate(pool.map(draw, range(len(shapes)))):
                assert torch.equal(found, alone[number])
                assert computed == len(COMPUTED)
