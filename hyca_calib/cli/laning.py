"""Several devices for one sample: lanes."""

import typer

from hyca_calib.cli.command import command
from hyca_calib.commands.lane_options import LanesOptions
from hyca_calib.commands.options import Json


@command
def lanes(options: LanesOptions, as_json: Json = False) -> None:
    """Measure lanes of one sample (CHORDS): quality against passes and calls of the network, with a plan and without.

    Lanes run one after another here, so that any machine can tell what several devices would draw. Starts are searched
    on other samples than are measured.

    Example: [b]python -m hyca_calib lanes --model demo --plan studies/bench/demo/5x.plan.json --lanes 4[/]
    """
    from hyca_calib.commands.laning import lanes_page, measure_lanes, write_lanes

    table = measure_lanes(options)
    if options.out is not None:
        write_lanes(table, options.out)
    typer.echo(table.model_dump_json(indent=1) if as_json else lanes_page(table))
