"""The command line: ``python -m hyca_calib``, or ``hyca``; a file of commands for each of `hyca_calib.commands`."""

from typing import Annotated

import typer

from hyca_calib.cli import (
    benching,
    calibrating,
    checking,
    describing,
    doctor,
    elsewhere,
    plans,
    publishing,
    searching,
    tracing,
)
from hyca_calib.records.console import log_json, quiet_others

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Make a diffusion transformer several times cheaper: [b]calibrate[/] does everything. Step by step: record it "
    "([b]trace[/]), search a plan under a budget ([b]search[/]), measure it ([b]evaluate[/]). Start with [b]demo[/].",
)
for function in (
    calibrating.demo,
    calibrating.calibrate,
    searching.search,
    plans.evaluate,
    checking.check,
    plans.report,
    plans.merge,
    plans.upgrade,
    plans.export,
    publishing.push,
    publishing.find,
    tracing.trace,
    tracing.verify,
    tracing.gather,
    describing.info,
    doctor.doctor,
    benching.bench,
    benching.solvers,
):
    app.command()(function)
for function in (elsewhere.models, elsewhere.reproduce):
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(function)


@app.callback()
def common(
    as_json: Annotated[
        bool, typer.Option("--log-json", help="Progress, news and errors as lines of JSON on standard error.")
    ] = False,
) -> None:
    """Options of all commands."""
    quiet_others()
    if as_json:
        log_json()


def main() -> None:
    """Entry point of ``hyca``."""
    app()
