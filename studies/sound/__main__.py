"""``python -m studies.sound``, from the repository: searched plans beside fewer steps of the model's own sampler."""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from hyca_calib.pipelines.rollout import followed
from hyca_calib.pipelines.workload import Job
from hyca_calib.quality.evaluate import Fidelity, SampledRun, run_untimed
from hyca_calib.quality.metrics import interval, prompt_groups
from hyca_calib.records.atomic import write_json, write_text
from hyca_calib.records.console import one_line_errors, say
from hyca_calib.records.provenance import command_line, provenance
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan, load_plan
from studies.sound.pipeline import SoundPipeline, sound

BATCH = 8
RESULTS = Path(__file__).parent / "results"


def main(
    trace: Annotated[str, typer.Option(help="Of the sound model.")] = "traces/sound.zarr",
    plan: Annotated[list[Path] | None, typer.Option(help="A searched plan; may be given several times.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the figures, and of the plans.")] = RESULTS,
) -> None:
    """Measure plans on the test split, and the sampler with as few calls, and with one more."""
    with one_line_errors():
        workload, pipe = Trace(trace).workload(), sound()
        pipe.set_progress_bar_config(disable=True)
        jobs = workload.of("test")
        full, rows = run_untimed(pipe, jobs, workload.num_steps, BATCH, nullcontext), list[dict[str, Any]]()
        for path in plan or []:
            searched = load_plan(path)
            rows += _compared(pipe, searched, jobs, workload.num_steps, full)
            write_text(out / f"{searched.section.flops_ratio:.0f}x.plan.json", Path(path).read_text())
        facts = {**provenance("cpu").model_dump(mode="json"), "command": command_line()}
        results = {**facts, "workload": workload.describe().model_dump(mode="json"), "samples": len(jobs), "rows": rows}
        write_json(out / "results.json", results)
        write_text(out / "README.md", page(json.loads((out / "results.json").read_text())))
    say(f"{out / 'README.md'}")


def _compared(
    pipe: SoundPipeline, plan: Plan, jobs: Sequence[Job], steps: int, full: SampledRun
) -> list[dict[str, Any]]:
    """A plan, and the sampler with as many calls as it computes, and one more."""
    section = plan.section
    computed = len(section.schedule.computed_steps)
    found = [run_untimed(pipe, jobs, steps, BATCH, lambda: followed(pipe, plan))]
    found += [run_untimed(pipe, jobs, calls, BATCH, nullcontext) for calls in (computed, computed + 1)]
    ways = [("plan", section.flops_ratio), *((f"{calls} steps", steps / calls) for calls in (computed, computed + 1))]
    rows = []
    for (way, ratio), run in zip(ways, found, strict=True):
        agreement = list(Fidelity.of(run, full).agreement_db_each)
        told = {"way": way, "flops_ratio": ratio, "computed_steps": computed, "agreement_db": agreement}
        rows.append({**told, "interval": interval(agreement, 0, prompt_groups(jobs))})
    return rows


def page(results: dict[str, Any]) -> str:
    """The table, and where its figures come from."""
    steps, samples = results["workload"]["num_steps"], results["samples"]
    told = (
        f"Signal to error of the waveform, in dB, against the model's own full run of {steps} steps; means of "
        f"{samples} test samples with 95 % intervals over prompts. Below each plan the model's own sampler, the "
        "multistep DPM-Solver++, with as many calls of the network as the plan computes, and with one more."
    )
    head = ["# A kind of model that nothing was tuned on, measured", "", told, ""]
    lines = [*head, "| way | FLOPs | agreement, dB |", "|---|---:|---:|"]
    for row in results["rows"]:
        mean, low, high = row["interval"]
        lines.append(f"| {row['way']} | {row['flops_ratio']:.2f}x | {mean:.1f} ({low:.1f} to {high:.1f}) |")
    made = f"{results['device']} ({results['processor']}), threads: {results['threads']}"
    made += f", torch {results['versions']['torch']}, {results['date']}, commit {results['commit']}."
    lines += ["", made, "", f"```\n{results['command']}\n```"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
