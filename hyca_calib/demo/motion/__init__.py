"""``--model demo-video``: a small Wan that shows moving emoji, trained by `studies.training.motion.train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyca_calib.demo.motion.pipeline import MotionPipeline

__all__ = ["WEIGHTS", "load", "prompts"]

WEIGHTS = Path(__file__).parent / "weights"


def load(folder: Path = WEIGHTS) -> MotionPipeline:
    """The pipeline in `folder`, in float32 on the CPU."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
    from safetensors.torch import load_file

    from hyca_calib.demo.emoji.text import WordEncoder
    from hyca_calib.demo.motion.codec import BlockCodec
    from hyca_calib.demo.motion.pipeline import MotionPipeline

    options = {"torch_dtype": torch.float32, "local_files_only": True, "low_cpu_mem_usage": False}
    facts = json.loads((folder / "model_index.json").read_text())
    # from_pretrained of this class wants accelerate, which nothing else here needs
    transformer = WanTransformer3DModel.from_config(WanTransformer3DModel.load_config(folder / "transformer"))
    transformer.load_state_dict(load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors"))
    return MotionPipeline(
        transformer=transformer.eval(),
        text_encoder=WordEncoder.from_pretrained(folder / "text_encoder", **options),
        vae=BlockCodec.from_pretrained(folder / "vae", **options),
        scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler"),
        num_frames=facts["num_frames"],
        frame_size=facts["frame_size"],
    )


def prompts(folder: Path = WEIGHTS) -> tuple[dict[str, Any], ...]:
    """Every caption, those held out from training included."""
    facts = json.loads((folder / "training.json").read_text())
    return tuple({"prompt": caption} for caption in sorted(facts["trained_captions"] + facts["held_out_captions"]))
