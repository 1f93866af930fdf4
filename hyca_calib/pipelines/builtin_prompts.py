"""A hundred prompts of our own writing, or classes drawn at random, for pipelines whose user names none.

They are varied rather than typical: a plan for a service is better made on what the service is asked for.
"""

import random
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from hyca_calib.pipelines.contract import takes
from hyca_calib.pipelines.pipeline import Pipeline
from hyca_runtime.errors import WorkloadError

KIND = re.compile(r"built-in (?:(images|videos)|(\d{1,7}) classes)")
MOST_CLASSES = 100
COUNTS = ("num_embeds_ada_norm", "num_classes")
"""What networks call the number of their classes in their configuration."""


def builtin_kind(pipe: Pipeline) -> str:
    """What a pipeline is given where its user names no prompts; plans keep it, for `builtin_prompts`.

    Raises:
        WorkloadError: it takes neither a prompt nor class labels.
    """
    if takes(pipe, "prompt"):
        return "built-in videos" if takes(pipe, "num_frames") else "built-in images"
    if takes(pipe, "class_labels"):
        config = getattr(pipe.transformer, "config", {})
        found = [config[name] for name in COUNTS if isinstance(config, Mapping) and isinstance(config.get(name), int)]
        if found and found[0] > 0:
            return f"built-in {found[0]} classes"
    raise WorkloadError(
        f"{type(pipe).__name__} takes neither `prompt` nor `class_labels` of a known number, so no built-in prompts "
        "suit it; give --prompts FILE"
    )


def builtin_prompts(kind: str) -> tuple[dict[str, Any], ...]:
    """Arguments of the pipeline's call.

    Raises:
        WorkloadError: no such kind.
    """
    match = KIND.fullmatch(kind)
    if match is None:
        raise WorkloadError(
            f"no such prompts: {kind!r}; expected built-in images, built-in videos or built-in N classes"
        )
    if match[1]:
        lines = (files(__package__) / "builtin" / f"{match[1]}.txt").read_text(encoding="utf-8").splitlines()
        return tuple({"prompt": line} for line in lines)
    count = int(match[2])
    chosen = random.Random(count).sample(range(count), min(count, MOST_CLASSES))
    return tuple({"class_labels": label} for label in chosen)
