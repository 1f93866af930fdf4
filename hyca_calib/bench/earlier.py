"""What an earlier comparison has measured of the other methods, for one of new plans beside it.

A whole comparison takes hours, nearly all of them for others. Their figures change with their code and with what they
run on, not with our plans: on the same samples, weights, machine and versions they are taken as they are, and a random
part of them is measured again first.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from hyca_calib.bench.choice import CLOSE_LOOK, chosen, windows
from hyca_calib.bench.notebook import Notebook, Part
from hyca_calib.bench.results import FULL, Bench, BenchFacts
from hyca_calib.records.provenance import Provenance
from hyca_runtime.errors import StudyError

ALIKE = ("model", "workload", "batch", "weights", "device", "processor", "threads", "versions")
"""Facts on which figures of other methods depend, beside their code."""


def measured_earlier(bench: Bench, folder: Path) -> dict[str, Any]:
    """Every measurement of a method that is not ours, by its name in a `Notebook`.

    Args:
        folder: of the comparison, whose notebook knows the scores on the whole select split; they may be missing.
    """
    others = [row for row in bench.rows if row.result and not row.ours and row.family != FULL]
    tried = [score for sweep in bench.sweeps for score in sweep.tried]
    ratios = [row.result.flops_ratio for row in bench.rows if row.ours and row.result]
    close = [Part.REST.of(score.method) for score in chosen(tried, windows(ratios), CLOSE_LOOK)]
    found: dict[str, Any] = {Part.LEARNT.of(name): learnt for name, learnt in bench.learnt.items()}
    found |= {Part.FEW.of(score.method): score for score in tried}
    found |= {row.method: row for row in others}
    found |= {Part.JUDGED.of(row.method): row.quality for row in others if row.quality}
    found |= {Part.TIMED.of(row.method): row.timing for row in others if row.timing}
    plain: dict[str, Any] = TypeAdapter(dict[str, Any]).dump_python(found, mode="json")
    return plain | Notebook(folder).latest(close)


def without(bench: Bench, families: Collection[str]) -> Bench:
    """A comparison as if these families had not been tried."""
    rows = tuple(row for row in bench.rows if row.family not in families)
    sweeps = tuple(sweep for sweep in bench.sweeps if sweep.family not in families)
    return replace(bench, rows=rows, sweeps=sweeps)


def others_of(facts: BenchFacts) -> Provenance:
    """What measured the other methods of a comparison."""
    return facts.others or Provenance.model_validate(facts.model_dump(include={*Provenance.model_fields}))


def check_alike(earlier: BenchFacts, now: Mapping[str, Any]) -> None:
    """Whether figures of an earlier comparison may stand beside new ones.

    Args:
        now: the same facts, of the new one; those that are not known yet are left out.

    Raises:
        StudyError: they were measured on something else.
    """
    then = earlier.model_dump(mode="json", include={*ALIKE})
    found = BenchFacts.model_validate(earlier.model_dump() | {**now}).model_dump(mode="json", include={*ALIKE})
    if differing := [name for name in ALIKE if then[name] != found[name]]:
        told = "; ".join(f"{name} {then[name]} then, {found[name]} now" for name in differing)
        raise StudyError(f"the other methods were measured on something else ({told}); measure them again")
