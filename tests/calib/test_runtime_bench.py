"""The timing harness itself, on networks too small to time anything by."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hyca_calib.bench.documents.precision_table import precision_times
from hyca_calib.bench.runtime.costs import PrecisionCosts
from hyca_calib.bench.runtime.networks import NETWORKS
from hyca_calib.bench.runtime.timing import measure_realised, measure_sum
from hyca_calib.commands.bench_options import BenchOptions
from hyca_calib.commands.bench_precision import bench_precision
from hyca_calib.commands.bench_runtime import bench_runtime
from hyca_runtime.errors import WorkloadError


@pytest.mark.parametrize("name", ["flux-57-tiny", "qwen-tiny", "hunyuan-tiny"])
def test_planned_runs_compute_what_they_should(name: str) -> None:
    found = measure_realised(name, steps=6, computed=(0, 3), device="cpu", dtype=torch.float32, repeats=1)
    assert found.ideal == 3
    assert found.share == pytest.approx(found.speed_up / 3)
    assert 0 < found.added_bytes < 0.01 * found.weight_bytes


def test_other_caches_compute_as_many_steps() -> None:
    found = measure_realised("flux-57-tiny", steps=10, computed=(0, 5), device="cpu", dtype=torch.float32, repeats=3)
    caches = {cache.name: cache for cache in found.rivals}
    assert {"TaylorSeer way=lite N=5 O=1 W=1", "TaylorSeer way=last block N=5 O=1 W=1"} <= set(caches)
    assert not [cache for cache in found.rivals if cache.error]
    for cache in found.rivals:
        assert 2 <= cache.computed <= 3, cache


@pytest.mark.parametrize("name", ["flux-dev", "qwen-image", "hunyuan-video", "flux-100m"])
def test_full_sizes_are_those_of_the_released_models(name: str) -> None:
    billions = {"flux-dev": 11.9, "qwen-image": 20.4, "hunyuan-video": 12.8, "flux-100m": 0.102}
    network = NETWORKS[name]
    module = network.build("meta", torch.bfloat16)
    assert sum(p.numel() for p in module.parameters()) / 1e9 == pytest.approx(billions[name], rel=0.01)
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        arguments = network.inputs(module, "cpu", torch.bfloat16)
    assert arguments["timestep"].dtype == torch.bfloat16
    assert network.channels(module) == {"flux-100m": 768}.get(name, 3072)


def test_a_network_that_is_not_there_is_named_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="no network is called flux or wan; there are flux-dev, qwen-image"):
        bench_runtime(BenchOptions(only=["flux", "flux-100m", "wan"], out=tmp_path))


def test_steps_of_variants_are_timed_beside_own_ones(tmp_path: Path) -> None:
    """Every scheme is told of; weights of 8 bits take a quarter of those of 32, and twice that rounded in two ways."""
    path = bench_precision(BenchOptions(only=["qwen-tiny"], out=tmp_path))
    found = {one.variant: one for one in PrecisionCosts.model_validate_json(path.read_text()).variants}
    whole = found["int8"]
    assert min(whole.step_ms, whole.own_step_ms) > 0
    assert 0.25 < whole.bytes / whole.own_bytes < 0.35, "and scales, of which narrow layers have many"
    assert found["int8, asymmetric, rounded in 2 ways in turn"].bytes == 2 * whole.bytes
    assert found["int8_weights"].error == ""
    assert "torchao" in found["fp8"].error
    assert "not here" in precision_times(root_with(path, tmp_path))


def root_with(path: Path, folder: Path) -> Path:
    (folder / "studies" / "bench").mkdir(parents=True)
    path.rename(folder / "studies" / "bench" / path.name)
    return folder


def test_the_sum_is_timed_against_a_copy() -> None:
    found = measure_sum((1, 64, 32), torch.float32, 3, "cpu", repeats=2)
    assert found.share == pytest.approx(found.sum_gb_per_s / found.copy_gb_per_s)
