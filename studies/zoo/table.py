"""The table of tested models, in Markdown."""

from collections.abc import Callable, Sequence

from hyca_calib.records.provenance import versions
from studies.zoo import MODELS, PIPELINES
from studies.zoo.check import CHECKS, Verdict, check_model, check_pipeline

POINTS = ("trunk", "output", "blocks")
MARKS = {"yes": "✓", "not run": ""}


def check_all(
    only: Sequence[str], compiled: bool, on_verdict: Callable[[Verdict], None] = lambda verdict: None
) -> tuple[list[Verdict], list[Verdict]]:
    """Check every model and every pipeline at every point.

    Args:
        only: parts of names to keep; empty keeps all.
        compiled: whether models are also run under `torch.compile`, at the point ``trunk``.

    Returns:
        Verdicts of the models, and of the pipelines.
    """
    found: tuple[list[Verdict], list[Verdict]] = ([], [])
    for name, model in MODELS.items():
        for point in POINTS:
            if not only or any(part in name for part in only):
                found[0].append(check_model(model, point, compiled and point == "trunk"))
                on_verdict(found[0][-1])
    for name, pipeline in PIPELINES.items():
        for point in POINTS:
            if not only or any(part in name for part in only):
                found[1].append(check_pipeline(pipeline, point))
                on_verdict(found[1][-1])
    return found


def to_markdown(models: Sequence[Verdict], pipelines: Sequence[Verdict]) -> str:
    """One line for each model and each pipeline, and below what failed and why."""
    head = "# Models\n\nMade by `python -m studies.zoo --compiled --out docs/models.md` with "
    head += ", ".join(f"{name} {version}" for name, version in versions().items())
    head += (
        ".\n\nEvery transformer class of diffusers, with a small configuration and random weights, is called six times "
        "as in one run; steps 0, 1 and 3 are computed, the others predicted.\n\n"
        "- **attach**: a plan can be applied, nothing else of the model is touched.\n"
        "- **identical**: under a plan that computes every step the output is the same to the last bit.\n"
        "- **no block runs**: no transformer block is called on a predicted step; outputs are finite and differ.\n"
        "- **restored**: after `remove()` the output is the same to the last bit and no forward is left replaced.\n"
        "- **compiled**: under `torch.compile` of the whole network (dynamo, eager backend) outputs equal eager ones.\n"
    )
    text = head + "\n## Networks\n\n" + _rows(models, CHECKS)
    text += "\n## Pipelines\n\nDriven by their own `__call__`, guidance on.\n\n" + _rows(pipelines, CHECKS[:-1])
    faults = [verdict for verdict in (*models, *pipelines) if not verdict.good]
    if faults:
        text += "\n## What failed\n\n"
        for verdict in faults:
            reasons = [f"{check}: {said}" for check, said in verdict.results.items() if said not in MARKS]
            text += f"- {verdict.name}, `{verdict.point}`: {'; '.join(reasons)}\n"
    return text


def _rows(verdicts: Sequence[Verdict], checks: Sequence[str]) -> str:
    by_name: dict[str, dict[str, Verdict]] = {}
    for verdict in verdicts:
        by_name.setdefault(verdict.name, {})[verdict.point] = verdict
    others = POINTS[1:]
    text = "| | " + " | ".join([*(f"{POINTS[0]}: {check}" for check in checks), *others]) + " |\n"
    text += "|---" * (len(checks) + len(others) + 1) + "|\n"
    for name, points in by_name.items():
        first = points[POINTS[0]].results
        marks = [MARKS.get(first.get(check, "no"), "✗") for check in checks]
        marks += ["✓" if points[point].good else "✗" for point in others]
        text += f"| {name} | {' | '.join(marks)} |\n"
    return text
