"""Qwen-Image."""

from types import SimpleNamespace

from studies.zoo.base import Kwargs, Randn, tiny_pipeline
from studies.zoo.pipelines.parts import SQUARE, flow, network, part, picture, words


def qwen_parts(halvings: int) -> Kwargs:
    """Components of every Qwen-Image pipeline; the autoencoder halves the sides so many times."""
    return {
        "transformer": network("QwenImageTransformer2DModel"),
        "vae": part(
            "AutoencoderKLQwenImage",
            base_dim=4,
            z_dim=4,
            dim_mult=[1] * (halvings + 1),
            num_res_blocks=0,
            temperal_downsample=[False] * halvings,
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        "scheduler": flow(
            base_shift=0.5,
            max_shift=0.9,
            base_image_seq_len=256,
            max_image_seq_len=8192,
            shift_terminal=0.02,
            use_dynamic_shifting=True,
        ),
    }


def qwen_prompts(randn: Randn) -> Kwargs:
    """A prompt of 8 tokens and a negative one of 5, with guidance."""
    return {
        "prompt_embeds": randn(1, 8, 32),
        "prompt_embeds_mask": words(8, 8),
        "negative_prompt_embeds": randn(1, 5, 32),
        "negative_prompt_embeds_mask": words(5, 5),
        "true_cfg_scale": 4.0,
    }


@tiny_pipeline("Qwen-Image", "QwenImagePipeline", **qwen_parts(halvings=1))
def qwen_image(randn: Randn) -> Kwargs:
    """Two calls a step, in contexts "cond" and "uncond"."""
    return qwen_prompts(randn) | SQUARE


# The pipeline scales every input image to a million pixels: 16 tokens after so many halvings.
@tiny_pipeline("Qwen-Image-Edit", "QwenImageEditPipeline", **qwen_parts(halvings=7))
def qwen_image_edit(randn: Randn) -> Kwargs:
    """Tokens of the input image follow; two calls a step, in contexts "cond" and "uncond"."""
    from PIL import Image

    pixels = (picture(randn)[0].permute(1, 2, 0) * 255).byte().numpy()
    return qwen_prompts(randn) | {"image": Image.fromarray(pixels)}


class _Processor:
    """What the pipeline asks for when it is made; prompts are given as embeddings."""

    tokenizer = SimpleNamespace(encode=lambda text: [0])

    def apply_chat_template(self, *_: object, **__: object) -> list[list[int]]:
        return [[0]]


@tiny_pipeline(
    "Qwen-Image 2.1",
    "QwenImage21Pipeline",
    **qwen_parts(halvings=1)
    | {
        "transformer": network("QwenImage21Transformer2DModel", in_channels=4, out_channels=4),
        "processor": _Processor,
    },
)
def qwen_image21(randn: Randn) -> Kwargs:
    """Two calls a step, in contexts "cond" and "uncond"; the first step also computes what a cache of keys keeps."""
    return qwen_prompts(randn) | SQUARE
