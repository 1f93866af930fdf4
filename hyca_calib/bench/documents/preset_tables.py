"""Published recipes at every budget beside plans that were searched: a table, and who wins where in words."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hyca_calib.bench.documents.markdown import made_with, signed, table, wrapped
from hyca_calib.bench.preset_results import (
    PRESET_PICTURE,
    PRESET_RESULTS,
    PresetFigures,
    PresetRow,
    PresetTable,
    read_presets,
)
from hyca_calib.costs.same_cost import SAME_COST
from hyca_calib.quality.metrics import interval

MOST = re.compile(r"([\d.]+x) (?:is the most|already)")
"""What errors say of a budget that cannot be met: the most that can be had."""

Measured = tuple[PresetRow, PresetFigures]


def presets_section(root: Path) -> str:
    """The table of every model with its sentences, from the results below the root of the repository."""
    parts = []
    for path in sorted((root / "studies" / "bench").glob(f"*/{PRESET_RESULTS}")):
        found, picture = read_presets(path), f"../{path.parent.relative_to(root).as_posix()}/{PRESET_PICTURE}"
        if found.known:
            drawn = f"![presets and static plans on {found.facts.model}: agreement over compute]({picture})"
            parts.append(f"{preset_tables(found)}\n\n{drawn}")
    return "\n\n".join(parts) or wrapped("*The presets are being measured; no figures are shown yet.*")


def preset_tables(found: PresetTable) -> str:
    """One model: what was measured, every recipe at every budget, failures, and for each budget who wins."""
    rows = {row.place: row for row in found.rows}
    best = {_best(_measured(found, budget))[0].place for budget in found.budgets if _measured(found, budget)}
    lines = [
        [
            f"**{line}**" if any(row.static for row in found.rows if row.line == line) else f"`{line}`",
            *(_cell(rows.get((line, budget)), (line, budget) in best) for budget in found.budgets),
        ]
        for line in found.lines
    ]
    failed = [wrapped(f"`{row.line}` at {row.budget} failed: {row.error}", "- ") for row in found.rows if row.error]
    said = [wrapped(sentence, "- ") for budget in found.budgets if (sentence := standing_at(found, budget))]
    grid = table(["plans of", *found.budgets], "l" + "r" * len(found.budgets), lines)
    return "\n\n".join(part for part in (wrapped(_told(found)), grid, "\n".join(failed), "\n".join(said)) if part)


def standing_at(found: PresetTable, budget: str) -> str:
    """Who wins at a budget and by how much, sample by sample; nothing where nothing was measured.

    The best recipe is that of the test split, which favours the recipes.
    """
    measured = _measured(found, budget)
    ours, others = ([one for one in measured if one[0].static == own] for own in (True, False))
    if not measured:
        return ""
    if ours and others:
        plan, recipe = _best(ours), _best(others)
        first, second = (plan, recipe) if plan[1].agreement_db >= recipe[1].agreement_db else (recipe, plan)
    elif len(others) > 1:
        first, second, *_ = sorted(others, key=_agreement, reverse=True)
    else:
        return f"At {budget} there is only {_described(measured[0])}."
    apart = np.subtract(first[1].agreement_db_each, second[1].agreement_db_each).tolist()
    mean, low, high = interval(apart, groups=found.facts.groups)
    said, dearer = (
        f"by {signed(mean)} dB ({signed(low)} to {signed(high)})",
        second[1].flops_ratio / first[1].flops_ratio,
    )
    said += f", and spends {100 * dearer - 100:.0f} % more" if dearer > SAME_COST else ""
    if low <= 0:
        return f"At {budget} nobody is ahead: {_described(first)} is above {_described(second)} {said}."
    return f"At {budget} {_described(first)} beats {_described(second)} {said}."


def _told(found: PresetTable) -> str:
    """What cells hold, and where they are from."""
    facts = found.facts
    made = sorted({made_with(row.made) for row in found.rows if row.result})
    return (
        f"`{facts.model}`, {len(facts.groups)} test samples of {len(set(facts.groups))} prompts, "
        f"{facts.workload.num_steps} steps, seed {facts.workload.seed}. A cell has the agreement with the full run in "
        "dB, mean / mean of the worst tenth of the samples, and the FLOPs ratio that was really spent; the highest "
        f"mean of each column is bold. {'; '.join(made)}."
    )


def _cell(row: PresetRow | None, best: bool) -> str:
    if row is None:
        return ""
    if row.result is None:
        most = MOST.search(row.unmet)
        return "failed" if row.error else f"at most {most[1]}" if most else "cannot be met"
    found = f"{row.result.agreement_db:.1f} / {row.result.worst_tenth_db:.1f}"
    return f"{f'**{found}**' if best else found} ({row.result.flops_ratio:.2f}x)"


def _measured(found: PresetTable, budget: str) -> list[Measured]:
    return [(row, row.result) for row in found.rows if row.budget == budget and row.result]


def _agreement(one: Measured) -> float:
    return one[1].agreement_db


def _best(measured: Sequence[Measured]) -> Measured:
    return max(measured, key=_agreement)


def _described(one: Measured) -> str:
    row, result = one
    name = f"the static plan ({row.line})" if row.static else f"`{row.line}`"
    return f"{name} with {result.agreement_db:.1f} dB at {result.flops_ratio:.2f}x"
