from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import zarr
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hyca_calib.pipelines.workload import Workload
from hyca_calib.trace.run import trace
from hyca_calib.trace.store import Trace, newest_trace
from hyca_runtime.errors import TraceError
from hyca_runtime.flop_count import count_flops
from hyca_runtime.point import CachePoint
from studies.zoo import MODELS


def record(path: Path, workload: Workload, **options: Any) -> Trace:
    settings = {"model_name": "tiny:pipeline", "batch": 4, "tokens": 5, **options}
    point = settings.pop("point", CachePoint())
    trace(tiny.pipeline(), workload, point, path, **settings)
    return Trace(path)


def test_what_is_stored(recorded: Trace) -> None:
    assert recorded.num_steps == 12
    assert recorded.num_channels == 32
    assert recorded.array("points/trunk/values").shape == (14, 1, 12, 16, 32)
    assert recorded.gain.shape == (1, 12, 32)
    assert (recorded.gain > 0).all()
    assert recorded.timesteps == pytest.approx(np.linspace(1, 1 / 12, 12))
    assert recorded.sigmas == pytest.approx(np.linspace(1, 0, 13), abs=1e-6)
    assert recorded.response == pytest.approx(np.full(12, -1 / 12), abs=1e-4)
    assert recorded.branches == ["cond"]
    assert len(recorded.attributes.model.weights_digest) == len(recorded.attributes.model.config_digest) == 64
    store = zarr.open_group(recorded.where, mode="r")
    assert store.metadata.zarr_format == 3
    values = store["points/trunk/values"]
    assert isinstance(values, zarr.Array)
    assert values.shards is not None


def test_gram_covers_all_tokens_whatever_is_stored(tmp_path: Path, workload: Workload, recorded: Trace) -> None:
    sampled = record(tmp_path / "few.zarr", workload)
    assert sampled.array("points/trunk/values").shape[3] == 5
    ((tokens,),) = sampled.array("points/trunk/tokens")
    np.testing.assert_allclose(
        sampled.array("points/trunk/values"),
        recorded.array("points/trunk/values")[:, :, :, tokens],
        rtol=1e-4,
        atol=1e-5,
    )
    for split in ("fit", "select", "test"):
        np.testing.assert_allclose(sampled.gram(split), recorded.gram(split), rtol=1e-6)


def test_gain_is_the_squared_column_norm_of_the_tail(tmp_path: Path, workload: Workload) -> None:
    """A linear tail of known weights: the estimate's mean is the column norm."""
    pipe = tiny.pipeline()
    module = pipe.transformer
    module.norm_out.forward = lambda x, conditioning: x
    trace(pipe, workload, CachePoint(), tmp_path / "t.zarr", model_name="t", batch=7, tokens=2)
    expected = module.proj_out.weight.square().sum(0).detach().numpy()
    np.testing.assert_allclose(Trace(tmp_path / "t.zarr").gain.mean(axis=(0, 1)), expected, rtol=0.15)


def test_flops_are_those_of_the_network(recorded: Trace) -> None:
    pipe = tiny.pipeline()
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    inner = pipe.transformer.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        calls.append((args, kwargs))
        return inner(*args, **kwargs)

    pipe.transformer.forward = forward
    pipe("red cat", num_inference_steps=1)
    with torch.no_grad():
        expected = count_flops(lambda: inner(*calls[0][0], **calls[0][1]))
    assert recorded.cost.full_flops == expected
    assert 0 < recorded.cost.tail_flops < 0.2 * expected


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", ["FluxTransformer2DModel", "WanTransformer3DModel", "SanaTransformer2DModel"])
def test_flops_are_those_that_torch_counts(name: str, mode: Callable[[], AbstractContextManager[None]]) -> None:
    """Which does not know the CPU's fused attention; in inference mode operations come whole."""
    module, call = MODELS[name].build(), MODELS[name].call()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(**call)
    with mode():
        assert count_flops(lambda: module(**call)) == counter.get_total_flops() > 0


def test_guidance_branches_and_output_point(tmp_path: Path) -> None:
    prompts = tuple({**p, "true_cfg_scale": 2.0} for p in tiny.prompts())
    guided = Workload(prompts, num_samples=14, num_steps=6)
    found = record(tmp_path / "g.zarr", guided, point=CachePoint(kind="output"))
    assert found.branches == ["cond", "uncond"]
    assert found.array("points/output/values").shape == (14, 2, 6, 5, 48)
    assert (found.gain == 1).all()


def test_an_interrupted_trace_is_gone_on_with(tmp_path: Path, workload: Workload) -> None:
    def stop(done: int) -> None:
        if done:
            raise KeyboardInterrupt

    path = tmp_path / "t.zarr"
    with pytest.raises(KeyboardInterrupt):
        record(path, workload, on_samples=stop)
    with pytest.raises(TraceError, match=r"incomplete, (4|6|8|10) of 14 samples; give the same"):
        Trace(path)
    with pytest.raises(TraceError, match="no trace in"):
        newest_trace(tmp_path)
    told: list[int] = []
    assert record(path, workload, on_samples=told.append).num_steps == 12
    assert told[0] >= 4
    assert sum(told) == 14
    assert newest_trace(tmp_path) == path
    told.clear()
    record(path, workload, on_samples=told.append)
    assert told == [14], "a complete trace is left as it is"
    with pytest.raises(TraceError, match="holds a trace with another tokens; choose another --out"):
        record(path, workload, tokens=6)
    assert record(path, workload, tokens=6, overwrite=True).values("fit").shape[3] == 6
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/mine.txt").write_text("dear")
    with pytest.raises(TraceError, match="holds no trace that could be gone on with"):
        record(tmp_path / "letters", workload)


@pytest.mark.parametrize("victim", ["points/trunk/gram", "latents", "times/sigma"])
def test_damage_is_found(recorded: Trace, tmp_path: Path, victim: str) -> None:
    copy = tmp_path / "t.zarr"
    shutil.copytree(recorded.where, copy)
    chunk = next(p for p in sorted((copy / victim / "c").rglob("*")) if p.is_file())
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 0xFF
    chunk.write_bytes(data)
    with pytest.raises(TraceError, match=r"damaged or truncated .* verify .* --repair"):
        Trace(copy).latents_of("fit")
    chunk.write_bytes(data[: len(data) // 2])
    with pytest.raises(TraceError, match="damaged or truncated"):
        Trace(copy).latents_of("fit")


def test_other_stores_and_other_versions(recorded: Trace, tmp_path: Path) -> None:
    copy = tmp_path / "t.zarr"
    shutil.copytree(recorded.where, copy)
    meta = json.loads((copy / "zarr.json").read_text())
    for version, complaint in (
        (99, "newer than this hyca"),
        (1, "of an older hyca, expected version 5 .*; trace again: "),
    ):
        meta["attributes"]["version"] = version
        (copy / "zarr.json").write_text(json.dumps(meta))
        with pytest.raises(TraceError, match=complaint):
            Trace(copy)
    del meta["attributes"]["model"]["component"]
    meta["attributes"]["version"] = 5
    (copy / "zarr.json").write_text(json.dumps(meta))
    with pytest.raises(TraceError, match=r"zarr.json is not as written \(model.component: .*--repair"):
        Trace(copy)
    (copy / "manifest.json").unlink()
    (copy / "request.json").unlink()
    meta["attributes"]["model"]["component"] = "transformer"
    (copy / "zarr.json").write_text(json.dumps(meta))
    with pytest.raises(TraceError, match=r"request.json is missing; trace again with --overwrite"):
        Trace(copy)
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(TraceError, match="not a HyCa trace but another Zarr group; give the path of a trace"):
        Trace(tmp_path / "other.zarr")


def test_a_trace_knows_its_samples(recorded: Trace, workload: Workload, tmp_path: Path) -> None:
    assert recorded.workload() == workload
    assert recorded.samples("fit") == [0, 1, 2, 3, 4, 5]
    assert recorded.values("select").shape == (2, 1, 12, 16, 32)
    recorded.check_same_samples(recorded)
    other = record(tmp_path / "o.zarr", Workload(workload.prompts, 14, 12, seed=4))
    with pytest.raises(TraceError, match="other prompts, samples, steps or seeds"):
        recorded.check_same_samples(other)
