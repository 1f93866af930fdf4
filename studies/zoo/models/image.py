"""Networks for images that have a family of their own."""

import torch

from studies.zoo.base import Kwargs, Randn, tiny_model
from studies.zoo.models.shared import TWO_BLOCKS, basics, grid, ragged_mask

JOY: Kwargs = {
    "in_channels": 4, "hidden_size": 32, "num_attention_heads": 2, "text_dim": 24, "mlp_width_ratio": 2.0,
    "num_layers": 2, "rope_dim_list": [4, 6, 6],
}  # fmt: skip


@tiny_model(
    "HiDreamImageTransformer2DModel", TWO_BLOCKS,
    patch_size=2, in_channels=4, num_single_layers=2, caption_channels=[24, 32], text_emb_dim=24,
    num_routed_experts=2, num_activated_experts=1, axes_dims_rope=(8, 4, 4), max_resolution=(16, 16),
    llama_layers=[0, 1, 2, 2],
)  # fmt: skip
def hidream(batch: int, noise: float, randn: Randn) -> Kwargs:
    """A square image, three layers of Llama for four blocks."""
    return {
        "hidden_states": randn(batch, 4, 8, 8),
        "timesteps": torch.full((batch,), 1000 * noise),
        "encoder_hidden_states_t5": randn(batch, 8, 24),
        "encoder_hidden_states_llama3": randn(3, batch, 8, 32),
        "pooled_embeds": randn(batch, 24),
    }


@tiny_model(
    "HunyuanDiT2DModel", TWO_BLOCKS,
    num_layers=4,  # the last takes a skip connection from the first
    in_channels=4, patch_size=2, sample_size=8, hidden_size=32, cross_attention_dim=24, cross_attention_dim_t5=32,
    pooled_projection_dim=32, text_len=6, text_len_t5=8,
)  # fmt: skip
def hunyuan_dit(batch: int, noise: float, randn: Randn) -> Kwargs:
    """A prompt of two encoders, a size and a style."""
    from diffusers.models.embeddings import get_2d_rotary_pos_embed

    return basics(batch, noise, randn, (4, 8, 8), (6, 24), top=999) | {
        "text_embedding_mask": ragged_mask(batch, 6),
        "encoder_hidden_states_t5": randn(batch, 8, 32),
        "text_embedding_mask_t5": ragged_mask(batch, 8),
        "image_meta_size": torch.tensor([64.0, 64.0, 64.0, 64.0, 0.0, 0.0]).repeat(batch, 1),
        "style": torch.zeros(batch, dtype=torch.long),
        "image_rotary_emb": get_2d_rotary_pos_embed(16, ((0, 0), (4, 4)), (4, 4), output_type="pt"),
    }


@tiny_model(
    "OmniGenTransformer2DModel",
    in_channels=4, hidden_size=32, num_attention_heads=2, num_key_value_heads=2, intermediate_size=64, num_layers=2,
    pad_token_id=0, vocab_size=32, max_position_embeddings=128, original_max_position_embeddings=128,
    rope_scaling={"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}, pos_embed_max_size=8,
)  # fmt: skip
def omnigen(batch: int, noise: float, randn: Randn) -> Kwargs:
    """One image of four tokens in a prompt of eight, the time, and the 16 tokens of the output."""
    prompt, image, output = 8, slice(2, 6), 16
    mask = torch.ones(prompt + 1 + output, prompt + 1 + output).tril()
    mask[image, image] = 1
    mask[-output:] = 1
    return {
        "hidden_states": randn(batch, 4, 8, 8),
        "timestep": torch.full((batch,), 1 - noise),
        "input_ids": torch.arange(1, 1 + prompt) + torch.arange(batch)[:, None],
        "input_img_latents": list(randn(batch, 1, 4, 4, 4)),
        "input_image_sizes": {i: [[image.start, image.stop]] for i in range(batch)},
        "attention_mask": mask.repeat(batch, 1, 1),
        "position_ids": torch.arange(len(mask)).repeat(batch, 1),
    }


@tiny_model(
    "ErnieImageTransformer2DModel",
    hidden_size=32, num_attention_heads=2, num_layers=2, ffn_hidden_size=64, in_channels=8, out_channels=8,
    text_in_dim=24, rope_axes_dim=(4, 6, 6),
)  # fmt: skip
def ernie_image(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Inside, the sequence comes before the batch."""
    return {
        "hidden_states": randn(batch, 8, 4, 4),
        "timestep": torch.full((batch,), 1000 * noise),
        "text_bth": randn(batch, 8, 24),
        "text_lens": 7 - torch.arange(batch),
    }


@tiny_model(
    "Krea2Transformer2DModel", TWO_BLOCKS,
    in_channels=16, num_key_value_heads=1, intermediate_size=64, timestep_embed_dim=32, text_hidden_dim=32,
    num_text_layers=3, text_num_attention_heads=2, text_num_key_value_heads=2, text_intermediate_size=64,
    axes_dims_rope=(4, 6, 6),
)  # fmt: skip
def krea2(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Prompts of three layers of a text encoder."""
    return basics(batch, noise, randn, (16, 16), (8, 3, 32), top=1) | {
        "encoder_attention_mask": ragged_mask(batch, 8).bool(),
        "position_ids": torch.cat([torch.zeros(8, 3), grid(1, 4, 4)]),
    }


@tiny_model(
    "PRXTransformer2DModel",
    in_channels=4, context_in_dim=24, hidden_size=32, mlp_ratio=2.0, num_heads=2, depth=2, axes_dim=[8, 8],
)  # fmt: skip
def prx(batch: int, noise: float, randn: Randn) -> Kwargs:
    """The share of noise as time."""
    mask = ragged_mask(batch, 8).bool()
    return basics(batch, noise, randn, (4, 8, 8), (8, 24), top=1) | {"attention_mask": mask}


@tiny_model(
    "Ideogram4Transformer2DModel", TWO_BLOCKS,
    in_channels=8, intermediate_size=64, adaln_dim=16, llm_features_dim=48, mrope_section=(4, 2, 2),
)  # fmt: skip
def ideogram4(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Prompts of seven tokens and fewer, padded on the left, then the 16 tokens of the image."""
    prompt, image = 8, 16
    is_text = ragged_mask(batch, prompt).flip(1)
    places = torch.cat([(is_text.cumsum(1) - 1).clamp(min=0), torch.zeros(batch, image, dtype=torch.long)], dim=1)
    places = places[:, :, None].repeat(1, 1, 3)
    places[:, prompt:] = grid(1, 4, 4) + 65536  # far from the text
    return {
        "hidden_states": torch.cat([torch.zeros(batch, prompt, 8), randn(batch, image, 8)], dim=1),
        "timestep": torch.full((batch,), 1 - noise),
        "encoder_hidden_states": torch.cat([randn(batch, prompt, 48), torch.zeros(batch, image, 48)], dim=1),
        "position_ids": places,
        "segment_ids": torch.cat([2 * is_text - 1, torch.ones(batch, image, dtype=torch.long)], dim=1),
        "indicator": torch.cat([3 * is_text, torch.full((batch, image), 2)], dim=1),
    }


@tiny_model("JoyImageEditTransformer3DModel", JOY)
def joy_image_edit(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Two images: a reference, and the one to be made."""
    return basics(batch, noise, randn, (2, 4, 1, 8, 8), (8, 24))


@tiny_model("JoyImageEditPlusTransformer3DModel", JOY)
def joy_image_edit_plus(batch: int, noise: float, randn: Randn) -> Kwargs:
    """The image to be made, a reference of another size, and in samples but the first one row of padding."""
    return basics(batch, noise, randn, (24, 4, 1, 2, 2), (8, 24)) | {
        "encoder_hidden_states_mask": ragged_mask(batch, 8),
        "shape_list": [[(1, 4, 4), (1, 4 if i == 0 else 3, 2)] for i in range(batch)],
    }
