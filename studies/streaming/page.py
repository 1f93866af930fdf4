"""The study as a page of tables."""

from collections.abc import Mapping
from typing import Any

from hyca_calib.bench.documents.markdown import signed, table
from studies.streaming.notebook import Numbers

Lines = Mapping[str, Numbers]


def page(results: Mapping[str, Any]) -> str:
    """Tables of all chapters that were measured, and where their figures come from."""
    head = (
        f"# Video made chunk by chunk, measured\n\n`{results['model']['name']}`, each sample drawn alone. Agreement is "
        "that of final latents with the full run, dB, means; leads are means with 95 % intervals over prompts. "
        "Chunk-forwards are shares of the full run's.\n\n![the same as pictures](results.png)\n"
    )
    parts = [head]
    for name, make in MAKERS.items():
        if told := make(results["chapters"][name]["lines"]) if name in results["chapters"] else "":
            parts.append(f"## {name.capitalize()}\n\n{told}\n\n{_origin(results['chapters'][name])}\n")
    return "\n".join(parts)


def _origin(chapter: Mapping[str, Any]) -> str:
    """How a chapter was measured."""
    workload = chapter["workload"]
    return (
        f"{workload['num_steps']} steps of each chunk, {chapter['samples']} test samples, traces of "
        f"{workload['num_samples']}; {chapter['device']} ({chapter['processor']}), threads: {chapter['threads']}, "
        f"torch {chapter['versions']['torch']}, {chapter['date']}, commit {chapter['commit']}: `{chapter['command']}`"
    )


def _decisions(lines: Lines) -> str:
    """FlowCache by chunk, and one decision for all that share a call, at equal chunk-forwards."""
    rows = []
    for line, own in lines.items():
        if line.startswith("by chunk"):
            threshold = line.removeprefix("by chunk ")
            one = lines[f"one for all {threshold}"]
            cells = [f"{value:.2f}" for value in (own["forwards"], own["mean_db"], one["forwards"], one["mean_db"])]
            lead = lines.get(f"lead {threshold}")
            rows.append([threshold, *cells, _lead(lead) if lead else "not compared: not as many, or all"])
    head = ["threshold", "chunk-forwards", "by chunk, dB", "chunk-forwards", "one for all, dB", "by chunk is ahead by"]
    return table(head, "rrrrrr", rows)


def _compared(lines: Lines) -> str:
    """Every way at every number, and who leads by how much."""
    rows = [[line, f"{of['forwards']:.2f}", f"{of['mean_db']:.2f}"] for line, of in lines.items() if "mean_db" in of]
    leads = [[line, _lead(of)] for line, of in lines.items() if "lead" in of]
    return f"{table(['way', 'chunk-forwards', 'dB'], 'lrr', rows)}\n\n{table(['difference', 'dB'], 'lr', leads)}"


def _growth(lines: Lines) -> str:
    """Seconds of the first and the last chunk of a long clip, and bytes of keys and values behind some of them."""
    rows = []
    for name, of in lines.items():
        seconds, held = of["seconds"], of["bytes"]
        places = (0, len(held) // 2, len(held) - 1)
        rows.append([name, *(f"{seconds[i]:.2f}" for i in places), *(f"{held[i] / 2**20:.2f}" for i in places)])
    chunks = len(next(iter(lines.values()))["bytes"])
    at = [f"chunk {1 + i}" for i in (0, chunks // 2, chunks - 1)]
    return table(["keys", *(f"{a}, s" for a in at), *(f"{a}, MiB" for a in at)], "lrrrrrr", rows)


def _drift(lines: Lines) -> str:
    """How far the judge's confidence falls from the first to the last part of a long clip; nothing without a judge."""
    rows = [[name, f"{sum(of['fall']) / len(of['fall']):.3f}"] for name, of in lines.items() if "fall" in of]
    leads = [[line, _lead(of)] for line, of in lines.items() if "lead" in of]
    if not rows:
        return ""
    return f"{table(['way', 'falls by, nats'], 'lr', rows)}\n\n{table(['difference', 'nats'], 'lr', leads)}"


def _lead(found: Numbers) -> str:
    mean, low, high = found["lead"]
    return f"{signed(mean, 2)} ({signed(low, 2)} to {signed(high, 2)})"


MAKERS = {"decisions": _decisions, "plans": _compared, "keys": _compared, "growth": _growth, "drift": _drift}
