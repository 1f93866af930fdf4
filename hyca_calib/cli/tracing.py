"""Recording: trace, verify, gather."""

from typing import Annotated

import typer

from hyca_calib.cli.command import command
from hyca_calib.commands.options import Download, TracedModel, TraceOptions


@command
def trace(options: TraceOptions) -> None:
    """Record the hidden features of a model's full runs; a second call goes on where the first was interrupted.

    Example: [b]python -m hyca_calib trace --model my_pkg.models:make_pipe --prompts prompts.txt --steps 28[/]

    Example: [b]torchrun --nproc-per-node 8 -m hyca_calib trace --model black-forest-labs/FLUX.1-dev --prompts p.txt[/]
    """
    from hyca_calib.commands.tracing import trace_model

    print(trace_model(options))


@command
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
    from hyca_calib.commands.tracing import verify_trace

    damages = verify_trace(trace, repair, model, download)
    print(f"{trace}: {f'{len(damages)} files damaged' if damages else 'sound'}")
    raise typer.Exit(1 if damages else 0)


@command
def gather(
    parts: Annotated[list[str], typer.Argument(help="Traces of one model and workload, recorded with --share.")],
    out: Annotated[str, typer.Option(help="Folder or URL of the whole trace.")],
) -> None:
    """Put together parts of a trace that were recorded on machines without common storage.

    Example: [b]python -m hyca_calib gather part1.zarr part2.zarr --out traces/whole.zarr[/]
    """
    from hyca_calib.commands.tracing import gather_parts

    there, wanted = gather_parts(parts, out)
    print(f"{out}: {there} of {wanted} samples{'' if there == wanted else ', incomplete'}")
