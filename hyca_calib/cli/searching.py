"""Plans from traces: search."""

from pathlib import Path
from typing import Annotated

import typer

from hyca_calib.cli.command import command
from hyca_calib.commands.options import SearchLimits


@command
def search(
    budget: Annotated[
        str | None,
        typer.Option(help="5x, 20%, '10 steps', '20x bitops', 1.8s or '2.5x wall'; several with commas: 2x,3x,5x."),
    ] = None,
    *,
    trace: Annotated[
        list[str] | None,
        typer.Option(
            help="A trace; where it is of several points, or several traces are, rollouts decide. Default: the newest."
        ),
    ] = None,
    limits: SearchLimits,
    out: Annotated[Path | None, typer.Option(help="Study folder. Default: studies/TRACE-BUDGET.")] = None,
) -> None:
    """Find the best plan within a budget; a second call goes on where the first was interrupted.

    Several processes that give the same command with --workers share the work, on one machine or on many that see
    --out; the trials of one that dies are done by the others.

    Example: [b]python -m hyca_calib search --budget 5x[/], or in two precisions
    [b]python -m hyca_calib search --precision int8 --budget 20xbitops[/]
    """
    from hyca_calib.commands.searching import search_plans

    for plan in search_plans(budget, trace or [], limits, out):
        print(plan)
