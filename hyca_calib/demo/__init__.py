"""The embedded models: small diffusion transformers, trained here, that need no download.

Each is a package with its pipeline, weights and their card; `studies.training` has its data and training.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyca_calib.demo.sampling import DemoPipeline

__all__ = ["DEMOS", "demo_pipeline", "demo_prompts", "weights_of"]

MODELS = {
    "demo": ("emoji", "EmojiPipeline"),
    "demo-class": ("glyphs", "GlyphPipeline"),
    "demo-video": ("motion", "MotionPipeline"),
    "demo-stream": ("stream", "StreamPipeline"),
    "demo-turbo": ("turbo", "TurboPipeline"),
}
"""Names for ``--model``, their packages and classes: emoji from words (FLUX), letters and digits by class (DiT), moving
emoji (Wan), as long as one likes (SkyReels-V2), and the first of them distilled into eight steps."""


def weights_of(name: str) -> Path:
    """The folder of a model's weights."""
    return Path(__file__).parent / MODELS[name][0] / "weights"


DEMOS = tuple(name for name in MODELS if (weights_of(name) / "training.json").exists())
"""Those whose weights are here."""


def demo_pipeline(name: str = "demo") -> "DemoPipeline":
    """The trained pipeline, in float32 on the CPU."""
    package, kind = MODELS[name]
    module = import_module(f"{__name__}.{package}.pipeline")
    pipe: DemoPipeline = getattr(module, kind).from_weights(weights_of(name))
    return pipe


def demo_prompts(name: str = "demo") -> tuple[dict[str, Any], ...]:
    """Arguments of the pipeline's call, one for every class or name it knows, those held out from training included."""
    if name == "demo-class":
        classes = json.loads((weights_of(name) / "model_index.json").read_text())["classes"]
        return tuple({"class_labels": label} for label in classes)
    facts = json.loads((weights_of(name) / "training.json").read_text())
    names = [text for key in facts if key.startswith(("trained_", "held_out_")) for text in facts[key]]
    return tuple({"prompt": text} for text in sorted(names))
