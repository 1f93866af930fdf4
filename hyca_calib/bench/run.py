"""Plans and peers side by side, in one run, on one set of prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from hyca_calib.bench.notebook import Notebook
from hyca_calib.bench.quality import Quality, Verdict, judged, quality
from hyca_calib.demo.judge.network import Judge
from hyca_calib.evaluate import Evaluation, Run, compare, evaluate_plan, full_run, run_method, run_untimed
from hyca_calib.models import weights_digest
from hyca_calib.peers import Peer, peers
from hyca_calib.peers.score import Score, joined, reason, score_or_error, undominated
from hyca_calib.provenance import versions
from hyca_calib.search.tap_rollout import device_of
from hyca_calib.workload import Job, Workload
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.plan import Plan

__all__ = ["OURS", "Reference", "Row", "bench_peers", "bench_plans"]

OURS = "HyCa"
FEW, CLOSE_DB = 2, 1.5
"""On so many samples first, a setting must be so close to a better one of its method to see more."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    method: str
    family: str
    ours: bool
    result: Evaluation | None
    error: str = ""
    quality: Quality | None = None


@dataclass(frozen=True)
class Reference:
    """The full run that all others are compared with.

    Attributes:
        judge: looks at pictures on their own, where there is one for the model.
        notebook: keeps what was measured.
    """

    pipe: Any
    jobs: Sequence[Job]
    steps: int
    batch: int
    full: Run
    judge: Judge | None = None
    notebook: Notebook = field(default_factory=Notebook)

    @classmethod
    def of(
        cls, pipe: Any, workload: Workload, batch: int, judge: Judge | None = None, folder: Path | None = None
    ) -> Reference:
        """On the test split; measurements are kept in `folder`, if there is one."""
        jobs, steps = workload.of("test"), workload.num_steps
        facts = {
            "workload": workload.describe(),
            "batch": batch,
            "device": str(device_of(pipe)),
            "threads": torch.get_num_threads(),
            "judged": judge is not None,
            "weights": weights_digest(find_transformer(pipe)) if folder else "",
            "versions": versions(),
        }
        return cls(pipe, jobs, steps, batch, full_run(pipe, jobs, steps, batch), judge, Notebook(folder, facts))

    @cached_property
    def _verdict(self) -> Verdict:
        assert self.judge is not None  # noqa: S101
        return judged(self.judge, self.full.images, self.jobs)

    def row(self, method: str, family: str, run: Run, found: Evaluation, ours: bool = False) -> Row:
        """The line of a run."""
        seen = None
        if self.judge is not None:
            seen = quality(self.judge, judged(self.judge, run.images, self.jobs), self._verdict)
        return Row(method, family, ours, found, quality=seen)

    @property
    def own_row(self) -> Row:
        """The full run's own line."""
        same = compare(self.full, self.full, (self.steps, self.steps), 0, self.batch)
        return self.row("full run", "full run", self.full, same)


def bench_peers(
    reference: Reference,
    workload: Workload,
    only: Sequence[str] = (),
    on_row: Callable[[Row], None] = lambda row: None,
    most: int | None = None,
    tell: Callable[[float, str], None] = lambda share, news: None,
) -> list[Row]:
    """Peers against the full run; one that fails is listed with its error.

    Of the many settings only those are measured that no other of the same method beats on the select split; those
    that another beats there by `CLOSE_DB` on the first `FEW` samples do not see the rest of it.

    Args:
        only: parts of peer names; all settings with one of them are measured. Empty leaves it to the select split.
        most: settings of each family that are tried, evenly from its sweep; all by default.
        on_row, tell: told every row, and the progress of the choice on the select split.
    """
    found = _thinned(peers(reference.pipe, workload.of("fit")[:8], workload.num_steps), most)
    wanted = [peer for peer in found if any(part in peer.name for part in only)] if only else found
    rows, kept = ([], wanted) if only else _screened(reference, wanted, workload, tell)
    for row in rows:
        on_row(row)
    for peer in kept:
        rows.append(reference.notebook.recall(Row, peer.name, partial(_peer_row, reference, peer)))
        on_row(rows[-1])
    return rows


def _thinned(found: Sequence[Peer], most: int | None) -> list[Peer]:
    """The first, the last, and some between of each family."""
    kept: list[Peer] = []
    for family in dict.fromkeys(peer.family for peer in found):
        settings = [peer for peer in found if peer.family == family]
        if most is not None and len(settings) > most:
            settings = [settings[round(i * (len(settings) - 1) / max(1, most - 1))] for i in range(most)]
        kept += settings
    return kept


def _screened(
    reference: Reference, found: Sequence[Peer], workload: Workload, tell: Callable[[float, str], None]
) -> tuple[list[Row], list[Peer]]:
    """Rows of the peers that fail, and the peers worth measuring; those far behind on a few samples see no others."""
    pipe, batch, jobs = reference.pipe, reference.batch, workload.of("select")
    scores: dict[str, Score] = {}
    left = list(found)
    for name, part in (("few", jobs[:FEW]), ("more", jobs[FEW:])):
        if not part:
            break
        full = run_untimed(pipe, part, workload.num_steps, batch, nullcontext)
        for i, peer in enumerate(left):
            tell(i / len(left), f"{name} samples, {peer.name}")
            make = partial(score_or_error, pipe, peer, part, batch, full)
            new = reference.notebook.recall(Score, f"{peer.name}, {name} samples", make)
            scores[peer.name] = joined(scores[peer.name], new) if peer.name in scores else new
        close = {score.method for score in undominated([scores[peer.name] for peer in left], CLOSE_DB)}
        left = [peer for peer in left if peer.name in close]
    best = {score.method for score in undominated([scores[peer.name] for peer in left])}
    rows = [Row(score.method, score.family, False, None, score.error) for score in scores.values() if score.error]
    return rows, [peer for peer in left if peer.name in best]


def _peer_row(reference: Reference, peer: Peer) -> Row:
    full, batch = reference.full, reference.batch
    try:
        run, _ = run_method(reference.pipe, reference.jobs, peer.steps, batch, peer.applied)
    except Exception as error:  # foreign code may raise anything
        return Row(peer.name, peer.family, False, None, reason(error))
    spent = round(reference.steps * run.flops / full.flops)
    return reference.row(peer.name, peer.family, run, compare(run, full, (peer.steps, spent), 0, batch))


def bench_plans(reference: Reference, plans: Sequence[tuple[str, Plan]], family: str = OURS) -> list[Row]:
    """Plans against the same full run; of a family other than `OURS` they are rivals."""

    def made(name: str, plan: Plan) -> Row:
        found, run, _ = evaluate_plan(
            reference.pipe, plan, reference.jobs, reference.steps, reference.batch, reference.full
        )
        return reference.row(name, family, run, found, ours=family == OURS)

    return [
        reference.notebook.recall(Row, name, partial(made, name, plan), plan=plan.model_dump_json(include={"sections"}))
        for name, plan in plans
    ]
