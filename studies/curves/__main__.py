"""``python -m studies.curves``, from the repository."""

from pathlib import Path
from typing import Annotated

import typer

from hyca_calib.commands.options import short_name
from hyca_calib.costs.budget import TOLERANCE, Budget
from hyca_calib.quality.metrics import prompt_groups
from hyca_calib.records.atomic import write_text
from hyca_calib.records.console import one_line_errors, say
from hyca_calib.records.provenance import command_line, provenance
from hyca_calib.search.options import Refinement
from hyca_calib.trace.store import Trace
from hyca_runtime.point import parse_point
from studies.curves.draw import draw_curves
from studies.curves.measure import Subject
from studies.curves.points import Curves, read_curves, verdict

HERE = Path(__file__).parent


def main(
    trace: Annotated[Path, typer.Option(help="A trace of the model.")],
    model: Annotated[str, typer.Option(help="The model that was traced.")] = "demo-class",
    budget: Annotated[str, typer.Option(help="Of the plan.")] = "5x",
    point: Annotated[str, typer.Option(help="Where it caches, one of those traced.")] = "trunk",
    iterations: Annotated[str, typer.Option(help="Of refinement.")] = "0,20,80,320,1280",
    prompts: Annotated[
        str, typer.Option(help="Samples to refine on; those that the trace has not are drawn with fresh noise.")
    ] = "12,48,192",
    rollouts: Annotated[int, typer.Option(help="That choose the schedule.")] = 24,
    out: Annotated[Path, typer.Option(help="Where the curves are written.")] = HERE / "results",
) -> None:
    """Refine one plan for more and more iterations on more and more prompts: hours; a killed run goes on.

    Example: python -m studies.curves --model demo-class --trace traces/demo-class-trunk-50.zarr --iterations 0,20,80
    """
    with one_line_errors():
        recorded, wanted = Trace(trace, parse_point(point)), Budget.parse(budget, TOLERANCE)
        name = f"{model}-{budget}" if point == "trunk" else f"{model}-{budget}-{short_name(point)}"
        subject = Subject.searched(recorded, model, wanted, rollouts, out / "unfinished" / name)
        jobs, path = recorded.workload().of("test"), out / f"{name}.json"
        known = read_curves(path) if path.exists() else None
        curves = Curves(
            **provenance("cpu").model_dump(),
            command=command_line(),
            model=model,
            budget=budget,
            point=point,
            flops_ratio=subject.section.flops_ratio or 1.0,
            computed_steps=tuple(subject.section.schedule.computed_steps),
            groups=prompt_groups(jobs),
            batch=Refinement.batch,
            points=known.points if known else (),
        )
        if known and (known.computed_steps, known.groups) != (curves.computed_steps, curves.groups):
            raise typer.BadParameter(f"{path} is of another plan or of other samples; move it away")
        for count in map(int, iterations.split(",")):
            for of in map(int, prompts.split(",")):
                if curves.at(of, count) is None:
                    found = subject.point(of, count)
                    curves = curves.model_copy(update={"points": (*curves.points, found)})
                    write_text(path, curves.model_dump_json(indent=1) + "\n")
                    draw_curves(curves, path.with_suffix(".png"))
                    means = (sum(db) / len(db) for db in (found.fit_db, found.select_db, found.test_db))
                    say(
                        "{} prompts, {} iterations: fit {:.2f}, select {:.2f}, test {:.2f} dB".format(of, count, *means)
                    )
        say(verdict(curves))


if __name__ == "__main__":
    typer.run(main)
