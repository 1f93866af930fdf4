"""Prompts that make the network be called in different ways are refused before anything is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
from storage import record

from hyca_calib.pipelines.workload import Job, Workload
from hyca_calib.trace.alike import kinds
from hyca_calib.trace.recorder import Recorder
from hyca_calib.trace.store import Trace
from hyca_runtime.errors import TraceError

STEPS = 6


def workload(*settings: dict[str, Any]) -> Workload:
    """Prompts with one of the settings each, in turn."""
    calls = [{**call, **settings[i % len(settings)]} for i, call in enumerate(tiny.prompts())]
    return Workload(tuple(calls), num_samples=7, num_steps=STEPS, seed=3)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Samples and steps of every run that a recorder makes."""
    seen: list[tuple[int, int]] = []
    whole = Recorder.record

    def counted(self: Recorder, jobs: Sequence[Job], steps: int, *others: Any) -> Any:
        seen.append((len(jobs), steps))
        return whole(self, jobs, steps, *others)

    monkeypatch.setattr(Recorder, "record", counted)
    return seen


ONE = r"'cond'(?: and 'uncond')? of prompt \d+ \((?:true_cfg_scale=2.0|no true_cfg_scale)\)"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (({"true_cfg_scale": 2.0}, {}), rf"alike, got guidance branches {ONE} and {ONE}; trace the prompts of each"),
        (({"true_cfg_scale": 2.0}, {"true_cfg_scale": 1.0}), r"\(true_cfg_scale=1.0\).*--prompts, --out"),
    ],
)
def test_guided_and_unguided_calls_in_one_trace(
    tmp_path: Path, runs: list[tuple[int, int]], settings: tuple[dict[str, Any], ...], told: str
) -> None:
    with pytest.raises(TraceError, match=told):
        record(tmp_path / "t.zarr", workload(*settings))
    assert all(steps < STEPS for _, steps in runs)
    assert not (tmp_path / "t.zarr" / "commits").exists()


def test_other_weights_of_guidance_are_no_other_kind_of_run(tmp_path: Path, runs: list[tuple[int, int]]) -> None:
    different = workload({"true_cfg_scale": 2.0}, {"true_cfg_scale": 3.0})
    assert record(tmp_path / "t.zarr", different, batch=1)
    assert Trace(tmp_path / "t.zarr").branches == ["cond", "uncond"]
    assert [steps for _, steps in runs] == [2, 2, *[STEPS] * 7]


def test_prompts_and_classes_of_one_kind_need_no_runs(tmp_path: Path, runs: list[tuple[int, int]]) -> None:
    assert record(tmp_path / "t.zarr", workload({}), batch=7)
    assert [steps for _, steps in runs] == [2, *[STEPS] * 3]
    calls: list[dict[str, Any]] = [
        {"class_labels": 1},
        {"class_labels": 2},
        {"class_labels": 3, "size": [1, 2]},
        {"image": {"file": "a"}},
    ]
    assert [job.index for job in kinds([Job(i, "fit", i, call) for i, call in enumerate(calls)])] == [0, 2, 3]
