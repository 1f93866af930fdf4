"""``python -m studies.streaming``, from the repository."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from hyca_calib.commands.options import SearchLimits
from hyca_calib.pipelines.defaults import prompts_of
from hyca_calib.pipelines.load import TracedModel, load_pipeline
from hyca_calib.pipelines.workload import Workload
from hyca_calib.records.atomic import write_json, write_text
from hyca_calib.records.console import one_line_errors, say
from hyca_calib.records.provenance import command_line, provenance
from hyca_calib.search.effort import EffortName
from hyca_runtime.errors import StudyError
from studies.streaming import chapters
from studies.streaming.draw import draw_study
from studies.streaming.notebook import Notebook
from studies.streaming.page import page
from studies.streaming.runs import Subject

HERE = Path(__file__).parent
CHAPTERS = ("decisions", "plans", "keys", "growth", "drift")


def main(
    model: Annotated[str, typer.Option(help="demo-stream, or package.module:factory.")] = "demo-stream",
    prompts: Annotated[Path | None, typer.Option(help="Text file, one prompt a line. Default: the demo's.")] = None,
    steps: Annotated[int, typer.Option(help="Of each chunk.")] = 50,
    traced: Annotated[int, typer.Option(help="Samples of the traces.")] = 56,
    samples: Annotated[int, typer.Option(help="Test samples that are measured.")] = 12,
    only: Annotated[str, typer.Option(help="Chapters, with commas.")] = ",".join(CHAPTERS),
    effort: Annotated[EffortName | None, typer.Option(help="Of the searches, see hyca search.")] = None,
    rollouts: Annotated[int, typer.Option(help="Of each search without an effort.")] = 24,
    iterations: Annotated[int, typer.Option(help="Of each refinement without an effort.")] = 24,
    probes: Annotated[int, typer.Option(help="Of each way to look at chunks, without an effort.")] = 32,
    out: Annotated[Path, typer.Option(help="Where results are written.")] = HERE / "results",
) -> None:
    """Measure what chunks gain: hours; a killed run goes on, and chapters that are not named stay as published.

    Example: python -m studies.streaming --only decisions,keys --samples 4
    """
    with one_line_errors():
        pipe, workload = load_pipeline(model), Workload(prompts_of(model, prompts), traced, steps)
        traced_model = TracedModel.of(pipe, model, "transformer").model_dump()
        of = {"workload": workload.describe().model_dump(), "samples": samples}
        clock = 1e6  # minutes: work is counted
        limits = SearchLimits(
            model=model, confirm=clock, refine=clock, rollouts=rollouts, iterations=iterations, probes=probes
        )
        limits = SearchLimits(model=model, effort=effort) if effort else limits
        subject = Subject(pipe, model, out / "unfinished" / workload.digest[:8], workload, samples, out)
        subject.folder.mkdir(parents=True, exist_ok=True)
        results = published(out / "results.json", json.loads(json.dumps(traced_model)))
        for name in only.split(","):
            if name not in CHAPTERS:
                raise typer.BadParameter(f"expected chapters of {', '.join(CHAPTERS)}, got {name!r}")
            more = (limits,) if name == "plans" else ()
            book = Notebook(subject.folder / f"{name}-{samples}.json", {"model": traced_model, **of})
            getattr(chapters, name)(subject, book, *more)
            made = {**provenance("cpu").model_dump(), "command": command_line()}
            results["chapters"][name] = {**made, **of, "lines": book.lines}
            write_json(out / "results.json", results)
            write_text(out / "README.md", page(results))
            draw_study(results["chapters"], out / "results.png")
            say(f"{name}: {out / 'README.md'}")


def published(path: Path, model: dict[str, Any]) -> dict[str, Any]:
    """What was published before of this model, or nothing yet.

    Raises:
        StudyError: it is of another model.
    """
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"model": model, "chapters": {}}
    if results["model"] != model:
        raise StudyError(
            f"{path} is of {results['model']['name']}, with other weights or another sampler than those of "
            f"{model['name']}; choose another --out"
        )
    return results


if __name__ == "__main__":
    typer.run(main)
