"""``python -m studies.paper``, from the repository."""

from pathlib import Path
from typing import Annotated

import typer

from hyca_calib.commands.options import Seed
from hyca_calib.records.console import one_line_errors, stages
from studies.paper.page import render
from studies.paper.study import Study

HERE = Path(__file__).parent
QUICK = {"samples": 14, "steps": 12}


def main(
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="solvers, grouping, schedules, closed-loop, refinement, points or transfer, or of one model: "
            "demo-class/grouping; repeatable. Chapters made elsewhere stay on the page."
        ),
    ] = None,
    work: Annotated[Path, typer.Option(help="Traces, plans and finished parts; an interrupted run goes on.")] = HERE
    / "unfinished",
    out: Annotated[Path, typer.Option(help="Folder for README.md, numbers.json and figures.")] = HERE / "results",
    seed: Seed = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few samples and steps, to see that everything runs.")
    ] = False,
    render_only: Annotated[
        bool, typer.Option("--render", help="Sample nothing: verdicts and page again, from --out's numbers.json.")
    ] = False,
) -> None:
    """Redo the whole study on the embedded models: every claim, with a verdict from data. Hours on two cores.

    Example: python -m studies.paper --only grouping --only schedules
    """
    with one_line_errors():
        if render_only:
            print(render(out))
            return
        study = Study(work, out, seed, **(QUICK if quick else {}), quick=quick)
        with stages() as tell:
            print(study.make(only or [], tell))


if __name__ == "__main__":
    typer.run(main)
