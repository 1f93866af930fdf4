"""Everything by one command: calibrate, and the same on the embedded model, demo."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hyca_calib.cli.command import command, show
from hyca_calib.commands.calibrate_options import CalibrateOptions
from hyca_calib.commands.options import Json
from hyca_calib.records.console import say
from hyca_calib.search.effort import EffortName


@command
def calibrate(options: CalibrateOptions) -> None:
    """Make plans for a model: trace, search, evaluate with a certificate, report. Prints the plans.

    First the model is timed, and a table says what every stage will take; [b]--dry-run[/] stops there. Interrupted, the
    same command goes on where it stopped.

    Example: [b]python -m hyca_calib calibrate --model my_pkg.models:make_pipe --prompts prompts.txt --steps 28[/]

    Example: [b]python -m hyca_calib calibrate --model demo --budget 5x --lanes 4[/]

    Example: [b]python -m hyca_calib calibrate --model black-forest-labs/FLUX.1-dev --budget 2x,3x --dry-run[/]
    """
    from hyca_calib.commands.calibrating import calibrate as calibrated

    for made in calibrated(options):
        print(made.plan)


@command
def demo(
    budget: Annotated[str, typer.Option(help="As for calibrate.")] = "5x",
    effort: Annotated[EffortName, typer.Option(help="As for calibrate.")] = "standard",
    out: Annotated[Path | None, typer.Option(help="As for calibrate. Default: studies/demo-BUDGET.")] = None,
    record: Annotated[
        Path | None, typer.Option(help="Also write what it took and reached here; documents use such a file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Everything on the embedded model: calibrate, and tell what the plan reaches. Some minutes.

    Example: [b]python -m hyca_calib demo[/]
    """
    from hyca_calib.commands.demonstrating import run_demo

    result, picture = run_demo(budget, effort, out, record)
    show(asdict(result), as_json)
    say(f"picture: {picture}")
