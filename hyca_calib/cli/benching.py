"""Measurements: bench, solvers."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from hyca_calib.cli.command import command
from hyca_calib.commands.bench_options import BenchOptions
from hyca_calib.records.console import say


@command
def bench(
    what: Annotated[
        Literal["plans", "presets", "lanes", "coverage", "precision", "runtime"],
        typer.Argument(
            help="plans: pictures, FLOPs and time against rivals. presets: every published recipe of search at every "
            "budget, beside searched plans. lanes: several devices for one sample, with plans "
            "and without. coverage: whether bounds for new samples hold. precision: what steps with quantised weights "
            "take. runtime: what the runtime itself costs."
        ),
    ] = "plans",
    *,
    options: BenchOptions,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Measure a random tenth of the rows in --out again, each in a new process."),
    ] = False,
    publish: Annotated[
        bool, typer.Option("--publish", help="Write the figures of studies/bench into README.md and docs/, and stop.")
    ] = False,
) -> None:
    """Compare plans with better samplers, other caches and planners, in one run; or presets; or time the runtime.

    Every rival is swept until its best settings lie inside what was tried, on a network proven untouched. An
    interrupted comparison goes on where it stopped.

    Example: [b]python -m hyca_calib bench --plan studies/demo-trunk-50-5x/plan.json[/]

    Example: [b]python -m hyca_calib bench --model demo-class --budget 2x,3x,5x,8x --out studies/bench-class[/]

    Example: [b]python -m hyca_calib bench --model demo --out studies/bench/demo --verify[/]

    Example: [b]python -m hyca_calib bench presets --model demo-class --trace traces/demo-class-trunk-50.zarr[/]

    Example: [b]python -m hyca_calib bench lanes --model demo --trace traces/demo-trunk-50.zarr --lanes 4 --wall 6,10[/]

    Example: [b]python -m hyca_calib bench coverage --model demo --plan studies/bench/demo/5x.plan.json[/]

    Example: [b]python -m hyca_calib bench runtime[/]
    """
    from hyca_calib.bench.documents.blocks import publish as publish_figures
    from hyca_calib.commands import bench_presets, benching
    from hyca_calib.commands.bench_coverage import bench_coverage
    from hyca_calib.commands.bench_lanes import bench_lanes
    from hyca_calib.commands.bench_precision import bench_precision
    from hyca_calib.commands.bench_runtime import bench_runtime

    whole = {"coverage": bench_coverage, "lanes": bench_lanes, "precision": bench_precision, "runtime": bench_runtime}
    if publish:
        for path in publish_figures(Path.cwd()):
            print(path)
    elif what in whole:
        print(whole[what](options))
    elif what == "presets":
        page, failed = bench_presets.bench_presets(options)
        print(page)
        if failed:
            say(f"cells that failed: {failed}, see {page}; the same command tries them again")
            raise typer.Exit(1)
    else:
        print(benching.verify_bench(options) if verify else benching.bench_all(options))


@command
def solvers() -> None:
    """Measure every closed-form solver: order, noise, behaviour with a short history.

    Example: [b]python -m hyca_calib solvers > docs/solvers.md[/]
    """
    from hyca_calib.search.solver_table import ALL_SOLVERS, facts_of, to_markdown

    print(to_markdown([facts_of(solver) for solver in ALL_SOLVERS]), end="")
