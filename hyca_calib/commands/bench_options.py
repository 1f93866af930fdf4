"""Options of ``hyca bench``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from hyca_calib.commands.options import STUDIES, Batch, Model, Prompts, Seed, short_name


@dataclass(frozen=True)
class BenchOptions:
    """Options of ``hyca bench``; what is None depends on others."""

    plans: Annotated[list[Path] | None, typer.Option("--plan", help="plan.json to compare; repeatable.")] = None
    budgets: Annotated[
        str | None,
        typer.Option(
            "--budget",
            "--budgets",
            help="Search plans for these budgets first, in --out: 1.5x,2x,3x,5x,8x,10x. Of presets the columns, these.",
        ),
    ] = None
    points: Annotated[
        list[str] | None,
        typer.Option(
            "--point", help="Where that search looks, as for trace; repeatable. Default: trunk, trunk:residual, output."
        ),
    ] = None
    rollouts: Annotated[int | None, typer.Option(min=1, help="Of that search, for every budget. Default: 48.")] = None
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Refinement steps of that search, for every budget. Default: 96.")
    ] = None
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="14 samples of 20 steps, 2x,3x,5x, trunk only, few settings of each rival: minutes."
        ),
    ] = False
    model: Model = "demo"
    prompts: Prompts = None
    samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="As for trace; 3/7 of them are tested. Default: 112. Of presets: tested; 12. Of coverage: "
            "held out; 200.",
        ),
    ] = None
    seed: Seed = 0
    steps: Annotated[int | None, typer.Option(help="Sampler steps of the full run. Default: 50.")] = None
    only: Annotated[
        list[str] | None,
        typer.Option(help="Keep families of rivals (or networks, presets) with this in their name; repeatable."),
    ] = None
    keep_rivals: Annotated[
        bool,
        typer.Option(
            "--keep-rivals",
            help="Take the figures of other methods from the comparison that is in --out, by whatever code, once a "
            "random tenth of them was measured again to the same. What new plans face beyond them is measured.",
        ),
    ] = False
    again: Annotated[
        list[str] | None,
        typer.Option(
            help="With --keep-rivals: families with this in their name are not kept, since their code was changed; "
            "repeatable."
        ),
    ] = None
    trace: Annotated[
        str | None,
        typer.Option(
            help="Of presets: what plans are made on; few --tokens do. Default: traced in --out, as trace does."
        ),
    ] = None
    minutes: Annotated[
        float, typer.Option(min=0, help="Of presets: for what learns by gradient, a router or rows, for every budget.")
    ] = 5.0
    settings: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most settings of a family. Default: until the best at every cost lie inside. Of lanes: candidates "
            "of a search for each number of them; 300.",
        ),
    ] = None
    lanes: Annotated[
        str | None, typer.Option(help="Of lanes: devices; several are compared. Published: 4, 6, 8. Default: 4.")
    ] = None
    walls: Annotated[
        str | None,
        typer.Option(
            "--wall", help="Of lanes: computed passes that lanes and plans are searched for together. Default: 6,10,16."
        ),
    ] = None
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of what is written. Default: studies/bench; studies/bench-MODEL if it searches, or of presets."
        ),
    ] = None
    batch: Batch = None

    @property
    def searched(self) -> str | None:
        """The budgets that plans are searched for."""
        return self.budgets or ("2x,3x,5x" if self.quick else None)

    @property
    def folder(self) -> Path:
        """Where everything goes; a search of its own stays out of the published results."""
        return self.out or STUDIES / (f"bench-{short_name(self.model)}" if self.searched else "bench")
