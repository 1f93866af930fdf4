"""What is done with plans: evaluate, report, merge, upgrade, export."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hyca_calib.cli.command import command, show
from hyca_calib.commands.options import EvaluateOptions, Json, TracedModel
from hyca_calib.search.options import Naming, Reader


@command
def evaluate(options: EvaluateOptions, as_json: Json = False) -> None:
    """Measure a plan on the test split: agreement with the full run, FLOPs, time, memory.

    Example: [b]python -m hyca_calib evaluate --plan studies/demo-trunk-50-5x/plan.json[/]

    Example: [b]python -m hyca_calib evaluate --plan plan.json --model black-forest-labs/FLUX.1-dev --prompts a.txt[/]
    """
    from hyca_calib.commands.plans import evaluate_file

    show(asdict(evaluate_file(options)), as_json)


@command
def report(
    study: Annotated[Path, typer.Option(help="A complete study folder.")],
    trace: Annotated[str | None, typer.Option(help="Its trace. Default: where the plan says it was.")] = None,
    model: TracedModel = None,
) -> None:
    """Write report.html and report.md of a study again.

    Example: [b]python -m hyca_calib report --study studies/demo-trunk-50-5x[/]
    """
    from hyca_calib.commands.plans import report_study

    print(report_study(study, trace, model))


@command
def merge(
    plans: Annotated[list[Path], typer.Argument(help="Plans for other networks or step counts of one pipeline.")],
    out: Annotated[Path, typer.Option(help="The plan with the sections of all.")],
) -> None:
    """Put plans together: the two networks of Wan 2.2, or several step counts.

    Example: [b]python -m hyca_calib merge studies/wan-5x/plan.json studies/wan-t2-5x/plan.json --out wan.json[/]
    """
    from hyca_calib.commands.plans import merge_files

    print(merge_files(plans, out))


@command
def export(
    plan: Annotated[Path, typer.Argument(help="A plan, or its study.")],
    out: Annotated[Path, typer.Option(help="The file.")],
    to: Annotated[
        Reader,
        typer.Option(
            help="Who reads it: SmoothCache's release, plans whose layers repeat their output; cache-dit, the steps of "
            "plans that compute whole steps; SGLang, the same as parameters of a request."
        ),
    ] = "smoothcache",
    names: Annotated[
        Naming,
        typer.Option(
            help="What layers are called for smoothcache: attn1 and ff, or attn and mlp as in the repository of DiT."
        ),
    ] = "diffusers",
) -> None:
    """Write a plan's schedule as others read it. How features are forecast stays behind.

    Example: [b]python -m hyca_calib export studies/demo-class-trunk-50-2x-smoothcache --out schedule.json[/]

    Example: [b]python -m hyca_calib export studies/demo-trunk-50-5x --to cache-dit --out cache.yaml[/]

    Example: [b]python -m hyca_calib export studies/demo-trunk-50-5x --to sglang --out request.json[/]
    """
    from hyca_calib.commands.plans import export_options, export_schedule

    print(export_schedule(plan, out, names) if to == "smoothcache" else export_options(plan, out, to))


@command
def upgrade(
    plan: Annotated[Path, typer.Argument(help="A plan of an older version.")],
    out: Annotated[Path | None, typer.Option(help="Where it is written. Default: in its place.")] = None,
) -> None:
    """Write a plan in today's version of the file; what it does stays.

    Example: [b]python -m hyca_calib upgrade studies/demo-trunk-50-5x/plan.json[/]
    """
    from hyca_calib.commands.plans import upgrade_file

    print(upgrade_file(plan, out))
