"""Options of ``hyca calibrate`` and ``hyca demo``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from hyca_calib.commands.options import STUDIES, Batch, Device, Download, Model, RefineAt, Seed, short_name
from hyca_calib.costs.budget import TOLERANCE
from hyca_calib.search.effort import EffortName

POINTS = "trunk,output"
"""Of what the network returns a step costs next to nothing, which may pay for one computed step more; what its head
takes tells more of the future."""


@dataclass(frozen=True)
class CalibrateOptions:
    """Options of ``hyca calibrate``."""

    model: Model = "demo"
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Text file, one prompt a line; or .jsonl with pipeline arguments, pictures by name. Default: the "
            "demo's, else a hundred built-in ones."
        ),
    ] = None
    steps: Annotated[int, typer.Option(help="Sampler steps of the full run.")] = 50
    budget: Annotated[
        str, typer.Option(help="5x, 20%, '10 steps', 1.8s or '2.5x wall'; several with commas: 2x,3x,5x.")
    ] = "5x"
    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="plan.json of an earlier calibration of this architecture, with other weights (LoRA), guidance, size, "
            "steps or sampler. Where it still does what its certificate says it is kept and certified anew, else the "
            "search begins with it; both take a fraction of the effort.",
        ),
    ] = None
    effort: Annotated[
        EffortName, typer.Option(help="How much is done, in counts: the same plan on every machine, however busy.")
    ] = "standard"
    max_hours: Annotated[
        float | None, typer.Option(min=0, help="Cut all counts of the effort evenly to what fits; the plan says so.")
    ] = None
    lanes: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Devices for one sample: beside each plan search lanes that wait for as many computed evaluations, in "
            "its study's folder lanes/.",
        ),
    ] = None
    out: Annotated[
        Path | None, typer.Option(help="Folder of everything that is written. Default: studies/MODEL-BUDGETS.")
    ] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Time the model, tell what each stage will take, and stop.")
    ] = False
    strict: Annotated[
        bool, typer.Option("--strict", help=f"Compute no more than asked; else up to {100 * TOLERANCE:.0f} % more.")
    ] = False
    point: Annotated[
        str,
        typer.Option(help="Where features may be cached, as for trace; of several, rollouts decide for each budget."),
    ] = POINTS
    refine_at: RefineAt = None
    component: Annotated[str, typer.Option(help="Which network of the pipeline; Wan 2.2 has two.")] = "transformer"
    seed: Seed = 0
    batch: Batch = None
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Of a CPU. Default: OMP_NUM_THREADS where it is set, else what is fastest here."),
    ] = None
    force: Annotated[bool, typer.Option("--force", help="Begin even if memory or disk will not do.")] = False
    device: Device = None
    download: Download = False

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        part = "" if self.component == "transformer" else f"-{self.component}"
        budgets = self.budget.replace(" ", "").replace(",", "-")
        begun = "" if self.start is None else "-from"
        return self.out or STUDIES / f"{short_name(self.model)}{part}-{budgets}{begun}"
