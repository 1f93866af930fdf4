"""Options and output that several commands have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["STUDIES", "Batch", "Device", "Download", "Json", "Model", "Prompts", "Seed", "TracedModel", "show"]

Model = Annotated[
    str,
    typer.Option(
        help="demo, demo-class, demo-video, a diffusers id or folder, or package.module:factory giving a pipeline."
    ),
]
Prompts = Annotated[
    Path | None,
    typer.Option(help="Text file, one prompt a line, or .jsonl with pipeline arguments. Default: the demo's own."),
]
Seed = Annotated[int, typer.Option(help="Source of all randomness.")]
Batch = Annotated[int | None, typer.Option(min=1, help="Samples per pipeline call. Default: 8 for the demos, else 1.")]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, cuda:N; balanced over GPUs; offload, sequential: moved in as needed. Default: GPU."),
]
TracedModel = Annotated[
    str | None,
    typer.Option("--model", help="The traced model, where it is code or has moved. Default: the name in the trace."),
]
Download = Annotated[bool, typer.Option("--download", help="Fetch from the Hub what this machine does not have.")]
Json = Annotated[bool, typer.Option("--json", help="Print everything found as JSON.")]
STUDIES = Path("studies")


def show(figures: dict[str, Any], as_json: bool) -> None:
    """Print figures, as JSON or for people."""
    if as_json:
        print(json.dumps(figures, indent=1))
        return
    for key, value in figures.items():
        if isinstance(value, float):
            print(f"{key:<16} {value:.4g}")
        elif not isinstance(value, (list, tuple)):
            print(f"{key:<16} {value}")
