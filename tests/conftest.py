from __future__ import annotations

import os

# MKL else rounds by where memory begins: weights that offloading brought back would be others than before.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as many workers as cores

from pathlib import Path

import pytest
import tiny
from plans import make_plan

from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.pipelines.workload import Workload
from hyca_calib.trace.run import trace
from hyca_calib.trace.store import Trace
from hyca_runtime.plan import Plan
from hyca_runtime.point import CachePoint


@pytest.fixture
def pipe() -> EmojiPipeline:
    return tiny.pipeline()


@pytest.fixture
def plan(pipe: EmojiPipeline) -> Plan:
    return make_plan(pipe.transformer)


@pytest.fixture
def unreported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search leaves its report empty: to draw one takes as long, and reports have tests of their own."""
    monkeypatch.setattr("hyca_calib.commands.searching.report", lambda pipe, study, traces: study.report.touch())


@pytest.fixture(scope="session")
def workload() -> Workload:
    return Workload(tiny.prompts(), num_samples=14, num_steps=12, seed=3)


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory, workload: Workload) -> Trace:
    """A trace of the tiny model that stores every token."""
    path: Path = tmp_path_factory.mktemp("traces") / "tiny.zarr"
    trace(tiny.pipeline(), workload, CachePoint(), path, model_name="tiny:pipeline", batch=4, tokens=10_000)
    return Trace(path)
