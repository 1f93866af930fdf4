"""The options of ``hyca lanes``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from hyca_calib.commands.options import Batch, Device, Download, Model, Prompts, Seed


@dataclass(frozen=True)
class LanesOptions:
    """Options of ``hyca lanes``."""

    model: Model = "demo"
    plans: Annotated[
        list[Path] | None,
        typer.Option("--plan", help="plan.json to follow in lanes, and alone; more of them alone only. Repeatable."),
    ] = None
    lanes: Annotated[
        str, typer.Option(help="Lanes, of one device each; several numbers are compared: 2,3,4. Published: 4, 6, 8.")
    ] = "4"
    passes: Annotated[
        str | None,
        typer.Option(help="Search starts whose fast lane ends after these. Default: as published, and three quarters."),
    ] = None
    every: Annotated[str, typer.Option(help="Lanes with plans compute together, on every so many passes.")] = "2,3,4,6"
    prompts: Prompts = None
    samples: Annotated[int, typer.Option(min=1, help="Samples of the test split that are drawn.")] = 8
    watched: Annotated[int, typer.Option(min=1, help="Samples of the select split that the search watches.")] = 4
    steps: Annotated[int, typer.Option(min=4, help="Steps of the exact sampler.")] = 50
    seed: Seed = 0
    batch: Batch = None
    device: Device = None
    download: Download = False
    out: Annotated[Path | None, typer.Option(help="JSON to write, and a page beside it. Default: only print.")] = None
