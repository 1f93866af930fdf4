"""On which axis the network's output counts channels: of tokens, pictures and clips."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import tiny
import torch
from torch import nn

from hyca_calib.pipelines.workload import Workload
from hyca_calib.trace.run import trace
from hyca_calib.trace.store import Trace
from hyca_runtime import starter_plan
from hyca_runtime.attach.channel_axis import with_channel_axis
from hyca_runtime.feature import Feature
from hyca_runtime.point import CachePoint, parse_point

OUTPUT = parse_point("output")


@pytest.mark.parametrize(
    ("shape", "config", "axis"),
    [
        ((2, 64, 16), {"in_channels": 16}, -1),
        ((2, 4, 32, 32), {"in_channels": 4, "out_channels": None}, 1),
        ((2, 8, 32, 32), {"in_channels": 4, "out_channels": 4}, 1),
        ((2, 16, 3, 8, 8), {"in_channels": 36, "out_channels": 16}, 1),
        ((2, 13, 16, 60, 90), {"in_channels": 32, "out_channels": 16}, 2),
        ((2, 5, 7, 9), {"in_channels": 16}, -1),
        ((2, 5, 7, 9), {}, -1),
    ],
)
def test_channels_are_as_many_as_the_configuration_says(
    shape: tuple[int, ...], config: dict[str, Any], axis: int
) -> None:
    feature, network = Feature([torch.zeros(shape)]), cast(nn.Module, SimpleNamespace(config=config))
    assert with_channel_axis(OUTPUT, feature, network).channel_axis == axis
    assert with_channel_axis(CachePoint(), feature, network) == CachePoint()
    asked = CachePoint(kind="output", channel_axis=0)
    assert with_channel_axis(asked, feature, network) == asked


@pytest.mark.parametrize(("make", "prompt", "channels"), [(tiny.glyphs, "class_labels", 3), (tiny.motion, "prompt", 8)])
def test_pictures_and_clips_are_traced_by_channel(make: Any, prompt: str, channels: int, tmp_path: Path) -> None:
    calls = tuple({prompt: of} for of in (range(4) if prompt == "class_labels" else tiny.WORDS[:4]))
    trace(
        make(), Workload(calls, 7, 4), [CachePoint(), OUTPUT], tmp_path / "t.zarr", model_name="tiny", batch=2, tokens=4
    )
    found = Trace(tmp_path / "t.zarr", OUTPUT)
    assert found.point.channel_axis == 1
    assert found.num_channels == channels
    assert found.at(CachePoint()).point.channel_axis == -1
    assert found.at(CachePoint()).at(OUTPUT).point == found.point


def test_starter_plans_count_channels_too() -> None:
    plan = starter_plan(tiny.motion(), steps=8, budget="2x")
    (forecast,) = plan.section.points.values()
    assert (forecast.at.channel_axis, forecast.num_channels) == (1, 8)
