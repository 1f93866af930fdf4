"""Measurements: bench, solvers, models, reproduce."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hyca_calib.cli.options import STUDIES, Batch, Model, Prompts, Seed
from hyca_calib.records.console import one_line_errors
from hyca_runtime.errors import StudyError

__all__ = ["app"]

app = typer.Typer()


@app.command()
def bench(
    what: Annotated[
        Literal["plans", "runtime"],
        typer.Argument(help="plans: pictures, FLOPs and time against rivals. runtime: what the runtime itself costs."),
    ] = "plans",
    plans: Annotated[list[Path] | None, typer.Option("--plan", help="plan.json to compare; repeatable.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Search plans for these budgets first, in --out: 1.5x,2x,3x,5x,8x,10x.")
    ] = None,
    point: Annotated[
        list[str] | None,
        typer.Option(help="Where that search looks, as for trace; repeatable. Default: trunk and trunk:residual."),
    ] = None,
    rollouts: Annotated[int | None, typer.Option(min=1, help="Of that search, for every budget. Default: 48.")] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Refinement steps of that search, for every budget. Default: 48.")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="14 samples of 20 steps, 2x,3x,5x, trunk only, few settings of each rival: minutes."
        ),
    ] = False,
    model: Model = "demo",
    prompts: Prompts = None,
    samples: Annotated[int | None, typer.Option(help="As for trace; 3/7 of them are tested. Default: 112.")] = None,
    seed: Seed = 0,
    steps: Annotated[int | None, typer.Option(help="Sampler steps of the full run. Default: 50.")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Keep families of rivals (or networks) with this in their name; repeatable."),
    ] = None,
    settings: Annotated[
        int | None,
        typer.Option(min=1, help="Most settings of a family. Default: until the best at every cost lie inside."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of what is written. Default: studies/bench; studies/bench-MODEL if it searches."),
    ] = None,
    batch: Batch = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Measure a random tenth of the rows in --out again, each in a new process."),
    ] = False,
    publish: Annotated[
        bool, typer.Option("--publish", help="Write the figures of studies/bench into README.md and docs/, and stop.")
    ] = False,
) -> None:
    """Compare plans with better samplers, other caches and planners, in one run; or time the runtime.

    Every rival is swept until its best settings lie inside what was tried, on a network proven untouched. An
    interrupted comparison goes on where it stopped.

    Example: [b]python -m hyca_calib bench --plan studies/demo-trunk-50-5x/plan.json[/]

    Example: [b]python -m hyca_calib bench --model demo-class --budget 2x,3x,5x,8x --out studies/bench-class[/]

    Example: [b]python -m hyca_calib bench --model demo --out studies/bench/demo --verify[/]

    Example: [b]python -m hyca_calib bench runtime[/]
    """
    from hyca_calib import commands

    with one_line_errors():
        if what == "runtime":
            print(commands.bench_runtime(only or [], out or STUDIES / "bench"))
            return
        if publish:
            for path in commands.publish_figures(Path.cwd()):
                print(path)
            return
        options = commands.BenchOptions(
            plans=plans or (),
            budgets=budget or ("2x,3x,5x" if quick else None),
            points=point or (),
            rollouts=rollouts,
            iterations=iterations,
            model=model,
            prompts=prompts,
            samples=samples or (14 if quick else 112),
            seed=seed,
            steps=steps or (20 if quick else 50),
            only=only or (),
            settings=settings,
            out=out,
            batch=batch,
            quick=quick,
        )
        if verify:
            print(commands.verify_bench(options))
            return
        print(commands.bench_all(options))


@app.command()
def solvers() -> None:
    """Measure every closed-form solver: order, noise, behaviour with a short history.

    Example: [b]python -m hyca_calib solvers > docs/solvers.md[/]
    """
    from hyca_calib.search.solver_table import ALL_SOLVERS, facts_of, to_markdown

    print(to_markdown([facts_of(solver) for solver in ALL_SOLVERS]), end="")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def models() -> None:
    """Says where every transformer class of diffusers is tried: in the repository, not in an installation.

    Example: [b]python -m hyca_calib models[/]
    """
    with one_line_errors():
        raise StudyError("no part of an installation; in a clone of the repository: python -m studies.zoo")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def reproduce() -> None:
    """Says where the study of the claims is: in the repository, not in an installation.

    Example: [b]python -m hyca_calib reproduce[/]
    """
    with one_line_errors():
        raise StudyError("no part of an installation; in a clone of the repository: python -m studies.paper")
