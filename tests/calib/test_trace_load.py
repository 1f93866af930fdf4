"""What tracing costs: time beside sampling, memory whatever the number of samples; and models that are moved about."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import tiny
import torch
from jobs import peaks_of_traces
from processes import forked
from storage import record

from hyca_calib.pipelines.defaults import prompts_of
from hyca_calib.pipelines.load import load_pipeline
from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Job, Workload
from hyca_calib.trace.run import trace
from hyca_calib.trace.store import Trace
from hyca_runtime.errors import WorkloadError
from hyca_runtime.fingerprint import weights_digest
from hyca_runtime.point import CachePoint
from hyca_runtime.precision import precision_of

OVERHEAD, MEMORY_BYTES, GROWTH = 0.10, 2 * 1024**3, 0.1
STEPS = 50


@pytest.mark.slow
def test_overhead_on_the_embedded_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What all of a trace takes for each second of the sampler's own calls, against the same of sampling alone.

    Both in seconds of one run, of the thread that samples: whatever else a machine does stretches them alike.
    """
    pipe, workload = load_pipeline("demo", "cpu"), Workload(prompts_of("demo", None), 28, STEPS, seed=0)
    network, own, sampling = type(pipe.transformer).forward, list[float](), False

    @functools.wraps(network)
    def timed(*args: Any, **kwargs: Any) -> Any:
        begun = time.thread_time()
        output = network(*args, **kwargs)
        if sampling and not torch.is_grad_enabled():
            own.append(time.thread_time() - begun)
        return output

    def sampled(pipe: Any, jobs: Sequence[Job], num_steps: int, batch: int) -> torch.Tensor:
        nonlocal sampling
        sampling = num_steps == STEPS  # a trace takes short runs, too
        latents = sample_latents(pipe, jobs, num_steps, batch)
        sampling = False
        return latents

    monkeypatch.setattr(type(pipe.transformer), "forward", timed)
    monkeypatch.setattr("hyca_calib.trace.recorder.sample_latents", sampled)

    def expense(run: Callable[[], object]) -> float:
        own.clear()
        begun = time.thread_time()
        run()
        spent = time.thread_time() - begun
        assert own
        assert len(own) % STEPS == 0
        return spent / sum(own)

    plain = expense(lambda: sampled(pipe, workload.jobs[:4], STEPS, 4))
    out = tmp_path / "t.zarr"
    traced = expense(lambda: trace(pipe, workload, CachePoint(), out, model_name="demo", batch=4, tokens=16))
    print(f"overhead {100 * (traced / plain - 1):.1f} % of sampling time")
    assert traced / plain - 1 < OVERHEAD


@pytest.mark.slow
def test_memory_is_flat_in_the_number_of_samples(tmp_path: Path) -> None:
    counts = (8, 64, 512)
    receiving, sending = forked().Pipe(duplex=False)
    process = forked().Process(target=peaks_of_traces, args=(tmp_path, counts, sending))
    process.start()
    process.join()
    assert process.exitcode == 0
    peaks = {count: receiving.recv() for count in counts}
    print(peaks)
    assert max(peaks.values()) < MEMORY_BYTES
    assert peaks[512] < peaks[64] * (1 + GROWTH) + 16 * 1024**2


def test_an_offloaded_model_is_traced_alike(tmp_path: Path, workload: Workload) -> None:
    """As diffusers' sequential offloading leaves it: no weight is there between two calls."""
    record(tmp_path / "plain.zarr", workload)
    pipe = tiny.pipeline()
    digest = weights_digest(pipe.transformer)
    accelerate.cpu_offload(pipe.transformer, execution_device=torch.device("cpu"))
    assert next(pipe.transformer.parameters()).is_meta
    assert weights_digest(pipe.transformer) == digest
    record(tmp_path / "offloaded.zarr", workload, pipe)
    found, plain = (Trace(tmp_path / f"{name}.zarr") for name in ("offloaded", "plain"))
    np.testing.assert_allclose(found.latents_of("test"), plain.latents_of("test"), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.gram("fit"), plain.gram("fit"), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.gain, plain.gain, rtol=1e-3, atol=1e-6)


def test_a_model_without_weights_is_refused() -> None:
    pipe = tiny.pipeline()
    with pytest.raises(WorkloadError, match="is on the meta device; load the model first"):
        weights_digest(pipe.transformer.to("meta"))


@pytest.mark.parametrize("device", ["offload", "sequential", "cuda:99", "abacus"])
def test_devices_that_are_not_there(device: str) -> None:
    with pytest.raises(WorkloadError, match=rf"device '{device}': .*expected cpu, cuda, cuda:N, balanced"):
        load_pipeline("demo", device)


def test_digest_of_a_large_weight() -> None:
    """The places of its probes are float32, which cannot tell 2**24 + 3 from the number after it."""
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(torch.zeros(2**24 + 4, dtype=torch.bfloat16))
    before = weights_digest(module)
    with torch.no_grad():
        module.weight[-1] = 1
    assert weights_digest(module) != before


def test_digest_of_quantised_weights() -> None:
    """Of the numbers as they are stored; how they are stored is told in words."""
    quantization = pytest.importorskip("torchao.quantization")
    found: dict[int, str] = {}
    for seed in (0, 0, 1):
        module = tiny.pipeline(seed).transformer
        assert precision_of(module) == "float32"
        plain = weights_digest(module)
        quantization.quantize_(module, quantization.Int8WeightOnlyConfig())
        assert precision_of(module) == "int8, float32"
        assert weights_digest(module) != plain
        assert found.setdefault(seed, weights_digest(module)) == weights_digest(module)
    assert found[0] != found[1]
