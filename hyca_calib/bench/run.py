"""Plans and peers side by side, in one run, on one set of prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from hyca_calib.evaluate import Evaluation, Run, compare, evaluate_plan, full_run, run_method, run_untimed
from hyca_calib.peers import Peer, peers
from hyca_calib.peers.score import reason, score_or_error, undominated
from hyca_calib.workload import Workload
from hyca_runtime.plan import Plan

__all__ = ["Row", "bench_peers", "bench_plans"]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    method: str
    family: str
    ours: bool
    result: Evaluation | None
    error: str = ""


def bench_peers(
    pipe: Any,
    workload: Workload,
    batch: int,
    only: Sequence[str] = (),
    on_row: Callable[[Row], None] = lambda row: None,
    most: int | None = None,
) -> tuple[list[Row], Run]:
    """Peers on the test split, and the full run; a peer that fails is listed with its error.

    Of the many settings only those are measured that no other of the same method beats on the select split.

    Args:
        only: parts of peer names; all settings with one of them are measured. Empty leaves it to the select split.
        most: settings of each family that are tried, evenly from its sweep; all by default.
    """
    jobs, steps = workload.of("test"), workload.num_steps
    found = _thinned(peers(pipe, workload.of("fit")[:8], steps), most)
    wanted = [peer for peer in found if any(part in peer.name for part in only)] if only else found
    rows, kept = ([], wanted) if only else _screened(pipe, wanted, workload, batch)
    full = full_run(pipe, jobs, steps, batch)
    for row in rows:
        on_row(row)
    for peer in kept:
        rows.append(_peer_row(pipe, peer, jobs, batch, full, steps))
        on_row(rows[-1])
    return rows, full


def _thinned(found: Sequence[Peer], most: int | None) -> list[Peer]:
    """The first, the last, and some between of each family."""
    kept: list[Peer] = []
    for family in dict.fromkeys(peer.family for peer in found):
        settings = [peer for peer in found if peer.family == family]
        if most is not None and len(settings) > most:
            settings = [settings[round(i * (len(settings) - 1) / max(1, most - 1))] for i in range(most)]
        kept += settings
    return kept


def _screened(pipe: Any, found: Sequence[Peer], workload: Workload, batch: int) -> tuple[list[Row], list[Peer]]:
    """Rows of the peers that fail, and the peers worth measuring."""
    jobs = workload.of("select")
    full = run_untimed(pipe, jobs, workload.num_steps, batch, nullcontext)
    scores = [score_or_error(pipe, peer, jobs, batch, full) for peer in found]
    best = {score.method for score in undominated(scores)}
    rows = [Row(score.method, score.family, False, None, score.error) for score in scores if score.error]
    return rows, [peer for peer in found if peer.name in best]


def _peer_row(pipe: Any, peer: Peer, jobs: Sequence[Any], batch: int, full: Run, steps: int) -> Row:
    try:
        run, _ = run_method(pipe, jobs, peer.steps, batch, peer.applied)
    except Exception as error:  # foreign code may raise anything
        return Row(peer.name, peer.family, False, None, reason(error))
    spent = round(steps * run.flops / full.flops)
    return Row(peer.name, peer.family, False, compare(run, full, (peer.steps, spent), 0, batch))


def bench_plans(pipe: Any, plans: Sequence[tuple[str, Plan]], workload: Workload, batch: int, full: Run) -> list[Row]:
    """Plans on the same prompts against the same full run."""
    return [
        Row(
            f"HyCa plan {name}",
            "HyCa",
            True,
            evaluate_plan(pipe, plan, workload.of("test"), workload.num_steps, batch, full)[0],
        )
        for name, plan in plans
    ]
