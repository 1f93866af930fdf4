"""Whether the bound that some samples make holds for as many others as it says."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hyca_calib.pipelines.workload import BETWEEN_SPLITS, SPLITS, Job, Workload, batches
from hyca_calib.quality.conformal import bound_rank
from hyca_calib.quality.coverage import Coverage, coverage, held_for
from hyca_calib.quality.evaluate import evaluate_plan
from hyca_calib.records.provenance import Provenance
from hyca_calib.search.kept_runs import measured
from hyca_runtime import Plan

CALIBRATING, HELD_OUT = 100, 200


class CoverageRun(Provenance, frozen=True):
    """Agreements of samples that make a bound, and of others.

    Attributes:
        budget: of the plan.
        calibrating_db, held_out_db: agreement of every sample.
    """

    model: str
    budget: str
    level: float
    seed: int
    calibrating_db: tuple[float, ...]
    held_out_db: tuple[float, ...]

    @property
    def bound_db(self) -> float:
        """What a new sample agrees at least, with probability `level`."""
        return sorted(self.calibrating_db)[bound_rank(len(self.calibrating_db), self.level) - 1]

    @property
    def covered(self) -> int:
        """Held-out samples at or above the bound."""
        return sum(agreement >= self.bound_db for agreement in self.held_out_db)

    @property
    def coverage(self) -> Coverage:
        """The share of them, and what is expected of it."""
        return coverage(np.array(self.calibrating_db), np.array(self.held_out_db), self.level)

    @property
    def chance(self) -> float:
        """How often a bound of so many samples holds for no more of the others, if all are drawn alike."""
        return float(held_for(len(self.calibrating_db), len(self.held_out_db), self.level).cdf(self.covered))


def drawn(workload: Workload, count: int, seed: int) -> tuple[Job, ...]:
    """Samples that no split has: prompts of the test split drawn with replacement, with noise of their own.

    Each is drawn in the same way, so they are exchangeable, which a fixed number of each prompt is not.
    """
    pool = list({repr(job.call): job.call for job in workload.of("test")}.values())
    chance, first = random.Random(f"coverage {seed}"), BETWEEN_SPLITS * len(SPLITS) + seed * 1_000_003
    return tuple(Job(i, "test", first + i, chance.choice(pool)) for i in range(count))


def agreements(
    pipe: Any,
    plan: Plan,
    jobs: Sequence[Job],
    num_steps: int,
    batch: int,
    kept: Path,
    of: str,
    on_progress: Callable[[float], None],
) -> tuple[float, ...]:
    """Agreement of every sample with its full run.

    Args:
        kept: file where they are kept, call by call; a second run goes on from it.
        of: what tells these samples from others.
    """
    groups = {group[0].index: group for group in batches(jobs, batch)}

    def measure(first: Job) -> dict[str, list[list[float]]]:
        found, *_ = evaluate_plan(pipe, plan, groups[first.index], num_steps, batch)
        return {"agreement_db": [list(found.agreement_db_each)]}

    found = measured(kept, of, [group[0] for group in groups.values()], measure, on_progress)
    return tuple(db for rows in found for db in rows["agreement_db"][0])
