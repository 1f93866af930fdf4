"""Recording: trace, verify, gather."""

from __future__ import annotations

from typing import Annotated

import typer

from hyca_calib.cli.options import Batch, Device, Download, Model, Prompts, Seed, TracedModel
from hyca_calib.records.console import one_line_errors

__all__ = ["app"]

app = typer.Typer()


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
            help="trunk: input of the final norm. trunk:residual: what the blocks add to a live embedding. "
            "output: what the network returns, any architecture. blocks: every block's residual. "
            "span:FIRST..LAST, modules:PATTERN (perhaps with :residual): by path."
        ),
    ] = "trunk",
    component: Annotated[str, typer.Option(help="Which network of the pipeline; Wan 2.2 has two.")] = "transformer",
    out: Annotated[
        str | None, typer.Option(help="Zarr folder or URL (s3://...). Default: traces/MODEL-POINT-STEPS.zarr.")
    ] = None,
    batch: Batch = None,
    device: Device = None,
    download: Download = False,
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
            download=download,
        )
        print(commands.trace_model(options))


@app.command()
def verify(
    trace: Annotated[str, typer.Argument(help="A trace's folder or URL.")],
    repair: Annotated[
        bool, typer.Option("--repair", help="Record damaged samples again, with the traced model.")
    ] = False,
    model: TracedModel = None,
    download: Download = False,
) -> None:
    """Compare every file of a trace with the digest it was written with. The exit code is 1 if something is damaged.

    Example: [b]python -m hyca_calib verify traces/demo-trunk-50.zarr --repair[/]
    """
    from hyca_calib import commands

    with one_line_errors():
        damages = commands.verify_trace(trace, repair, model, download)
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
