"""Whether a plan holds elsewhere: check."""

import typer

from hyca_calib.cli.command import command, show
from hyca_calib.commands.options import CheckOptions, Json


@command
def check(options: CheckOptions, as_json: Json = False) -> None:
    """Tell from a trace whether a plan holds on it: other steps, prompts, guidance, resolution or weights.

    [b]holds[/]: making it again gains nothing to speak of. [b]refit[/]: its schedule may stay, its taps must be made
    again. [b]redo[/]: search again. [b]other model[/]: the runtime would refuse it. The exit code is 0 for holds, 1 for
    the others, 2 for bad input.

    Example: [b]python -m hyca_calib check --plan studies/demo-5x/plan.json --trace traces/demo-trunk-28.zarr[/]
    """
    from hyca_calib.commands.checking import check_file, show_check

    result = check_file(options)
    if as_json:
        show(result.model_dump(), as_json)
    else:
        show_check(result)
    raise typer.Exit(0 if result.verdict == "holds" else 1)
