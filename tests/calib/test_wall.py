"""What a report sets beside a plan costs what the plan costs, or is not there."""

from __future__ import annotations

from functools import partial
from typing import Any

import controlled
import pytest
import torch
from torch import Tensor

from hyca_calib.costs.same_cost import MORE, SAME_COST, costs_the_same
from hyca_calib.pipelines.by_hand import hand_plan
from hyca_calib.pipelines.workload import Job
from hyca_calib.report.wall import draw_wall
from hyca_runtime import Plan
from hyca_runtime.point import parse_point
from studies.zoo import PIPELINES
from studies.zoo.base import TinyPipeline

JOBS = [Job(0, "select", 0, {"prompt": "0"})]


class Drawing:
    """A pipeline of the zoo that is called with prompts and draws pictures."""

    def __init__(self, tiny: TinyPipeline) -> None:
        self.tiny, self.pipe = tiny, tiny.build()

    @property
    def components(self) -> dict[str, Any]:
        return dict(self.pipe.components)

    @property
    def scheduler(self) -> Any:
        return self.pipe.scheduler

    @scheduler.setter
    def scheduler(self, scheduler: Any) -> None:
        self.pipe.scheduler = scheduler

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pipe, name)

    def __call__(self, prompt: list[str], num_inference_steps: int, output_type: str, **_: Any) -> tuple[Tensor]:
        torch.manual_seed(0)
        return (self.tiny.call(self.pipe, num_inference_steps, len(prompt), output_type=output_type),)


def planned(pipe: Drawing, steps: int, computed: list[int], point: str = "trunk") -> Plan:
    sample = partial(pipe, ["0"], steps, "latent")
    return hand_plan(pipe, parse_point(point), sample, lambda count: [s for s in computed if s < count])


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """No sampler but the pipeline's own."""
    monkeypatch.setattr("hyca_calib.report.wall.samplers", lambda pipe, setup: [])


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("name", "steps", "computed", "rival"),
    [
        ("Wan 2.2", 8, [0], "7 steps"),
        ("FLUX.1 image to image", 10, [0, 1, 2], "5 steps"),  # of 6 that run
        (
            "FLUX.1 image to image",
            10,
            [0, 1],
            None,
        ),  # 3 or 4 steps would be 2 or 3 that run: less, or half as much again
    ],
)
def test_fewer_steps_of_the_same_cost(name: str, steps: int, computed: list[int], rival: str | None) -> None:
    """Where a plan is for one of two networks, and where a call runs fewer steps than it is asked for."""
    pipe = Drawing(PIPELINES[name])
    plan = planned(pipe, steps, computed)
    wall = draw_wall(pipe, JOBS, steps, plan.model_copy(update={"sections": plan.sections[:1]}))
    assert next((tile.told for tile in wall.baselines if tile.name == "fewer steps"), None) == rival
    for tile in wall.baselines:
        assert costs_the_same(1 / tile.flops_ratio, 1 / wall.plan.flops_ratio, 1 / steps)
    assert not wall.others_run


@pytest.mark.usefixtures("few")
def test_a_controlnet_counts_for_the_cost() -> None:
    pipe = Drawing(controlled.ALL[controlled.FLUX])
    shares: list[float] = []
    wall = draw_wall(pipe, JOBS, 6, planned(pipe, 6, [0, 3], "blocks"), lambda share, news: shares.append(share))
    assert wall.others_run
    assert wall.plan.steps_flops_ratio < wall.plan.flops_ratio - 0.5
    assert shares == sorted(shares)
    for tile in wall.baselines:
        assert costs_the_same(1 / tile.steps_flops_ratio, 1 / wall.plan.steps_flops_ratio, 1 / 6)


def test_what_costs_the_same() -> None:
    assert costs_the_same(0.2, 0.2, 0.02)
    assert costs_the_same(0.2 / SAME_COST, 0.2, 0.02)
    assert costs_the_same(0.2 * MORE, 0.2, 0.02)
    assert costs_the_same(0.2 + 0.1, 0.2, 0.1)
    assert not costs_the_same(0.25, 1 / 1.18, 0.02), "Wan 2.2 with a plan for one of two networks"
    assert not costs_the_same(0.19, 0.2, 0.02)
    assert not costs_the_same(0.24, 0.2, 0.02)
