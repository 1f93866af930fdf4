"""Plans for others: push, find."""

import json
from pathlib import Path
from typing import Annotated

import typer

from hyca_calib.cli.command import command
from hyca_calib.commands.options import Download, Json, Model


@command
def push(
    plan: Annotated[Path, typer.Argument(help="A plan file, or its study.")],
    repo: Annotated[str, typer.Argument(help="user/name of a repository on the Hub; made where there is none.")],
    name: Annotated[
        str | None, typer.Option(help="Folder of the plan there, for repositories with several. Default: none.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Write it all there instead, as it would lie in the repository.")
    ] = None,
) -> None:
    """Put a plan on the Hub: the file, a line of the index plans.json, a card, pictures of its study's report.

    Example: [b]python -m hyca_calib push studies/demo-trunk-50-5x user/plans --folder plans[/]
    """
    from hyca_calib.commands.publishing import push_plan

    print(push_plan(plan, repo, name, folder))


@command
def find(
    model: Model = "demo",
    steps: Annotated[int | None, typer.Option(min=1, help="Sampler steps. Default: any.")] = None,
    index: Annotated[
        list[str] | None, typer.Option(help="plans.json, its folder, or hf://user/name. Default: this folder.")
    ] = None,
    download: Download = False,
    as_json: Json = False,
) -> None:
    """Find plans that are for a model, in indices that [b]push[/] writes.

    Example: [b]python -m hyca_calib find --model demo --steps 50 --index plans[/]
    """
    from hyca_calib.commands.publishing import find_plans

    found = find_plans(model, steps, index or ["."], download)
    if as_json:
        print(json.dumps([{"address": one.address, **one.plan.model_dump()} for one in found], indent=1))
    else:
        print("\n".join(map(str, found)) or f"no plan for {model}" + (f" with {steps} steps" if steps else ""))
