"""The emoji pipeline with a network that was distilled into `STEPS` steps."""

from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file

from hyca_calib.demo import weights_of
from hyca_calib.demo.emoji.pipeline import EmojiPipeline

STEPS = 8
"""Sampler steps that it is for; with others it draws worse than the model that it was distilled from."""
CHANGED = "changed.safetensors"


class TurboPipeline(EmojiPipeline):
    """Called as `EmojiPipeline`; its folder of weights holds what differs from those of ``--model demo``."""

    @classmethod
    def from_weights(cls, folder: Path) -> Self:
        """The pipeline in `folder`, in float32 on the CPU."""
        pipe = super().from_weights(weights_of("demo"))
        pipe.transformer.load_state_dict(load_file(folder / CHANGED), strict=False)
        return pipe

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> None:
        """Write what `from_weights` reads."""
        taught = EmojiPipeline.from_weights(weights_of("demo")).transformer.state_dict()
        own = {name: tensor.cpu().contiguous() for name, tensor in self.transformer.state_dict().items()}
        changed = {name: tensor for name, tensor in own.items() if not torch.equal(tensor, taught[name].to(tensor))}
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        save_file(changed, Path(save_directory) / CHANGED)
