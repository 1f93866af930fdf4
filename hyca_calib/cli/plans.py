"""Plans: the demo, search, evaluate, check, report, merge."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from hyca_calib.cli.options import Batch, Device, Download, Json, Model, Prompts, Seed, TracedModel, show
from hyca_calib.records.console import one_line_errors, say

__all__ = ["app"]

app = typer.Typer()


@app.command()
def demo(
    budget: Annotated[str, typer.Option(help="As for search.")] = "5x",
    minutes: Annotated[float, typer.Option(min=0.1, help="For confirmation and refinement together.")] = 6.0,
    out: Annotated[Path | None, typer.Option(help="Study folder. Default: studies/demo-BUDGET.")] = None,
    record: Annotated[
        Path | None, typer.Option(help="Also write what it took and reached here; documents use such a file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Everything on the embedded model: trace, search, evaluate, report. A few minutes beyond --minutes.

    Example: [b]python -m hyca_calib demo[/]
    """
    from hyca_calib import commands

    with one_line_errors():
        result, picture = commands.run_demo(budget, minutes, out, record)
        show(asdict(result), as_json)
        say(f"picture: {picture}")


@app.command()
def search(
    budget: Annotated[str, typer.Option(help="5x, 20% or '10 steps'; several with commas: 2x,3x,5x.")],
    trace: Annotated[
        list[str] | None,
        typer.Option(
            help="A trace; several of one model at different points let rollouts decide. Default: the newest."
        ),
    ] = None,
    preset: Annotated[
        str,
        typer.Option(help="best searches; hyca, foca, taylorseer, hicache, hold are published recipes."),
    ] = "best",
    multistep: Annotated[
        Literal["anchored", "recursive"],
        typer.Option(help="How a preset's one-step formulas serve a long gap: over the gap, or step by step."),
    ] = "anchored",
    trials: Annotated[int, typer.Option(min=1, help="Settings that Optuna tries, for all budgets together.")] = 40,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds after which no trial starts.")] = 45.0,
    confirm: Annotated[float, typer.Option(min=0, help="Minutes of real rollouts; 0 trusts the statistics.")] = 1.0,
    probes: Annotated[
        int, typer.Option(min=0, help="Full runs of one sample that measure how errors heal; 0 for none.")
    ] = 32,
    rollouts: Annotated[
        int | None, typer.Option(min=1, help="At most so many: with a long --confirm the same on every machine.")
    ] = None,
    refine: Annotated[float, typer.Option(min=0, help="Minutes of end-to-end refinement of the taps.")] = 5.0,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="At most so many: with a long --refine the same on every machine.")
    ] = None,
    groups: Annotated[int | None, typer.Option(min=1, help="Fix the number of groups.")] = None,
    taps: Annotated[
        Literal["channel", "group"], typer.Option(help="Grain of refined taps: a row per channel or per group.")
    ] = "channel",
    seed: Seed = 0,
    storage: Annotated[
        str | None,
        typer.Option(help="Where workers share trials: postgresql://..., grpc://host:port. Default: a file in --out."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="How many processes make this search at once.")] = 1,
    model: TracedModel = None,
    device: Device = None,
    download: Download = False,
    out: Annotated[Path | None, typer.Option(help="Study folder. Default: studies/TRACE-BUDGET.")] = None,
) -> None:
    """Find the best plan within a budget; a second call goes on where the first was interrupted.

    Several processes that give the same command with --workers share the work, on one machine or on many that see
    --out; the trials of one that dies are done by the others.

    Example: [b]python -m hyca_calib search --budget 5x[/]
    """
    from hyca_calib import commands

    with one_line_errors():
        limits = commands.Limits(
            trials=trials,
            timeout=timeout,
            confirm=confirm,
            refine=refine,
            groups=groups,
            taps=taps,
            seed=seed,
            preset=preset,
            multistep=multistep,
            probes=probes,
            rollouts=rollouts,
            iterations=iterations,
            storage=storage,
            workers=workers,
            model=model,
            device=device,
            download=download,
        )
        for plan in commands.search_plans(budget, trace or [], limits, out):
            print(plan)


@app.command()
def evaluate(
    plan: Annotated[Path, typer.Option(help="plan.json of a study.")],
    model: Model = "demo",
    prompts: Prompts = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Test samples. Default: all, 48 for demo.")] = None,
    batch: Batch = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampler steps. Default: those of the plan.")] = None,
    on_mismatch: Annotated[
        Literal["compute", "adapt", "error"], typer.Option(help="What other steps than the plan's do.")
    ] = "error",
    device: Device = None,
    download: Download = False,
    as_json: Json = False,
) -> None:
    """Measure a plan on the test split: agreement with the full run, FLOPs, time, memory.

    Example: [b]python -m hyca_calib evaluate --plan studies/demo-trunk-50-5x/plan.json[/]
    """
    from hyca_calib import commands

    with one_line_errors():
        result = commands.evaluate_file(plan, model, prompts, samples, batch, steps, on_mismatch, device, download)
        show(asdict(result), as_json)


@app.command()
def check(
    plan: Annotated[Path, typer.Option(help="plan.json of a study.")],
    trace: Annotated[str, typer.Option(help="A trace of the runs it is to be used for; 14 samples do.")],
    own_trace: Annotated[
        str | None, typer.Option(help="The trace it was made on. Default: where the plan says it was.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Confirm by rollouts of this model, as for trace; they decide the verdict.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Test samples that are rolled out.")] = 8,
    batch: Batch = None,
    as_json: Json = False,
) -> None:
    """Tell from a trace whether a plan holds on it: other steps, prompts, guidance, resolution or weights.

    [b]holds[/]: making it again gains nothing to speak of. [b]refit[/]: its schedule may stay, its taps must be made
    again. [b]redo[/]: search again. [b]other model[/]: the runtime would refuse it. The exit code is 0 for holds, 1 for
    the others, 2 for bad input.

    Example: [b]python -m hyca_calib check --plan studies/demo-5x/plan.json --trace traces/demo-trunk-28.zarr[/]
    """
    from hyca_calib import commands

    with one_line_errors():
        result = commands.check_file(plan, trace, own_trace, model, samples, batch)
        if as_json:
            print(json.dumps(result.to_json(), indent=1, allow_nan=False))
        else:
            commands.show_check(result)
        raise typer.Exit(0 if result.verdict == "holds" else 1)


@app.command()
def report(
    study: Annotated[Path, typer.Option(help="A complete study folder.")],
    trace: Annotated[str | None, typer.Option(help="Its trace. Default: where the plan says it was.")] = None,
    model: TracedModel = None,
) -> None:
    """Write report.html and report.md of a study again.

    Example: [b]python -m hyca_calib report --study studies/demo-trunk-50-5x[/]
    """
    from hyca_calib import commands

    with one_line_errors():
        print(commands.report_study(study, trace, model))


@app.command()
def merge(
    plans: Annotated[list[Path], typer.Argument(help="Plans for other networks or step counts of one pipeline.")],
    out: Annotated[Path, typer.Option(help="The plan with the sections of all.")],
) -> None:
    """Put plans together: the two networks of Wan 2.2, or several step counts.

    Example: [b]python -m hyca_calib merge studies/wan-5x/plan.json studies/wan-t2-5x/plan.json --out wan.json[/]
    """
    from hyca_calib import commands

    with one_line_errors():
        print(commands.merge_files(plans, out))
