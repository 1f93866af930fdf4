"""Descendants of Wan."""

import torch

from studies.zoo.base import Kwargs, Randn, tiny_model
from studies.zoo.models.shared import WAN, basics
from studies.zoo.models.video import PROMPT, clip


@tiny_model(
    "WanVACETransformer3DModel", WAN, num_layers=3, rope_max_seq_len=32, vace_layers=[0, 2], vace_in_channels=12
)
def wan_vace(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Wan VACE: a second list of blocks makes hints out of a control video."""
    return clip(batch, noise, randn) | {
        "control_hidden_states": randn(batch, 12, 3, 8, 8),
        "control_hidden_states_scale": torch.ones(2),
    }


@tiny_model(
    "WanAnimateTransformer3DModel", WAN,
    in_channels=12, latent_channels=4, image_dim=32, added_kv_proj_dim=32, rope_max_seq_len=32,
    motion_encoder_channel_sizes={"4": 8, "8": 8, "16": 8}, motion_encoder_size=16, motion_style_dim=16,
    motion_dim=4, motion_encoder_dim=16, face_encoder_hidden_dim=16, face_encoder_num_heads=2,
    inject_face_latents_blocks=2,
)  # fmt: skip
def wan_animate(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Wan 2.2 Animate: a pose is added to the latents, a face attended to after some blocks."""
    return chrono_edit(batch, noise, randn) | {
        "pose_hidden_states": randn(batch, 4, 2, 8, 8),
        "face_pixel_values": randn(batch, 3, 5, 16, 16),
    }


@tiny_model(
    "WanAnimate2Transformer3DModel",
    text_len=8, in_dim=12, dim=32, ffn_dim=64, freq_dim=32, text_dim=32, out_dim=4, num_heads=2, num_layers=2,
    use_img_emb=False,
)  # fmt: skip
def wan_animate_2(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Wan Animate 2, a denoising step after the pass that fills the cache with the reference video."""
    from diffusers.models.transformers.transformer_wan_animate_2 import WanAnimate2KVCache

    reference = WanAnimate2KVCache(2)
    for index in range(2):
        reference.get(index).store(randn(batch, 2 * 4 * 4, 2, 16), randn(batch, 2 * 4 * 4, 2, 16))
    given = clip(batch, noise, randn)
    return given | {
        "hidden_states": list(given["hidden_states"]),
        "encoder_hidden_states": list(given["encoder_hidden_states"]),
        "condition_latents": list(randn(batch, 8, 3, 8, 8)),
        "kv_cache": reference,
        "kv_cache_mode": "cached",
        "seq_len": 3 * 4 * 4,
        "reference_grid_sizes": torch.tensor([[2, 4, 4]] * batch),
        "origin_len": 5,
        "origin_area": [64, 64],
    }


@tiny_model(
    "ChronoEditTransformer3DModel", WAN,
    attention_head_dim=24, in_channels=12, image_dim=32, added_kv_proj_dim=48, rope_max_seq_len=32,
)  # fmt: skip
def chrono_edit(batch: int, noise: float, randn: Randn) -> Kwargs:
    """ChronoEdit, editing as image to video."""
    return clip(batch, noise, randn, channels=12) | {"encoder_hidden_states_image": randn(batch, 5, 32)}


@tiny_model("SkyReelsV2Transformer3DModel", WAN, rope_max_seq_len=32)
def skyreels_v2(batch: int, noise: float, randn: Randn) -> Kwargs:
    """SkyReels V2, text to video."""
    return clip(batch, noise, randn)


@tiny_model("HeliosTransformer3DModel", WAN, rope_dim=(4, 6, 6))
def helios(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Helios, a chunk of a long video after three resolutions of its past."""
    frames = torch.arange(4 + 2 + 2 + 3)[None]
    return basics(batch, noise, randn, (4, 3, 8, 4), PROMPT) | {
        "indices_hidden_states": frames[:, 8:],
        "indices_latents_history_short": frames[:, 6:8],
        "indices_latents_history_mid": frames[:, 4:6],
        "indices_latents_history_long": frames[:, :4],
        "latents_history_short": randn(batch, 4, 2, 8, 4),
        "latents_history_mid": randn(batch, 4, 2, 8, 4),
        "latents_history_long": randn(batch, 4, 4, 8, 4),
    }
