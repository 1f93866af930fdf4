"""Which network of diffusers a network of ComfyUI is, read off the names and shapes of its weights.

ComfyUI keeps no configuration of diffusers, but the layout in which a model was released. The last hidden feature is
the same tensor in both, channel by channel, so a plan that is made with one serves the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from torch import nn

from hyca_runtime.errors import AttachError
from hyca_runtime.fingerprint import config_digest
from hyca_runtime.plan_facts import ModelFingerprint

Shapes = Mapping[str, tuple[int, ...]]
"""Of weights, by their names."""

HEAD = 128
"""Width of an attention head in all releases of Wan, whose weights do not tell it."""


def fingerprint_of(network: nn.Module) -> ModelFingerprint:
    """What plans call this network.

    Raises:
        AttachError: it is of no family that is known here.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in network.named_parameters()}
    for mark, (transformer, configuration) in FAMILIES.items():
        if any(name.startswith(mark) for name in shapes):
            try:
                digest = config_digest(SimpleNamespace(config=configuration(shapes)))  # type: ignore[arg-type]
            except (KeyError, StopIteration, IndexError) as error:
                raise AttachError(
                    f"a {type(network).__name__} with weights {mark}* as of a {transformer}, but not {error}; this "
                    "variant is not known here"
                ) from error
            return ModelFingerprint(transformer=transformer, config_digest=digest)
    known = ", ".join(transformer for transformer, _ in FAMILIES.values())
    raise AttachError(f"the weights of a {type(network).__name__} are not named as those of {known}")


def _flux(shapes: Shapes) -> dict[str, Any]:
    """FLUX.1: dev, schnell, and what is fine-tuned from them."""
    width, channels = shapes["img_in.weight"]
    head = next(shape[0] for name, shape in shapes.items() if name.startswith(FLUX_MARK))
    return {
        "patch_size": 1,
        "in_channels": channels,
        "out_channels": None,
        "num_layers": _members(shapes, "double_blocks"),
        "num_single_layers": _members(shapes, "single_blocks"),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": shapes["txt_in.weight"][1],
        "pooled_projection_dim": shapes["vector_in.in_layer.weight"][1],
        "guidance_embeds": "guidance_in.in_layer.weight" in shapes,
        "axes_dims_rope": (16, 56, 56),
    }


def _wan(shapes: Shapes) -> dict[str, Any]:
    """Wan 2.1 and 2.2, text to video; with pictures to begin from it has weights that are not looked for here."""
    width, channels, *patch = shapes["patch_embedding.weight"]
    if any(name.startswith(("img_emb.", "vace_", "ref_conv.")) for name in shapes):
        raise KeyError("img_emb., vace_ or ref_conv. beside it")
    return {
        "patch_size": tuple(patch),
        "num_attention_heads": width // HEAD,
        "attention_head_dim": HEAD,
        "in_channels": channels,
        "out_channels": shapes["head.head.weight"][0] // (patch[0] * patch[1] * patch[2]),
        "text_dim": shapes["text_embedding.0.weight"][1],
        "freq_dim": shapes["time_embedding.0.weight"][1],
        "ffn_dim": shapes["blocks.0.ffn.0.weight"][0],
        "num_layers": _members(shapes, "blocks"),
        "cross_attn_norm": "blocks.0.norm3.weight" in shapes,
        "qk_norm": "rms_norm_across_heads",
        "eps": 1e-6,
        "image_dim": None,
        "added_kv_proj_dim": None,
        "rope_max_seq_len": 1024,
        "pos_embed_seq_len": None,
    }


def _members(shapes: Shapes, blocks: str) -> int:
    """How many blocks a list has."""
    return len({name.split(".")[1] for name in shapes if name.startswith(f"{blocks}.")})


FLUX_MARK, WAN_MARK = "double_blocks.0.img_attn.norm.key_norm.", "head.modulation"

FAMILIES: dict[str, tuple[str, Callable[[Shapes], dict[str, Any]]]] = {
    FLUX_MARK: ("FluxTransformer2DModel", _flux),
    WAN_MARK: ("WanTransformer3DModel", _wan),
}
"""By how a weight is called that only this family has: the class of diffusers, and its configuration."""
