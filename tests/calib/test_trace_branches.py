"""Guidance branches in a trace: told apart in a call, crossed in the statistics, weighed as the sampler does it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from diffusers import DiTPipeline
from torch import Tensor

from hyca_calib.pipelines.workload import Job, Workload
from hyca_calib.trace.guidance import agreed
from hyca_calib.trace.recorder import Recorder
from hyca_calib.trace.recording import Recording
from hyca_calib.trace.run import trace
from hyca_calib.trace.statistics import comparable, packed_gram, unpacked_gram
from hyca_calib.trace.store import Trace
from hyca_runtime.errors import WorkloadError
from hyca_runtime.feature import Feature
from hyca_runtime.point import CachePoint
from hyca_runtime.stacked import repeats, stacked_labels
from studies.zoo import PIPELINES

STEPS = 4
GUIDED = {"prompt": "red cat", "true_cfg_scale": 3.0}


def watched(pipe: Any, call: dict[str, Any], samples: int = 2) -> Recording:
    with Recorder(pipe, CachePoint(), 1000) as recorder:
        return recorder.record([Job(i, "fit", i, call) for i in range(samples)], STEPS, seed=0)


def traced(pipe: Any, call: dict[str, Any], path: Path) -> Trace:
    """All tokens are stored."""
    trace(pipe, Workload((call,) * 3, 7, STEPS, 0), CachePoint(), path, model_name="t", batch=2, tokens=1000)
    return Trace(path)


@pytest.mark.parametrize(
    ("pipe", "call", "branches", "stacked", "weights"),
    [
        (tiny.glyphs, {"class_labels": 3}, ["1/2", "2/2"], 2, (2, -1)),
        (tiny.pipeline, GUIDED, ["cond", "uncond"], 1, (3, -2)),
        (tiny.pipeline, {"prompt": "red cat"}, ["cond"], 1, (1,)),
    ],
    ids=["in one call", "in two", "none"],
)
def test_statistics_are_over_all_steps_of_all_branches_and_the_constant(
    tmp_path: Path, pipe: Any, call: dict[str, Any], branches: list[str], stacked: int, weights: tuple[float, ...]
) -> None:
    found = traced(pipe(), call, tmp_path / "t.zarr")
    assert (found.branches, found.stacked, found.crossed) == (branches, stacked, True)
    assert found.guidance == pytest.approx(weights, abs=1e-4)
    values = found.values("fit").astype(np.float64)  # (sample, branch, step, token, channel)
    rows = values.transpose(4, 1, 2, 0, 3).reshape(found.num_channels, len(branches) * STEPS, -1)
    rows = np.concatenate([rows, np.ones_like(rows[:, :1])], axis=1)
    np.testing.assert_allclose(found.joint_gram("fit"), rows @ rows.transpose(0, 2, 1), rtol=1e-9, atol=1e-9)
    own = rows[:, :-1].reshape(found.num_channels, len(branches), STEPS, -1)
    np.testing.assert_allclose(found.gram("fit"), np.einsum("cbsn,cbtn->cst", own, own), rtol=1e-9)
    assert found.gain.shape == (len(branches), STEPS, found.num_channels)
    assert (found.gain > 0).all()
    assert all((found.gain[0] != gain).any() for gain in found.gain[1:]), "each part of a call has its own"


def test_branches_of_other_tokens_are_as_if_zero_on_each_others() -> None:
    rng = torch.Generator().manual_seed(0)
    features = [[Feature((torch.randn(2, n, 3, generator=rng),)) for _ in range(2)] for n in (4, 5)]
    tokens = [[np.arange(4)], [np.arange(5)]]
    groups = comparable(tokens, [[4], [5]])
    assert groups == [[[0], [1]]]
    assert comparable(tokens[:1] * 2, [[4], [4]]) == [[[0, 1]]]
    assert comparable(tokens[:1] * 2, [[4], [8]]) == [[[0], [1]]], "a random subset of others"
    rows = torch.zeros(3, 5, 18, dtype=torch.float64)
    for branch, at in enumerate((slice(0, 8), slice(8, 18))):
        for step in range(2):
            rows[:, 2 * branch + step, at] = features[branch][step][0].flatten(0, 1).T.double()
    rows[:, 4] = 1
    found = unpacked_gram(packed_gram(features, torch.arange(2), [[1.0], [1.0]], groups).numpy(), 5)
    np.testing.assert_allclose(found, rows @ rows.transpose(1, 2), rtol=1e-12)


def test_parts_of_other_latents_are_no_branches() -> None:
    latents, half = torch.randn(4, 3), torch.randn(2, 3)
    half[0, 0] = torch.nan
    twice, times = torch.cat([half, half]), torch.zeros(4)
    assert repeats((twice,), {}, 2)
    assert repeats((), {"encoder_hidden_states": latents, "hidden_states": twice}, 2)
    assert repeats(([*twice],), {"t": times}, 2), "samples in a list"
    assert not repeats((latents,), {}, 2)
    assert not repeats(([*latents],), {"t": times}, 2)
    assert not repeats((half,), {}, 1)
    assert not repeats((), {"input_ids": torch.zeros(4, dtype=torch.long)}, 2)
    assert stacked_labels("cond_uncond", 2) == ("cond_uncond 1/2", "cond_uncond 2/2")
    assert stacked_labels("", 2) == ("1/2", "2/2")
    assert stacked_labels("cond", 1) == ("cond",)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_of_the_pipeline_of_a_network_with_learned_variances(dtype: torch.dtype) -> None:
    """Its scheduler is given both halves, which are equal, of the leading channels."""
    tiny_pipe = PIPELINES["DiT"]
    pipe = tiny_pipe.build()
    assert isinstance(pipe, DiTPipeline)
    pipe.to(dtype)
    with pytest.MonkeyPatch.context() as patch, Recorder(pipe, CachePoint(), 64) as recorder:
        patch.setattr("hyca_calib.trace.recorder.sample_latents", lambda *_: tiny_pipe.call(pipe, STEPS))
        found = recorder.record([Job(0, "fit", 0, {})], STEPS, seed=0, with_gain=False)
    assert found.branches == ["1/2", "2/2"]
    assert found.guidance == pytest.approx([4, -3], abs=1e-3)


def test_weights_of_a_pipeline_in_inference_mode() -> None:
    assert watched(tiny.as_kind(tiny.InInferenceMode), GUIDED).guidance == pytest.approx([3, -2], abs=1e-4)


def changing(given: Tensor, step: int) -> Tensor:
    return given * (1 + step / 10)


def rescaled(given: Tensor, step: int) -> Tensor:
    size: Tensor = given.norm(dim=-1, keepdim=True)
    return given * size


def broken(given: Tensor, step: int) -> Tensor:
    return torch.full_like(given, torch.nan) if step == 1 else given


@pytest.mark.parametrize("change", [changing, rescaled, broken])
def test_weights_that_are_none_are_not_known(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    pipe, count = tiny.pipeline(), iter(range(100))
    denoised = pipe._denoised

    def other(latents: Tensor, predict: Any, *rest: Any) -> Tensor:
        return denoised(latents, lambda *given: change(predict(*given), next(count)), *rest)

    monkeypatch.setattr(pipe, "_denoised", other)
    assert watched(pipe, GUIDED).guidance == []


class Odd:
    """A scheduler whose steps are given what no other is, or that cannot be watched."""

    __slots__ = ("inner",)

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        if name == "inner":
            raise AttributeError(name)  # a copy that is not filled yet
        return getattr(self.inner, name)

    def step(self, *given: Any, **options: Any) -> Any:
        return self.inner.step(*given, **options)


class Unpacking(type(tiny.pipeline().scheduler)):  # type: ignore[misc]
    """Its step takes the output in a tuple."""

    def step(self, output: tuple[Tensor], *given: Any, **options: Any) -> Any:
        return super().step(output[0], *given, **options)


def test_odd_schedulers_are_traced_without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny.pipeline()
    expected = watched(pipe, GUIDED).latents
    pipe.scheduler = Odd(pipe.scheduler)
    found = watched(pipe, GUIDED)
    assert found.guidance == []
    assert torch.equal(found.latents, expected)
    pipe = tiny.pipeline()
    pipe.scheduler = Unpacking.from_config(pipe.scheduler.config)
    denoised = pipe._denoised

    def other(latents: Tensor, predict: Any, *rest: Any) -> Tensor:
        return denoised(latents, lambda *given: Tupled(predict(*given)), *rest)

    class Tupled(tuple[Tensor, ...]):
        def __new__(cls, output: Tensor) -> Any:
            return super().__new__(cls, (output,))

        def float(self) -> Any:
            return self

    monkeypatch.setattr(pipe, "_denoised", other)
    found = watched(pipe, GUIDED)
    assert found.guidance == []
    assert torch.equal(found.latents, expected)


def test_a_scheduler_is_left_as_it_was_and_copies_of_it_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny.pipeline()
    scheduler, copies, most = pipe.scheduler, [], [STEPS]

    def other(latents: Tensor, predict: Any, *rest: Any) -> Tensor:
        def predicted(*given: Any) -> Any:
            assert "step" in vars(scheduler)
            copies.append(copy.deepcopy(scheduler))
            if len(copies) > most[0]:
                raise RuntimeError("no more")
            return predict(*given)

        return denoised(latents, predicted, *rest)

    denoised = pipe._denoised
    monkeypatch.setattr(pipe, "_denoised", other)
    assert watched(pipe, GUIDED).guidance == pytest.approx([3, -2], abs=1e-4)
    assert "step" not in vars(scheduler)
    assert all(of.step.__self__ is of for of in copies)
    with pytest.raises(WorkloadError, match="no more"):
        watched(pipe, GUIDED)
    assert "step" not in vars(scheduler)


def test_weights_agree_or_are_not_known() -> None:
    assert agreed([[3.0, -2.0], [3.01, -2.0], [3.0, -2.02]]) == [3.0, -2.0]
    assert agreed([[3.0, -2.0], [3.1, -2.1]]) == []
    assert agreed([[3.0, -2.0], []]) == []
    assert agreed([[1.0], [3.0, -2.0]]) == []
    assert agreed([]) == []
