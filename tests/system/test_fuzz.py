"""A fuzzer that is guided by coverage reads plans and traces; where it can be installed (see pyproject)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from plans import joint_plan, layered_plan, live_plan, make_plan, parted_plan, probing_plan
from storage import record

from hyca_calib.pipelines.workload import Workload
from hyca_runtime import save_plan
from hyca_runtime.solvers import Fitted, Hold

TESTS = Path(__file__).parents[1]
RUNS = {"plan": 6000, "trace": 1000}


def sow(folder: Path, workload: Workload) -> None:
    """Plans and documents of a trace for the fuzzer to begin with, in ``plan`` and ``trace``."""
    pipe, steps = tiny.pipeline(), [s for s in range(12) if s not in (0, 1, 4, 8)]
    fitted = Fitted(steps=tuple(steps), weights=np.array([[[1.5], [-0.5]] for _ in steps]))
    plans = [
        make_plan(pipe.transformer),
        make_plan(pipe.transformer, solvers=(fitted, Hold())),
        make_plan(pipe.transformer, point="output"),
        layered_plan(pipe.transformer),
        probing_plan(pipe.transformer),
        joint_plan(pipe.transformer),
        live_plan(pipe.transformer),
        parted_plan(pipe.transformer),
    ]
    for kind in RUNS:
        (folder / kind).mkdir()
    for i, plan in enumerate(plans):
        save_plan(plan, folder / "plan" / str(i))
    record(folder / "t.zarr", workload)
    for i, path in enumerate(sorted((folder / "t.zarr").rglob("*.json"))):
        (folder / "trace" / str(i)).write_bytes(bytes([i]) + path.read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_guided_by_coverage(kind: str, tmp_path: Path, workload: Workload) -> None:
    """No exception but ours, no input that takes 2 s, no more than 1 GiB above what the interpreter has."""
    pytest.importorskip("atheris", reason="the fuzzer has no wheel for this platform")
    sow(tmp_path, workload)
    options = [f"-runs={RUNS[kind]}", "-seed=1", "-max_len=100000"]
    command = [sys.executable, "-W", "ignore", str(TESTS / "fuzz.py"), kind, str(tmp_path / kind), *options]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    done = subprocess.run(command, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    covered = [int(found) for found in re.findall(r"cov: (\d+)", done.stderr)]
    assert covered[-1] > covered[0], "it found its way to new code"
    assert f"Done {RUNS[kind]} runs" in done.stderr
