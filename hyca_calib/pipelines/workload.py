"""What is sampled: prompts, seeds and steps, split once for all stages."""

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from pydantic import BaseModel

from hyca_calib.pipelines.media import contents, load_media
from hyca_runtime.errors import WorkloadError

Split = Literal["fit", "select", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
SHARES = {"fit": 3, "select": 1, "test": 3}
"""Taps are fitted on *fit*, candidates are chosen on *select*, results are reported on *test*."""

BETWEEN_SPLITS = 7_919_000
"""How far apart the noise seeds of two splits are."""

BATCHED = ("prompt", "negative_prompt", "class_labels")


@dataclass(frozen=True)
class Job:
    """One sample: arguments of the pipeline call, and the seed of its noise."""

    index: int
    split: Split
    seed: int
    call: dict[str, Any]


class WorkloadSummary(BaseModel, frozen=True):
    """A workload without its prompts.

    Attributes:
        digest: of everything that decides the samples.
        prompts_digest: of the prompts alone.
    """

    digest: str
    prompts_digest: str
    num_prompts: int
    num_samples: int
    num_steps: int
    seed: int


@dataclass(frozen=True)
class Workload:
    """A reproducible set of samples.

    The prompts are shuffled by `seed` and divided among the splits, so no prompt is in two of them;
    which split a prompt belongs to does not depend on `num_samples`.
    """

    prompts: tuple[dict[str, Any], ...]
    num_samples: int = 112
    num_steps: int = 50
    seed: int = 0
    excluded: frozenset[int] = frozenset()
    """Numbers of samples that no split has, because the model's own run of them failed."""

    def __post_init__(self) -> None:
        if len(self.prompts) < len(SPLITS):
            raise WorkloadError(
                f"need at least {len(SPLITS)} prompts, one per split, got {len(self.prompts)}; add some"
            )
        if self.num_samples < sum(SHARES.values()):
            raise WorkloadError(f"need at least {sum(SHARES.values())} samples, got {self.num_samples}; draw more")
        if not isinstance(self.num_steps, int) or self.num_steps < 4:
            raise WorkloadError(f"need at least 4 steps for anything to be predicted, got {self.num_steps!r}")

    @cached_property
    def jobs(self) -> tuple[Job, ...]:
        """All samples, split by split."""
        order = list(range(len(self.prompts)))
        random.Random(self.seed).shuffle(order)
        pools, counts = _share(len(order)), _share(self.num_samples)
        jobs: list[Job] = []
        for split in SPLITS:
            pool, order = order[: pools[split]], order[pools[split] :]
            for i in range(counts[split]):
                index = len(jobs)
                seed = self.seed * 1_000_003 + BETWEEN_SPLITS * SPLITS.index(split) + i
                jobs.append(Job(index, split, seed, self.prompts[pool[i % len(pool)]]))
        return tuple(jobs)

    def of(self, split: Split) -> tuple[Job, ...]:
        return tuple(job for job in self.jobs if job.split == split and job.index not in self.excluded)

    def further(self, split: Split, count: int) -> tuple[Job, ...]:
        """So many samples of a split beyond its own: those that it would have if more were drawn."""
        own = _share(self.num_samples)[split]
        enough = -(-(own + count + 1) * sum(SHARES.values()) // SHARES[split])
        more = replace(self, num_samples=enough, excluded=frozenset())
        return more.of(split)[own : own + count]

    @property
    def digest(self) -> str:
        return _digest((self.prompts, self.num_samples, self.num_steps, self.seed))

    def describe(self) -> WorkloadSummary:
        """What must be given again to draw the same samples, besides the prompts."""
        return WorkloadSummary(
            digest=self.digest,
            prompts_digest=_digest(self.prompts),
            num_prompts=len(self.prompts),
            num_samples=self.num_samples,
            num_steps=self.num_steps,
            seed=self.seed,
        )


def _digest(drawn: Any) -> str:
    """SHA-256 of what is drawn, wherever its files lie."""
    return hashlib.sha256(json.dumps(contents(drawn), sort_keys=True).encode()).hexdigest()


def _share(total: int) -> dict[Split, int]:
    whole = sum(SHARES.values())
    fit, select = max(1, total * SHARES["fit"] // whole), max(1, total * SHARES["select"] // whole)
    return {"fit": fit, "select": select, "test": total - fit - select}


def batches(jobs: Sequence[Job], size: int) -> Iterator[list[Job]]:
    """Runs of at most `size` jobs of one split that differ in nothing but prompt and seed."""
    batch: list[Job] = []
    for job in jobs:
        if batch and (len(batch) == size or _settings(batch[0]) != _settings(job)):
            yield batch
            batch = []
        batch.append(job)
    if batch:
        yield batch


def _settings(job: Job) -> tuple[Any, ...]:
    rest = {key: value for key, value in job.call.items() if key not in BATCHED}
    return job.split, sorted(job.call), json.dumps(rest, sort_keys=True)


def merge_calls(jobs: Sequence[Job]) -> dict[str, Any]:
    """Arguments of one pipeline call that draws all of `jobs`, with their pictures and videos."""
    call = load_media(jobs[0].call)
    for key in BATCHED:
        if key in call:
            call[key] = [job.call[key] for job in jobs]
    call["generator"] = [torch.Generator("cpu").manual_seed(job.seed) for job in jobs]
    return call
