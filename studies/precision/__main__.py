"""``python -m studies.precision``, from the repository."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from hyca_calib.commands.options import SearchLimits
from hyca_calib.demo import demo_pipeline
from hyca_calib.pipelines.rollout import followed
from hyca_calib.quality.evaluate import Fidelity, run_untimed
from hyca_calib.quality.metrics import interval, prompt_groups
from hyca_calib.records.atomic import write_json, write_text
from hyca_calib.records.console import one_line_errors, say
from hyca_calib.records.provenance import command_line, provenance
from hyca_calib.search.cachequant.site import measure_site
from hyca_calib.search.precision.variants import parse_variants
from hyca_calib.search.problem import Problem
from hyca_calib.trace.store import Trace
from hyca_runtime.errors import BudgetError
from studies.precision.ways import ALONE, CACHE, CORRECTED, JOINT, NAIVE, NAIVE_IN_TURN, Ways

BATCH = 4
RATIOS = "2,4,8,12"
RESULTS = Path(__file__).parent / "results"


def main(
    model: Annotated[str, typer.Option(help="An embedded model.")] = "demo",
    trace: Annotated[str, typer.Option(help="Its trace at the trunk.")] = "traces/demo-trunk-50.zarr",
    samples: Annotated[int, typer.Option(min=2, help="Of the test split.")] = 24,
    ratios: Annotated[str, typer.Option(help="Of bit operations saved.")] = RATIOS,
    rollouts: Annotated[int, typer.Option(min=1, help="Of each search.")] = 24,
    iterations: Annotated[int, typer.Option(min=1, help="Of each refinement.")] = 24,
    out: Annotated[Path | None, typer.Option(help="Folder; what is there already is not made again.")] = None,
    publish: Annotated[bool, typer.Option("--publish", help="Keep the figures in studies/precision/results.")] = False,
) -> None:
    """Compare caching and quantising at equal bit operations: hours, and fewer the second time."""
    folder = out or Path("runs") / f"precision-{model}"
    limits = SearchLimits(
        model=model,
        rollouts=rollouts,
        confirm=1e4,
        timeout=1e4,
        trials=8,
        refine=1e4,
        iterations=iterations,
        strict=True,
    )
    with one_line_errors():
        problem = Problem(Trace(trace))
        pipe = demo_pipeline(model)
        pipe.set_progress_bar_config(disable=True)
        ways = Ways(problem, trace, limits, folder, measure_site(pipe, problem, parse_variants("int8")))
        rows = _measured(pipe, ways, [float(text) for text in ratios.split(",")], samples)
        facts = {**provenance("cpu").model_dump(mode="json"), "command": command_line(), "model": model}
        facts["workload"] = problem.workload.describe().model_dump()
        results = {**facts, "samples": samples, "rows": rows}
        write_json(folder / "results.json", results)
        write_text(folder / "README.md", page([results]))
        if publish:
            write_json(RESULTS / f"{model}.json", results)
            write_text(RESULTS / "README.md", page(published()))
    say(f"{(RESULTS if publish else folder) / 'README.md'}")


def published() -> list[dict[str, Any]]:
    """What was measured and kept, of one model after the other."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]


def _measured(pipe: Any, ways: Ways, ratios: list[float], samples: int) -> list[dict[str, Any]]:
    """A row for each way and ratio; each is kept as soon as it is there."""
    workload, found = ways.problem.workload, list[dict[str, Any]]()
    jobs = workload.of("test")[:samples]
    full = run_untimed(pipe, jobs, workload.num_steps, BATCH, nullcontext)
    wanted = [(way, ratio) for ratio in ratios for way in (CACHE, NAIVE, NAIVE_IN_TURN, CORRECTED, JOINT)]
    for way, ratio in [*((way, 0.0) for way in ALONE), *wanted]:
        file = ways.folder / "rows" / f"{way.replace(', ', '-').replace(' ', '-')}-{ratio:g}-{samples}.json"
        if not file.exists():
            write_json(file, _row(pipe, ways, way, ratio, jobs, full))
        found.append(json.loads(file.read_text()))
    return found


def _row(pipe: Any, ways: Ways, way: str, ratio: float, jobs: Any, full: Any) -> dict[str, Any]:
    told: dict[str, Any] = {"way": way, "asked": ratio}
    try:
        plan = ways.plan(way, ratio)
    except BudgetError as error:
        return {**told, "reason": str(error)}
    if plan is None:
        return {**told, "reason": "int8 alone saves more"}
    run = run_untimed(pipe, jobs, ways.problem.workload.num_steps, BATCH, lambda: followed(pipe, plan))
    agreement = list(Fidelity.of(run, full).agreement_db_each)
    bits = plan.section.bits_ratio or plan.section.flops_ratio
    return {
        **told,
        "bits_ratio": bits,
        "agreement_db": agreement,
        "interval": interval(agreement, 0, prompt_groups(jobs)),
    }


def page(measured: list[dict[str, Any]]) -> str:
    """The tables, and where their figures come from."""
    head = (
        "# Caching and quantising at equal bit operations, measured\n\nAgreement with the full run, means with 95 % "
        "intervals over prompts; bit operations of a full run over those spent."
    )
    return "\n\n".join([head, *(section(results).rstrip() for results in measured)]) + "\n"


def section(results: dict[str, Any]) -> str:
    """Of one model."""
    return (
        f"## `{results['model']}`\n\nAt most {results['samples']} test samples, a trace of "
        f"{results['workload']['num_samples']} in all, {results['device']} ({results['processor']}), threads: "
        f"{results['threads']}, torch {results['versions']['torch']}, {results['date']}, commit {results['commit']}."
        f"\n\n```\n{results['command']}\n```\n\n{table(results['rows'])}"
    )


def table(rows: list[dict[str, Any]]) -> str:
    """Agreement with the full run in dB, with 95 % intervals, and the bit operations really saved."""
    lines = ["| asked | way | bit operations | agreement, dB |", "|---:|---|---:|---:|"]
    for row in rows:
        asked = f"{row['asked']:g}x" if row["asked"] else ""
        if "reason" in row:
            lines.append(f"| {asked} | {row['way']} | | {row['reason']} |")
        else:
            mean, low, high = row["interval"]
            lines.append(
                f"| {asked} | {row['way']} | {row['bits_ratio']:.2f}x | {mean:.1f} ({low:.1f} to {high:.1f}) |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
