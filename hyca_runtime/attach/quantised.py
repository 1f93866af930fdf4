"""Quantised linear layers, as torchao makes them."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import nn

from hyca_runtime.attach.integer_products import by_floats
from hyca_runtime.errors import AttachError
from hyca_runtime.fingerprint import stored_in
from hyca_runtime.variant import VariantSpec

_INT4: torch.dtype = getattr(torch, "int4")  # noqa: B009  (torch's own annotations lack it)
GROUP = 32
"""Numbers that share a scale where weights have 4 bits."""


def quantised(layer: nn.Linear, spec: VariantSpec) -> nn.Module:
    """`layer` with its weight quantised, and its own bias; `layer` stays as it is.

    Its device, its precision and its size must be such that torchao has a kernel for them, which is tried.

    Raises:
        AttachError: torchao is not installed, or does not have that scheme here.
    """
    torchao = _torchao(spec)
    try:
        made = _simulated(torchao, layer, spec) if spec.simulated else _stored(torchao, layer, spec)
        with torch.no_grad():
            made(torch.zeros(2, layer.in_features, dtype=layer.weight.dtype, device=layer.weight.device))
    except (ImportError, AssertionError, NotImplementedError, ValueError, RuntimeError, TypeError) as error:
        where = f"{layer.weight.dtype} weights on {layer.weight.device}".removeprefix("torch.")
        cure = "" if spec.simulated else "; with 'simulated' in the plan its numbers can be tried here"
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise AttachError(f"torchao {torchao.__version__} has no {spec} for {where}: {reason}{cure}") from error
    made.get_parameter("weight").requires_grad_(False)  # and the bias stays the layer's own
    return made.train(layer.training)


def bytes_beside(made: nn.Module, layer: nn.Linear) -> int:
    """Bytes that the weight of a quantised layer really takes beside that of the layer it was made of."""
    parts = [part for part in stored_in(made.get_parameter("weight")) if part.data_ptr() != layer.weight.data_ptr()]
    return sum(part.numel() * part.element_size() for part in parts)


def _torchao(spec: VariantSpec) -> ModuleType:
    try:
        import torchao  # imported late: it is no dependency, and costs a second
        import torchao.quantization.qat
    except ImportError as error:
        raise AttachError(
            f"the plan computes with {spec} weights, which torchao makes: pip install torchao ({error})"
        ) from error
    return torchao  # type: ignore[no-any-return]


def _stored(torchao: ModuleType, layer: nn.Linear, spec: VariantSpec) -> nn.Module:
    made = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    made.weight, made.bias = nn.Parameter(layer.weight.detach(), requires_grad=False), layer.bias
    holder = nn.Sequential(made)
    torchao.quantization.quantize_(holder, _configuration(torchao.quantization, spec))
    vars(holder[0]).pop("extra_repr", None)  # refers to the layer, which would outlive its last user
    return by_floats(holder[0], layer.weight.device) if spec.scheme == "int8" else holder[0]


def _configuration(quantization: ModuleType, spec: VariantSpec) -> object:
    if spec.scheme == "int8":
        kind = quantization.MappingType.ASYMMETRIC if spec.asymmetric else quantization.MappingType.SYMMETRIC
        return quantization.Int8DynamicActivationInt8WeightConfig(act_mapping_type=kind)
    if spec.scheme == "int8_weights":
        return quantization.Int8WeightOnlyConfig()
    if spec.scheme == "int4_weights":
        return quantization.Int4WeightOnlyConfig(group_size=GROUP, int4_packing_format="tile_packed_to_4d")
    return quantization.Float8DynamicActivationFloat8WeightConfig(granularity=quantization.PerRow())


def _simulated(torchao: ModuleType, layer: nn.Linear, spec: VariantSpec) -> nn.Module:
    """A layer that rounds as it computes, on the very weight of `layer`."""
    qat = torchao.quantization.qat
    activations = None
    if spec.scheme == "fp8":
        weights = activations = qat.Float8FakeQuantizeConfig(torch.float8_e4m3fn, torchao.quantization.PerRow())
    elif spec.scheme == "int4_weights":
        weights = qat.IntxFakeQuantizeConfig(_INT4, group_size=GROUP, is_symmetric=False)
    else:
        weights = qat.IntxFakeQuantizeConfig(torch.int8, "per_channel", is_symmetric=True)
        if spec.scheme == "int8":
            activations = qat.IntxFakeQuantizeConfig(torch.int8, "per_token", is_symmetric=False)
    made = qat.FakeQuantizedLinear.from_linear(layer, activations, weights)
    made.weight = nn.Parameter(layer.weight.detach(), requires_grad=False)
    return made  # type: ignore[no-any-return]
