"""On a GPU the same code gives what it gives on the CPU, to rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from plans import make_plan
from storage import record

from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Workload
from hyca_calib.trace.store import Trace
from hyca_runtime import apply_plan
from hyca_runtime.solvers import DynamicMode, Hold, Newton, Solver

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
CLOSE = 1e-3
"""Of the largest latent: float32 sums in another order, over a run."""
SOLVERS: dict[str, tuple[Solver, ...]] = {
    "tables": (Newton(1), Hold()),
    "adaptive": (DynamicMode(), Newton(2)),
}


@pytest.mark.parametrize("point", ["trunk", "trunk:residual", "output"])
@pytest.mark.parametrize("solvers", SOLVERS)
def test_a_plan(solvers: str, point: str, workload: Workload) -> None:
    def sampled(device: str) -> torch.Tensor:
        pipe = tiny.pipeline().to(device)
        with apply_plan(pipe, make_plan(pipe.transformer, solvers=SOLVERS[solvers], point=point), "error"):
            return sample_latents(pipe, workload.of("test"), 12, 4).cpu()

    expected = sampled("cpu")
    assert (sampled("cuda") - expected).abs().max() < CLOSE * expected.abs().max()


def test_a_trace(workload: Workload, tmp_path: Path) -> None:
    for device in ("cpu", "cuda"):
        record(tmp_path / f"{device}.zarr", workload, tiny.pipeline().to(device))
    there, here = Trace(tmp_path / "cuda.zarr"), Trace(tmp_path / "cpu.zarr")
    largest = np.abs(here.values("fit")).max()
    assert np.abs(there.values("fit") - here.values("fit")).max() < CLOSE * largest
    np.testing.assert_allclose(there.gain, here.gain, rtol=0.05)
