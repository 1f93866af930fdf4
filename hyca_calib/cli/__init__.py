"""The command line: ``python -m hyca_calib``, or ``hyca``."""

from __future__ import annotations

from typing import Annotated

import typer

from hyca_calib.cli import looking, plans, studies, traces
from hyca_calib.records.console import log_json

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Make a diffusion transformer several times cheaper: record it ([b]trace[/]), search a plan under a "
    "budget ([b]search[/]), measure it ([b]evaluate[/]). Start with [b]demo[/].",
)
for room in (plans, traces, looking, studies):
    app.add_typer(room.app)


@app.callback()
def common(
    as_json: Annotated[
        bool, typer.Option("--log-json", help="Progress, news and errors as lines of JSON on standard error.")
    ] = False,
) -> None:
    """Options of all commands."""
    if as_json:
        log_json()


def main() -> None:
    """Entry point of ``hyca``."""
    app()
