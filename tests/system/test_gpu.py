"""On a GPU the same code gives what it gives on the CPU, to rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from plans import changed, make_plan
from storage import record

from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Workload
from hyca_calib.trace.store import Trace
from hyca_runtime import AttachError, apply_plan
from hyca_runtime.schedule import EVERY, Action, Schedule
from hyca_runtime.solvers import DynamicMode, Hold, Newton, Solver
from hyca_runtime.variant import BITS, VariantSpec

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
CLOSE = 1e-3
"""Of the largest latent: float32 sums in another order, over a run."""
SOLVERS: dict[str, tuple[Solver, ...]] = {
    "tables": (Newton(1), Hold()),
    "adaptive": (DynamicMode(), Newton(2)),
}
SPECS = [
    *(VariantSpec(scheme=scheme) for scheme in BITS),
    VariantSpec(scheme="int8", asymmetric=True, phases=(0.0, 0.5)),
]


@pytest.mark.parametrize("point", ["trunk", "trunk:residual", "output"])
@pytest.mark.parametrize("solvers", SOLVERS)
def test_a_plan(solvers: str, point: str, workload: Workload) -> None:
    def sampled(device: str) -> torch.Tensor:
        pipe = tiny.pipeline().to(device)
        with apply_plan(pipe, make_plan(pipe.transformer, solvers=SOLVERS[solvers], point=point), "error"):
            return sample_latents(pipe, workload.of("test"), 12, 4).cpu()

    expected = sampled("cpu")
    assert (sampled("cuda") - expected).abs().max() < CLOSE * expected.abs().max()


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_quantised_steps(spec: VariantSpec, workload: Workload) -> None:
    """Each scheme that torchao has a kernel for here is near the network's own weights, and takes fewer bytes."""
    pipe = tiny.pipeline().to("cuda", torch.bfloat16)
    plan = make_plan(pipe.transformer)
    palette = (*plan.section.schedule.palette, Action(variant="low"))
    table = tuple(2 if action == 0 else action for action in plan.section.schedule.tables[EVERY])
    schedule = Schedule(palette=palette, tables={EVERY: table})
    low = changed(plan, schedule=schedule, variants={"low": spec}, action_flops=None)
    full = sample_latents(pipe, workload.of("test"), 12, 4)
    try:
        session = apply_plan(pipe, low, "error")
    except AttachError as error:
        pytest.skip(str(error))
    own = sum(p.numel() * p.element_size() for p in pipe.transformer.parameters())
    assert 0 < session.report().variant_bytes < own
    assert (sample_latents(pipe, workload.of("test"), 12, 4) - full).norm() < 0.5 * full.norm()
    session.remove()
    assert torch.equal(sample_latents(pipe, workload.of("test"), 12, 4), full)


def test_a_trace(workload: Workload, tmp_path: Path) -> None:
    for device in ("cpu", "cuda"):
        record(tmp_path / f"{device}.zarr", workload, tiny.pipeline().to(device))
    there, here = Trace(tmp_path / "cuda.zarr"), Trace(tmp_path / "cpu.zarr")
    largest = np.abs(here.values("fit")).max()
    assert np.abs(there.values("fit") - here.values("fit")).max() < CLOSE * largest
    np.testing.assert_allclose(there.gain, here.gain, rtol=0.05)
