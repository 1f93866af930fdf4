"""Lanes of one sample beside plans alone, both, and fewer steps: a table, and in words what binds."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import get_args

from hyca_calib.bench.documents.markdown import listed, made_with, table, wrapped
from hyca_calib.bench.preset_results import worst_tenth
from hyca_calib.lanes.choosing import best_of, ways_of
from hyca_calib.lanes.measure import Kind, LaneRow
from hyca_calib.lanes.results import LANES_PICTURE, LANES_RESULTS, LanesTable, read_lanes
from hyca_calib.quality.metrics import interval
from hyca_runtime.samplers.following import Histories

LEVELS = (40, 50, 60)
"""Agreement in dB at which ways are compared."""
NAMES: dict[Kind, str] = {"lanes": "lanes alone", "plan": "plans alone", "both": "both", "fewer steps": "fewer steps"}
WANTED = 2
"""How many times the speed-up of lanes or plans alone both together should have."""


def lanes_section(root: Path) -> str:
    """Every model, from the results below the root of the repository."""
    parts = []
    for path in sorted((root / "studies" / "bench" / "lanes").glob(f"*/{LANES_RESULTS}")):
        found, picture = read_lanes(path), f"../{path.parent.relative_to(root).as_posix()}/{LANES_PICTURE}"
        parts.append(f"{lanes_table(found)}\n\n![lanes of {found.model}: agreement over computed passes]({picture})")
    return "\n\n".join(parts) or wrapped("*Lanes are being measured; no figures are shown yet.*")


def lanes_page(found: LanesTable) -> str:
    """One model on a page of its own."""
    return f"{lanes_table(found)}\n\n![agreement over computed passes]({LANES_PICTURE})\n"


def lanes_table(found: LanesTable) -> str:
    """One model: what was measured, all rows, what lanes are worth at some levels, and histories."""
    facts = found.workload
    told = (
        f"`{found.model}` ({found.scheduler}), {len(found.groups)} test samples of {len(set(found.groups))} prompts, "
        f"{found.num_steps} steps, seed {facts.seed}, rows fitted on {found.trace}. {made_with(found.made)}. A sample "
        "waits for the passes on which any lane computes; their number is all that is counted, and nothing here is a "
        "time. Agreement with the exact sampler in dB: the mean, its 95 % interval over prompts, and the mean of the "
        "worst tenth. In bold: nothing that computes on as many passes or fewer agrees better."
    )
    head = ["way", "starts", "lane", "passes", "computed", "fewer by", "calls computed", "mean", "95 %", "worst"]
    grid = table(head, "lllrrrrrrr", [_cells(row, found) for row in found.rows])
    said = [*_levels(found), *_order(found), *_histories(found)]
    return "\n\n".join([wrapped(told), grid, "\n".join(wrapped(sentence, "- ") for sentence in said)])


def _cells(row: LaneRow, found: LanesTable) -> list[str]:
    _, low, high = interval(row.db, groups=found.groups)
    several, mark = len(row.starts) > 1, "**" if row.best else ""
    return [
        f"{mark}{row.way}{mark}",
        " ".join(map(str, row.starts)) if several else "",
        str(row.lane) if several else "",
        str(row.passes),
        str(row.computed_passes),
        f"{found.num_steps / row.computed_passes:.2f}x",
        str(row.computed_calls),
        f"{row.mean_db:.1f}",
        f"{low:.1f} to {high:.1f}",
        f"{worst_tenth(row.db):.1f}",
    ]


def _levels(found: LanesTable) -> Iterator[str]:
    """What each way needs for an agreement, and whether both together are worth it."""
    for level in LEVELS:
        least = {kind: _least(found.rows, kind, level) for kind in NAMES}
        passes = {kind: row.computed_passes for kind, row in least.items() if row is not None}
        if not passes:
            continue
        told = [f"{NAMES[kind]} {f'on {passes[kind]}' if kind in passes else 'never'}" for kind in NAMES]
        yield f"At {level} dB: computed passes of {listed(told)}.{_verdict(passes)}"


def _verdict(passes: dict[Kind, int]) -> str:
    alone = [passes[kind] for kind in ("lanes", "plan") if kind in passes]
    if "both" not in passes or not alone:
        return ""
    gain = min(alone) / passes["both"]
    if gain >= WANTED:
        return f" Both together are {gain:.2f} times as fast as either alone."
    return (
        f" Both together are {gain:.2f} times as fast as the faster alone, not {WANTED}: they would have to end "
        f"on {min(alone) / WANTED:g}, while each of several lanes takes a computed pass to begin."
    )


def _least(rows: Sequence[LaneRow], kind: Kind, level: float) -> LaneRow | None:
    """The row of a kind that computes on the fewest passes and agrees so well."""
    there = [row for row in rows if row.kind == kind and row.mean_db >= level]
    return min(there, key=lambda row: row.computed_passes, default=None)


def _order(found: LanesTable) -> Iterator[str]:
    """Whether slower lanes draw better, sample by sample."""
    of_starts = Counter(row.starts for row in found.rows if row.kind == "lanes")
    for starts, count in of_starts.items():
        if count < len(starts) or count < 2:
            continue
        lanes = sorted((row for row in found.rows if row.kind == "lanes" and row.starts == starts), key=_by_lane)
        good = sum(
            all(fast < slow for fast, slow in pairwise(dbs)) for dbs in zip(*(row.db for row in lanes), strict=True)
        )
        means = listed([f"{row.mean_db:.1f}" for row in lanes])
        yield (
            f"Lanes from {' '.join(map(str, starts))} that compute all: {means} dB from the fast to the slow one; each "
            f"slower one is nearer in {good} of {len(found.groups)} samples."
        )


def _by_lane(row: LaneRow) -> int:
    return -row.lane


def _histories(found: LanesTable) -> Iterator[str]:
    """On the select split: what became of features at corrections, and what was chosen of how many lanes."""
    several = [one for one in found.confirmed if len(ways_of(one.proposed)) > 1]
    if several:
        told = [
            f"{histories} {fmean(r.mean_db for r in rows):.1f} dB on {fmean(r.computed_passes for r in rows):.1f}"
            for histories in get_args(Histories)
            if (rows := [one.row for one in several if one.histories == histories])
        ]
        yield (
            "Features of lanes that are corrected, with computed passes, in the mean over all lanes with plans that "
            f"were rolled out on the select split: {listed(told)}."
        )
    counts = sorted({len(one.proposed.starts) for one in found.confirmed})
    for wall in sorted({one.wall for one in found.confirmed}):
        best = {count: best_of(found.confirmed, wall, range(count, count + 1)) for count in counts}
        told = [f"{one.row.mean_db:.1f} of {count}" for count, one in best.items() if one is not None]
        yield f"On {wall:g} computed passes, by number of lanes, on the select split: {listed(told)} dB."
