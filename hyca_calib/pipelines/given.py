"""Pipelines and prompts as Python hands them over, rather than by name."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hyca_calib.pipelines.contract import refuse_reserved
from hyca_calib.pipelines.load import checked_pipeline
from hyca_calib.pipelines.media import with_media
from hyca_calib.pipelines.pipeline import Pipeline
from hyca_calib.pipelines.prompts import distinct, read_prompts
from hyca_runtime.errors import WorkloadError

Prompts = Sequence[str | Mapping[str, Any]] | Path
"""Texts, or keywords of the pipeline's call; or the path of a file of them."""
BARS = "_progress_bar_config"
"""Where diffusers keeps how a pipeline shows its progress."""


def given_calls(prompts: Prompts) -> tuple[dict[str, Any], ...]:
    """Pipeline arguments, one entry each, as `read_prompts` gives them.

    Raises:
        WorkloadError: a single text, an argument that HyCa itself gives, or one that no file of prompts could hold.
    """
    if isinstance(prompts, Path):
        return read_prompts(prompts)
    if isinstance(prompts, str):
        raise WorkloadError(f"expected a list of prompts, or the Path of a file of them, got the text {prompts[:40]!r}")
    return distinct([_call(prompt, f"prompt {number}") for number, prompt in enumerate(prompts, 1)])


def _call(prompt: str | Mapping[str, Any], where: str) -> dict[str, Any]:
    if isinstance(prompt, str):
        return {"prompt": prompt}
    if not isinstance(prompt, Mapping):
        raise WorkloadError(f"{where}: expected a text or keywords of the call, got a {type(prompt).__name__}")
    refuse_reserved(prompt, where)
    for key, value in prompt.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise WorkloadError(
                f"{where}: {key} is a {type(value).__name__}; expected what JSON can hold, pictures and videos by the "
                "names of their files"
            ) from error
    return with_media(prompt, Path.cwd(), where)


@contextmanager
def quiet_pipeline(pipe: Any) -> Iterator[Pipeline]:
    """The pipeline, which shows no progress of its own inside.

    Raises:
        WorkloadError: it does not do what HyCa asks of a pipeline.
    """
    ready = checked_pipeline(pipe, "what was given")
    before = getattr(pipe, BARS, {})
    if hasattr(pipe, "set_progress_bar_config"):
        pipe.set_progress_bar_config(disable=True)
    try:
        yield ready
    finally:
        if hasattr(pipe, BARS):
            setattr(pipe, BARS, before)
