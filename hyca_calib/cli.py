"""The command line: ``python -m hyca_calib``, or ``hyca``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hyca_calib.console import log_json, one_line_errors, say

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Make a diffusion transformer several times cheaper: record it ([b]trace[/]), search a plan under a "
    "budget ([b]search[/]), measure it ([b]evaluate[/]). Start with [b]demo[/].",
)

Model = Annotated[
    str,
    typer.Option(
        help="demo, demo-class, a diffusers id or folder, or package.module:factory, which returns a pipeline."
    ),
]
Prompts = Annotated[
    Path | None,
    typer.Option(help="Text file, one prompt a line, or .jsonl with pipeline arguments. Default: the demo's own."),
]
Seed = Annotated[int, typer.Option(help="Source of all randomness.")]
Batch = Annotated[int | None, typer.Option(min=1, help="Samples per pipeline call. Default: 8 for the demos, else 1.")]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, cuda:N; balanced over GPUs; offload, sequential: moved in as needed. Default: GPU."),
]
STUDIES = Path("studies")


@app.callback()
def common(
    as_json: Annotated[
        bool, typer.Option("--log-json", help="Progress, news and errors as lines of JSON on standard error.")
    ] = False,
) -> None:
    """Options of all commands."""
    if as_json:
        log_json()


@app.command()
def trace(
    model: Model = "demo",
    prompts: Prompts = None,
    samples: Annotated[int, typer.Option(help="Samples in all; 3/7 fit, 1/7 select, 3/7 test.")] = 112,
    seed: Seed = 0,
    steps: Annotated[int, typer.Option(help="Sampler steps of the full run.")] = 50,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens per sample stored whole; statistics use all.")] = 16,
    gram_tokens: Annotated[
        int, typer.Option(min=1, help="Of more tokens in one network call (video), statistics use a random subset.")
    ] = 8192,
    point: Annotated[
        str,
        typer.Option(
            help="trunk: input of the final norm. output: what the network returns, any architecture. "
            "blocks: every block's residual. span:FIRST..LAST, modules:PATTERN (perhaps with :residual): by path."
        ),
    ] = "trunk",
    component: Annotated[str, typer.Option(help="Which network of the pipeline; Wan 2.2 has two.")] = "transformer",
    out: Annotated[
        str | None, typer.Option(help="Zarr folder or URL (s3://...). Default: traces/MODEL-POINT-STEPS.zarr.")
    ] = None,
    batch: Batch = None,
    device: Device = None,
    share: Annotated[
        str | None,
        typer.Option(help="Trace only part K of N (3/8), as in a job array. Default: what torchrun says, else all."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a trace of that name.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Begin even if memory or disk will not do.")] = False,
) -> None:
    """Record the hidden features of a model's full runs; a second call goes on where the first was interrupted.

    Example: [b]python -m hyca_calib trace --model my_pkg.models:make_pipe --prompts prompts.txt --steps 28[/]

    Example: [b]torchrun --nproc-per-node 8 -m hyca_calib trace --model black-forest-labs/FLUX.1-dev --prompts p.txt[/]
    """
    from hyca_calib import commands

    with one_line_errors():
        options = commands.TraceOptions(
            model=model,
            prompts=prompts,
            samples=samples,
            seed=seed,
            steps=steps,
            tokens=tokens,
            gram_tokens=gram_tokens,
            point=point,
            component=component,
            out=out,
            batch=batch,
            overwrite=overwrite,
            force=force,
            share=share,
            device=device,
        )
        print(commands.trace_model(options))


@app.command()
def verify(
    trace: Annotated[str, typer.Argument(help="A trace's folder or URL.")],
    repair: Annotated[
        bool, typer.Option("--repair", help="Record damaged samples again, with the model the trace names.")
    ] = False,
) -> None:
    """Compare every file of a trace with the digest it was written with. The exit code is 1 if something is damaged.

    Example: [b]python -m hyca_calib verify traces/demo-trunk-50.zarr --repair[/]
    """
    from hyca_calib import commands

    with one_line_errors():
        damages = commands.verify_trace(trace, repair)
        print(f"{trace}: {f'{len(damages)} files damaged' if damages else 'sound'}")
        raise typer.Exit(1 if damages else 0)


@app.command()
def gather(
    parts: Annotated[list[str], typer.Argument(help="Traces of one model and workload, recorded with --share.")],
    out: Annotated[str, typer.Option(help="Folder or URL of the whole trace.")],
) -> None:
    """Put together parts of a trace that were recorded on machines without common storage.

    Example: [b]python -m hyca_calib gather part1.zarr part2.zarr --out traces/whole.zarr[/]
    """
    from hyca_calib import commands

    with one_line_errors():
        there, wanted = commands.merge_parts(parts, out)
        print(f"{out}: {there} of {wanted} samples{'' if there == wanted else ', incomplete'}")


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
    device: Device = None,
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
            device=device,
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
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure a plan on the test split: agreement with the full run, FLOPs, time, memory.

    Example: [b]python -m hyca_calib evaluate --plan studies/demo-trunk-50-5x/plan.json[/]
    """
    from hyca_calib import commands

    with one_line_errors():
        result = commands.evaluate_file(plan, model, prompts, samples, batch, steps, on_mismatch, device)
        _show(result.to_json(), as_json)


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
    as_json: Annotated[bool, typer.Option("--json", help="Print everything found as JSON.")] = False,
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
) -> None:
    """Write report.html and report.md of a study again.

    Example: [b]python -m hyca_calib report --study studies/demo-trunk-50-5x[/]
    """
    from hyca_calib import commands

    with one_line_errors():
        print(commands.report_study(study))


@app.command()
def bench(
    what: Annotated[
        Literal["plans", "runtime"],
        typer.Argument(help="plans: pictures, FLOPs and time against peers. runtime: what the runtime itself costs."),
    ] = "plans",
    plans: Annotated[list[Path] | None, typer.Option("--plan", help="plan.json to compare; repeatable.")] = None,
    model: Model = "demo",
    prompts: Prompts = None,
    samples: Annotated[int, typer.Option(help="As for trace; 3/7 of them are tested.")] = 112,
    seed: Seed = 0,
    steps: Annotated[int, typer.Option(help="Sampler steps of the full run.")] = 50,
    only: Annotated[
        list[str] | None, typer.Option(help="Keep peers (or networks) with this in their name; repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for bench.json and bench.md.")] = STUDIES / "bench",
    batch: Batch = None,
) -> None:
    """Compare plans with diffusers' caches and with fewer steps, in one run; or time the runtime.

    Example: [b]python -m hyca_calib bench --plan studies/demo-trunk-50-5x/plan.json[/]

    Example: [b]python -m hyca_calib bench runtime[/]
    """
    from hyca_calib import commands

    with one_line_errors():
        if what == "runtime":
            print(commands.bench_runtime(only or [], out))
            return
        print(commands.bench_all(plans or [], model, prompts, samples, seed, steps, only or [], out, batch))


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


@app.command()
def info(
    path: Annotated[str, typer.Argument(help="A trace (folder or URL), a study folder, or a plan file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the same as JSON.")] = False,
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


@app.command()
def solvers() -> None:
    """Measure every closed-form solver: order, noise, behaviour with a short history.

    Example: [b]python -m hyca_calib solvers > docs/solvers.md[/]
    """
    from hyca_calib.solver_table import ALL_SOLVERS, facts_of, to_markdown

    print(to_markdown([facts_of(solver) for solver in ALL_SOLVERS]), end="")


@app.command()
def models(
    only: Annotated[list[str] | None, typer.Option(help="Keep names with this in them; repeatable.")] = None,
    compiled: Annotated[bool, typer.Option("--compiled", help="Also under torch.compile; minutes.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the table here instead of showing it.")] = None,
) -> None:
    """Try the runtime on every transformer class of the installed diffusers, tiny and with random weights.

    Example: [b]python -m hyca_calib models --only Wan[/]
    """
    from hyca_calib import commands

    with one_line_errors():
        table = commands.check_models(only or [], compiled, out)
        print(out or table)


@app.command()
def reproduce(
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="solvers, grouping, schedules, closed-loop, refinement, points, transfer or results; repeatable."
        ),
    ] = None,
    work: Annotated[Path, typer.Option(help="Traces, plans and finished parts; an interrupted run goes on.")] = STUDIES
    / "science",
    out: Annotated[Path, typer.Option(help="Folder for science.md, science.json and pictures.")] = STUDIES / "bench",
    seed: Seed = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few samples and steps, to see that everything runs.")
    ] = False,
) -> None:
    """Redo the whole study on the embedded models: every claim, with a verdict from data. Hours on two cores.

    Example: [b]python -m hyca_calib reproduce --only grouping --only schedules[/]
    """
    from hyca_calib import commands

    with one_line_errors():
        print(commands.reproduce_study(only or [], work, out, seed, quick))


@app.command()
def demo(
    budget: Annotated[str, typer.Option(help="As for search.")] = "5x",
    minutes: Annotated[float, typer.Option(min=0.1, help="For confirmation and refinement together.")] = 6.0,
    out: Annotated[Path | None, typer.Option(help="Study folder. Default: studies/demo-BUDGET.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Everything on the embedded model: trace, search, evaluate, report. Under ten minutes on two cores.

    Example: [b]python -m hyca_calib demo[/]
    """
    from hyca_calib import commands

    with one_line_errors():
        result, picture = commands.run_demo(budget, minutes, out)
        _show(result.to_json(), as_json)
        say(f"picture: {picture}")


def _show(figures: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(figures, indent=1))
        return
    for key, value in figures.items():
        if isinstance(value, float):
            print(f"{key:<16} {value:.4g}")
        elif not isinstance(value, (list, tuple)):
            print(f"{key:<16} {value}")


def main() -> None:
    """Entry point of ``hyca``."""
    app()
