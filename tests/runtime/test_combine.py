"""The weighted sum: every implementation against a sum written out in float64."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from hyca_runtime.combine import forecast, split_weights
from hyca_runtime.feature import Feature
from hyca_runtime.history import History

SHAPES = [((2, 17, 48), -1), ((2, 5, 7, 9), 1), ((3, 1, 4), -1), ((6, 4), -1), ((2, 3, 1), -1)]
DTYPES = {"float32": 1e-6, "bfloat16": 2**-7, "float16": 2**-10}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("pushes", [2, 3, 7])
def test_forecast(shape: tuple[int, ...], axis: int, dtype: str, pushes: int) -> None:
    torch.manual_seed(0)
    history = History(3)
    kept = []
    for step in range(pushes):
        kept.append(torch.randn(shape).to(getattr(torch, dtype)))
        history.push(step, Feature((kept[-1], kept[-1][:1])))
    taps = min(pushes, 3)
    rows = torch.randn(taps, 2 * shape[axis])
    weights = split_weights(rows, (shape[axis],) * 2, [len(shape)] * 2, axis)
    whole, first = forecast(history, weights)
    assert (whole.dtype, first.dtype) == (kept[0].dtype,) * 2
    assert history.positions == tuple(float(p) for p in range(pushes - 1, pushes - 1 - taps, -1))
    for part, found, chosen in ((0, whole, slice(None)), (1, first, slice(1))):
        expected = sum(
            w.double() * feature[chosen].double() for w, feature in zip(weights[part], reversed(kept), strict=False)
        )
        torch.testing.assert_close(found.double(), expected, rtol=DTYPES[dtype], atol=DTYPES[dtype] * 8)


def test_a_kept_feature_does_not_follow_its_source() -> None:
    history, feature = History(2), torch.ones(1, 3)
    history.push(0, Feature([feature]))
    feature.zero_()
    assert history.features[0][0].tolist() == [[1, 1, 1]]


INTERPRETED = """
import json, torch
from hyca_runtime.combine_triton import fused_sum
from hyca_runtime.combine import split_weights
from hyca_runtime.feature import Feature
from hyca_runtime.history import History
worst = {}
for shape, axis in SHAPES:
    for dtype in DTYPES:
        torch.manual_seed(0)
        history = History(4)
        for step in range(6):
            history.push(step, Feature([torch.randn(shape).to(getattr(torch, dtype))]))
        (shared,) = split_weights(torch.randn(3, shape[axis]), (shape[axis],), [len(shape)], axis)
        for weights in (shared, shared * torch.randn(1, shape[0], *[1] * (len(shape) - 1))):
            found = fused_sum(history.buffers[0], history.slots[:3], weights)
            expected = sum(w.double() * f[0].double() for w, f in zip(weights, history.features))
            error = (found.double() - expected).abs() / (1 + expected.abs())
            worst[dtype] = max(worst.get(dtype, 0.0), error.max().item())
print(json.dumps(worst))
"""


def test_the_triton_kernel_in_its_interpreter() -> None:
    """The kernel's own code on the CPU; its speed is measured where there is a GPU."""
    pytest.importorskip("triton")
    code = f"SHAPES, DTYPES = {SHAPES!r}, {DTYPES!r}\n" + INTERPRETED
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    worst = json.loads(done.stdout)
    assert all(worst[dtype] <= limit for dtype, limit in DTYPES.items()), worst


@pytest.mark.parametrize("ones", [(), ("inner", "newest"), ("numel", "samples", "channels", "inner", "newest")])
@pytest.mark.parametrize("per_sample", [False, True])
def test_the_triton_kernel_compiles_for_a_gpu(ones: tuple[str, ...], per_sample: bool) -> None:
    """Without one. Triton makes a constant of a number that is 1, which its interpreter never shows."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from hyca_runtime.combine_triton import _fused_sum

    constants = {"taps": 3, "depth": 4, "per_sample": per_sample, "block": 1024}
    constants |= {p.name: 1 for p in _fused_sum.params if p.name in ones and not p.do_not_specialize}
    kinds = {"buffer": "*bf16", "weights": "*fp32", "out": "*bf16"}
    signature = {
        p.name: "constexpr" if p.name in constants else kinds.get(p.name, "i64" if p.name == "numel" else "i32")
        for p in _fused_sum.params
    }
    at = {(i,): constants[name] for i, name in enumerate(signature) if name in constants}
    source = ASTSource(fn=_fused_sum, signature=signature, constexprs=at)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    assert "cubin" in compiled.asm


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_forecast_on_gpu(shape: tuple[int, ...], axis: int, dtype: str) -> None:
    history = History(4)
    for step in range(6):
        history.push(step, Feature([torch.randn(shape, device="cuda").to(getattr(torch, dtype))]))
    (shared,) = split_weights(torch.randn(3, shape[axis], device="cuda"), (shape[axis],), [len(shape)], axis)
    own = shared * torch.randn(1, shape[0], *[1] * (len(shape) - 1), device="cuda")
    for weights in (shared, own):  # of all samples, of each
        (found,) = forecast(history, (weights,))
        expected = sum(w.double() * f[0].double() for w, f in zip(weights, history.features, strict=False))
        torch.testing.assert_close(found.double(), expected, rtol=DTYPES[dtype], atol=DTYPES[dtype] * 8)
