"""The runtime on every transformer class of the installed diffusers."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers.models import transformers
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from hyca_calib.pipelines.classes import quiet
from hyca_calib.pipelines.outputs import tensors_of
from hyca_runtime import AttachError
from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.bound_point import Captured
from hyca_runtime.attach.layers import find_layers
from hyca_runtime.attach.points import cut_lists, find_block_lists
from hyca_runtime.fit import UNPARTED
from hyca_runtime.point import CachePoint, parse_point
from hyca_runtime.stacked import joined, parts_of
from studies.zoo import MODELS, PIPELINES
from studies.zoo.check import check_model, check_pipeline, run_of
from studies.zoo.table import POINTS, to_markdown

NOT_DENOISERS = {
    "DreamLiteTransformer2DModel",  # a block of a U-Net
    "MiniMaxMusic3RVQDepthDecoder",
    "PriorTransformer",
    "RFD4ProteinaTransformer",  # proteins
    "T5FilmDecoder",
    "Transformer2DModel",  # a block of U-Nets
    "TransformerTemporalModel",
}


def test_the_zoo_is_complete() -> None:
    found = set()
    for info in pkgutil.iter_modules(transformers.__path__):
        module = importlib.import_module(f"{transformers.__name__}.{info.name}")
        for name, kind in vars(module).items():
            if inspect.isclass(kind) and issubclass(kind, ModelMixin) and kind.__module__ == module.__name__:
                found.add(name)
    assert found - NOT_DENOISERS <= set(MODELS), "a new class of diffusers is not in the zoo"


@pytest.fixture
def eager() -> Iterator[None]:
    """Wan Animate 2 compiles its mask of attention, which takes longer than all the others."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("name", MODELS)
def test_model(name: str, point: str) -> None:
    verdict = check_model(MODELS[name], point, compiled=False)
    assert verdict.good, verdict.results


OTHER_INPUT = {
    "HunyuanVideoFramepackTransformer3DModel",
    "Kandinsky5Transformer3DModel",
    "Kandinsky6SRTransformer3DModel",
    "Kandinsky6Transformer3DModel",
    "Krea2Transformer2DModel",
    "MiniMaxMusic3Transformer1DModel",
    "OmniGenTransformer2DModel",
    "StableAudio3DiTModel",
}
"""No block takes what the final norm does."""
COMPILED = (
    "CogVideoXTransformer3DModel",
    "DiTTransformer2DModel",
    "Flux2Transformer2DModel",
    "FluxTransformer2DModel",
    "HunyuanVideoTransformer3DModel",
    "LTXVideoTransformer3DModel",
    "Lumina2Transformer2DModel",
    "QwenImageTransformer2DModel",
    "SD3Transformer2DModel",
    "WanTransformer3DModel",
)
MORE_BETWEEN = {
    "CogVideoXTransformer3DModel",
    "ConsisIDTransformer3DModel",
    "EasyAnimateTransformer3DModel",
    "LongCatAudioDiTTransformer",
    "Lumina2Transformer2DModel",
    "ZImageTransformer2DModel",
}
"""Norms or refiners between the embedding and the final norm: tracing finds it out."""


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", MODELS)
def test_trunk_as_residual(name: str) -> None:
    """A step predicted from its own feature is that step."""
    with torch.no_grad(), quiet():
        module, call = MODELS[name].build(), MODELS[name].call(1, 0.5)
        attachment = Attachment(module, CachePoint(keep="residual"))
        if name in OTHER_INPUT:
            with pytest.raises(AttachError, match="use the point 'trunk'"):
                attachment.compute((), call)
            return
        output, feature = attachment.compute((), call)
        assert feature is not None
        pairs = zip(tensors_of(attachment.predict(feature, (), call)), tensors_of(output), strict=True)
        exact = all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs)
    assert exact != (name in MORE_BETWEEN)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("name", PIPELINES)
def test_pipeline(name: str, point: str) -> None:
    verdict = check_pipeline(PIPELINES[name], point)
    assert verdict.good, verdict.results


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", MODELS)
def test_idle_embedders_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left out on a predicted step beside the blocks: the same to the last bit with it."""
    model = MODELS[name]
    with torch.no_grad(), quiet():
        module, call = model.build(), model.call(1, 0.5)
        attachment = Attachment(module, CachePoint())
        _, feature = attachment.compute((), model.call(1, 1.0))
        assert feature is not None
        lean = tensors_of(attachment.predict(feature, (), call))
        monkeypatch.setattr("hyca_runtime.attach.points.EMBEDDERS", frozenset())
        busy = Attachment(module, CachePoint())
        busy.compute((), call)
        whole = tensors_of(busy.predict(feature, (), call))
    assert all(torch.equal(a, b) for a, b in zip(lean, whole, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_model_compiled(name: str) -> None:
    """A few of each way to call blocks; `python -m studies.zoo --compiled` asks all."""
    verdict = check_model(MODELS[name], "trunk", compiled=True)
    assert verdict.results["compiled"] == "yes", verdict.results


def test_failures_are_in_the_table() -> None:
    verdict = check_model(MODELS["FluxTransformer2DModel"], "trunk", compiled=False)
    verdict.results["identical"] = "no"
    table = to_markdown([verdict, *(check_model(MODELS["FluxTransformer2DModel"], p, False) for p in POINTS[1:])], [])
    assert "| FluxTransformer2DModel | ✓ | ✗ | ✓ | ✓ |  | ✓ | ✓ |" in table
    assert "- FluxTransformer2DModel, `trunk`: identical: no" in table


LAYERS = ("attention", "cross_attention", "mlp")
FUSED = {"PRXTransformer2DModel", "MiniMaxMusic3Transformer1DModel"}
"""Their MLP is no module of its own."""
BETWEEN_LISTS = {"LatteTransformer3DModel", "MotifVideoTransformer3DModel"}
"""What the final norm takes is made between or beside the blocks behind the first: tracing finds it out."""


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", MODELS)
def test_a_call_cut_along_its_batch(name: str) -> None:
    """Together the parts answer as the whole does, but for networks that are known not to."""
    with torch.no_grad(), quiet():
        module, call = MODELS[name].build(), MODELS[name].call(6, 0.5)
        whole = tensors_of(module(**call))
        try:
            found = tensors_of(joined([module(*args, **kwargs) for args, kwargs in parts_of((), call, 2)]))
        except (RuntimeError, IndexError):
            found = []
    pairs = zip(found, whole, strict=False)
    same = len(found) == len(whole) and all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs)
    assert same != (name in UNPARTED)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", MODELS)
def test_what_the_first_block_adds(name: str) -> None:
    """It is read in the full call, which it does not change; with what the others add it is what all do."""
    texts = ("leading:1", "behind:1", "trunk:residual")
    with torch.no_grad(), quiet():
        module, call = MODELS[name].build(), run_of(MODELS[name])[-1]
        output = [tensor.clone() for tensor in tensors_of(module(**call))]
        attachment = Attachment(module, {text: parse_point(text) for text in texts})
        if name in OTHER_INPUT:
            return
        computed, found = attachment.run((), call, texts, {})
    assert all(torch.equal(a, b) for a, b in zip(tensors_of(computed), output, strict=True))
    leading, behind, whole = (feature[0] for feature in found.values() if feature is not None)
    together = leading.shape == behind.shape and torch.allclose(leading + behind, whole, rtol=1e-4, atol=1e-5)
    assert together != (name in REFINERS_FIRST), (leading.shape, behind.shape)


REFINERS_FIRST = {"Lumina2Transformer2DModel", "ZImageTransformer2DModel"}
"""Their first block takes less than the final norm does: a plan that weighs what it adds is told so."""


NOT_PROBED = {
    "Flux3Transformer2DModel",
    "LTX2VideoTransformer3DModel",
    "Lumina2Transformer2DModel",
    "SanaWMLTX2RefinerTransformer3DModel",
    "ZImageTransformer2DModel",
}
"""Their first block is a refiner or of another modality, or they end in pictures and sound."""


def idle_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The blocks behind the first."""
    for place, running in cut_lists(find_block_lists(module), 1):
        yield from list(place.module.children())[running:]


def never(module: nn.Module, _: Any) -> None:
    pytest.fail(f"{type(module).__name__} runs, though what it makes is forecast")


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", MODELS)
def test_points_inside(name: str) -> None:
    """Behind the first block, and all layers of a kind: a step forecast from its own feature is that step, and what is
    forecast does not run."""
    with torch.no_grad(), quiet():
        module, call = MODELS[name].build(), run_of(MODELS[name])[-1]
        output = [tensor.clone() for tensor in tensors_of(module(**call))]
        for text in ("behind:1", *LAYERS):
            if text == "behind:1" and name in OTHER_INPUT:
                continue
            try:
                attachment = Attachment(module, parse_point(text))
            except AttachError:
                assert text == "cross_attention" or (text == "mlp" and name in FUSED)
                continue
            computed, feature = attachment.compute((), call)
            assert feature is not None
            assert all(torch.equal(a, b) for a, b in zip(tensors_of(computed), output, strict=True))
            idle = [p.module for p in find_layers(module, text, "*")] if text in LAYERS else list(idle_blocks(module))
            hooks = [part.register_forward_pre_hook(never) for part in idle]
            found = tensors_of(attachment.predict(feature, (), call))
            for hook in hooks:
                hook.remove()
            exact = all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(found, output, strict=True))
            assert exact != (text == "behind:1" and name in MORE_BETWEEN | BETWEEN_LISTS), text


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", MODELS)
def test_a_decision_within_a_call(name: str) -> None:
    """Gone on with, a call is the full one to the bit; with its own feature in the place of the other blocks, too."""
    with torch.no_grad(), quiet():
        module, call = MODELS[name].build(), run_of(MODELS[name])[-1]
        output = [tensor.clone() for tensor in tensors_of(module(**call))]
        attachment, kept = Attachment(module, CachePoint(keep="residual")), list[Captured]()
        try:
            computed = tensors_of(attachment.run_late((), call, 1, lambda probe: None, kept.append))
        except AttachError:
            assert name in OTHER_INPUT | NOT_PROBED
            return
        assert all(torch.equal(a, b) for a, b in zip(computed, output, strict=True))
        ((feature,),) = [found.values() for found in kept]
        assert feature is not None
        hooks = [part.register_forward_pre_hook(never) for part in idle_blocks(module)]
        found = tensors_of(attachment.run_late((), call, 1, lambda probe: feature, kept.append))
        for hook in hooks:
            hook.remove()
        assert name not in OTHER_INPUT | NOT_PROBED
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(found, output, strict=True))
