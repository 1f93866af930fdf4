"""The table of ``docs/baselines.md``."""

import argparse
import importlib
import importlib.metadata
import importlib.util
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date

from studies.zoo.baselines.methods import BASELINES
from studies.zoo.baselines.verdicts import CLOSE, CUT, BaselineVerdict, baseline_matrix
from studies.zoo.check import STEPS

WORDS = {
    "works": "steps are spared, outputs are right as far as these checks can tell, no state outlives a run",
    "works, leaks": "as before, but a run that an exception cut off changes the run after it",
    "nothing": "no error, and no layer of any block is spared",
    "refused": "an error that says so when it is switched on",
    "crashes": "an error of another kind then, or any error in a run",
    "wrong": "outputs that are off though every call of the run is the same, or other faults",
    "not installed": "the package is missing",
}
"""The words of the table."""
FINE = {"works", "works, leaks", "not installed"}
"""Words that need no reason."""
SHARE = re.compile(r"off by (\d+) %")


def to_markdown(rows: Sequence[BaselineVerdict]) -> str:
    """A table of one word per pair, the counts of those words, and the reasons behind them."""
    baselines, models = list(dict.fromkeys(r.baseline for r in rows)), list(dict.fromkeys(r.model for r in rows))
    words = {(r.model, r.baseline): _word(r) + r" \*" * bool(r.notes) for r in rows}
    counts = {p: Counter(_word(r) for r in rows if r.baseline == p) for p in baselines}
    used = [word for word in WORDS if any(word in counted for counted in counts.values())]
    reasons = _grouped((_reason(r), r.baseline, _named(r)) for r in rows if _word(r) not in FINE)
    notes = _grouped((note, r.baseline, _short(r.model)) for r in rows for note in r.notes)
    lines = [
        *_table(["", *baselines], [[word, *(str(counts[p][word]) for p in baselines)] for word in used]),
        "",
        *_table(["Class", *baselines], [[m, *(words.get((m, p), "") for p in baselines)] for m in models]),
    ]
    if reasons:
        lines += ["", "## Reasons", "", *_table(["Verdict", "Baselines", "Classes"], reasons)]
    if notes:
        lines += [
            "",
            r"## Marked \*",
            "",
            *_table(["What it took, or was tried in vain", "Baselines", "Classes"], notes),
        ]
    return "\n".join(lines)


def _grouped(entries: Iterable[tuple[str, str, str]]) -> list[list[str]]:
    """Lines of text, baselines and classes, from one entry for each of the three."""
    found: dict[str, dict[str, list[str]]] = {}
    for text, baseline, model in entries:
        found.setdefault(text, {}).setdefault(model, []).append(baseline)
    lines: dict[tuple[str, str], list[str]] = {}
    for text, by_model in found.items():
        for model, baselines in by_model.items():
            lines.setdefault((text, ", ".join(baselines)), []).append(model)
    return [[text, baselines, ", ".join(models)] for (text, baselines), models in lines.items()]


def _reason(row: BaselineVerdict) -> str:
    """A verdict, without what differs from class to class."""
    text = re.sub(r"\b[A-Z]\w*(?:Block|Pipeline|Model|Transformer)\b", "...", SHARE.sub("off by N %", row.verdict))
    more = [part for part in row.detail.split("; ") if part and not part.startswith(("layers run", "threshold"))]
    return "; ".join([text, *more])


def _named(row: BaselineVerdict) -> str:
    share = SHARE.search(row.verdict)
    return _short(row.model) + (f" ({share[1]} %)" if share else "")


def _word(row: BaselineVerdict) -> str:
    kind = row.verdict.split(":")[0]
    if kind == "wrong" and all("cut-off" in fault for fault in row.verdict.removeprefix("wrong: ").split("; ")):
        return "works, leaks"
    return {"does nothing": "nothing", "crashes when switched on": "crashes"}.get(kind, kind)


def _short(model: str) -> str:
    return re.sub(r"(Transformer)?([123]D)?(Model)?$", "", model)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return [f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *cells]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print ``docs/baselines.md``."""
    parser = argparse.ArgumentParser(prog="python -m studies.zoo.baselines", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="MODEL", help="class of the zoo; default: all")
    parser.add_argument("--baseline", action="append", default=[], choices=list(BASELINES), help="default: all")
    options = parser.parse_args(arguments)
    command = " ".join([parser.prog, *options.names, *(f"--baseline '{baseline}'" for baseline in options.baseline)])
    sys.stdout.write(f"{_header(command)}\n\n{to_markdown(baseline_matrix(options.names, options.baseline))}\n")


def _header(command: str) -> str:
    packages = {"torch": "torch", "diffusers": "diffusers", "cache-dit": "cache_dit", "hyca": "hyca_calib"}
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name) if importlib.util.find_spec(module) else 'not installed'}"
        for name, module in packages.items()
    )
    return "\n".join(
        [
            "# Caches on every transformer class of the zoo",
            "",
            f"Made by `{command}` with {versions}, {date.today():%Y-%m}, on a CPU.",
            "",
            *HOW.format(steps=STEPS, cut=CUT, close=100 * CLOSE).strip().splitlines(),
            "",
            *_table(["Baseline", "Settings"], [[name, baseline.settings] for name, baseline in BASELINES.items()]),
            "",
            *_table(["Word", "Meaning"], list(WORDS.items())),
        ]
    )


HOW = """
Each class is a tiny model with random weights (`studies.zoo`), in eager mode. A run is {steps} calls of one
branch, without guidance: the same inputs, time running down. A stand-in for a pipeline makes them. It enters
`cache_context("cond")` where the network has it, which not all pipelines of diffusers do, and ends as they do,
with `maybe_free_model_hooks`. Settings are such that a cache must act; they say nothing about quality or speed.
The checks, each on a freshly built network:

1. It can be switched on, and a run gives finite outputs of the right shapes.
2. On some step fewer layers within blocks are called than in the full run.
3. If the {steps} calls do not differ at all, outputs agree with the full run's within {close:g} %.
4. After a whole run, a run with other inputs, of batch 1 or 2, gives what it gives on a network that never ran.
5. The same after a run that an exception cut off after {cut} calls. FirstBlockCache compares the first block's
   residual with the last one it saw, so whether it leaks depends on its threshold and on how alike two runs are;
   the other caches of diffusers count steps and go on counting. `disable_cache` and `enable_cache` again after an
   error prevent it.
6. After it is switched off, outputs are those from before, bit by bit.

Where the usual call fails, what a user can write instead is tried too. Not tried: to register blocks with
`TransformerBlockRegistry` of diffusers, patch functors of one's own for cache-dit, anything that edits a network.
cache-dit gets the pipeline, not the bare network; its source says that its cache does not support AnyFlowFAR.
The checks were chosen by the project whose runtime is the column HyCa; read that column with this in mind.
"""
