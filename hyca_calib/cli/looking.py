"""What is there: info, doctor."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from hyca_calib.cli.options import Json
from hyca_calib.records.console import one_line_errors

__all__ = ["app"]

app = typer.Typer()


@app.command()
def info(
    path: Annotated[str, typer.Argument(help="A trace (folder or URL), a study folder, or a plan file.")],
    as_json: Json = False,
) -> None:
    """Say in one screen what a trace, a study or a plan is, how far it is, and where it comes from.

    Example: [b]python -m hyca_calib info studies/demo-5x[/]
    """
    from hyca_calib import commands

    with one_line_errors():
        facts = commands.describe(path)
        if as_json:
            print(json.dumps(facts, indent=1))
            return
        width = max(map(len, facts))
        for name, told in facts.items():
            print(f"{name:<{width}}  {told}")


@app.command()
def doctor() -> None:
    """Examine the installation: packages, device, embedded model, runtime, storage. The exit code is 1 if one is ill.

    Example: [b]python -m hyca_calib doctor[/]
    """
    from hyca_calib import commands

    findings = commands.examine()
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        print(f"{'ok  ' if finding.sound else 'BAD '} {finding.what:<{width}}  {finding.told}")
    raise typer.Exit(0 if all(finding.sound for finding in findings) else 1)
