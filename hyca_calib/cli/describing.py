"""What lies at a path: info."""

from typing import Annotated

import typer

from hyca_calib.cli.command import command, show
from hyca_calib.commands.options import Json


@command
def info(
    path: Annotated[str, typer.Argument(help="A trace (folder or URL), a study folder, or a plan file.")],
    as_json: Json = False,
) -> None:
    """Say in one screen what a trace, a study or a plan is, how far it is, and where it comes from.

    Example: [b]python -m hyca_calib info studies/demo-5x[/]
    """
    from hyca_calib.commands.describing import describe

    show(describe(path), as_json)
