"""Samples on which all methods are measured, each once: what was measured is kept in files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from hyca_calib.bench.notebook import Notebook
from hyca_calib.evaluate import Run, run_untimed
from hyca_calib.models import weights_digest
from hyca_calib.peers import Peer
from hyca_calib.peers.score import Score, exact_psnr, score
from hyca_calib.provenance import versions
from hyca_calib.rollout import sample_images
from hyca_calib.science.chapter import Context
from hyca_calib.workload import Job
from hyca_runtime.attach.points import find_transformer

__all__ = ["Ground"]

FINER = 4
"""Steps of the run that stands for the exact solution, over those of the full run."""


@dataclass(frozen=True)
class Ground:
    """Jobs with their full runs.

    Attributes:
        batch: samples in one pipeline call.
        full: every step computed.
        exact: pictures of the first jobs from `FINER` times the steps.
        notes: what was measured.
    """

    pipe: Any
    jobs: tuple[Job, ...]
    batch: int
    full: Run
    exact: Tensor
    notes: Notebook

    @classmethod
    def of(cls, context: Context, jobs: Sequence[Job], folder: Path, num_exact: int) -> Ground:
        """The full runs of `jobs`, and finer ones of the first `num_exact`, sampled unless `folder` has them."""
        folder.mkdir(parents=True, exist_ok=True)
        pipe, steps, batch = context.pipe, context.workload.num_steps, context.problem.trace.attributes["batch"]
        drawn = json.dumps([(job.seed, job.call) for job in jobs], sort_keys=True)
        facts = {
            "samples": hashlib.sha256(drawn.encode()).hexdigest(),
            "num_exact": num_exact,
            "steps": steps,
            "batch": batch,
            "weights": weights_digest(find_transformer(pipe)),
            "versions": versions(),
        }
        path, asked = folder / "full.safetensors", json.dumps(facts, sort_keys=True)
        if not _made_for(path, asked):
            full = run_untimed(pipe, jobs, steps, batch, nullcontext)
            exact, _ = sample_images(pipe, jobs[:num_exact], FINER * steps, batch)
            flops = torch.tensor(full.flops, dtype=torch.float64)
            tensors = {"images": full.images, "latents": full.latents, "exact": exact, "flops": flops}
            whole = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
            cut = path.with_name(f"{path.name}.partial")
            save_file(whole, cut, {"facts": asked})
            cut.replace(path)
        with safe_open(path, "pt") as kept:
            found = {name: kept.get_tensor(name) for name in kept.keys()}  # noqa: SIM118  (no mapping)
        full = Run(found["images"], found["latents"], float("nan"), found["flops"].item())
        return cls(pipe, tuple(jobs), batch, full, found["exact"], Notebook(folder, facts))

    @property
    def full_exact_db(self) -> tuple[float, ...]:
        """PSNR of the full runs to the finer ones."""
        return exact_psnr(self.full.images, self.exact)

    def score(self, peer: Peer, settings: str = "", measure: Callable[..., Score] = score) -> Score:
        """The peer's score, measured unless it is known.

        Args:
            settings: what the peer's name does not say, such as a digest of a plan.
            measure: `score`, or `score_or_error` for methods that may fail.
        """
        make = partial(measure, self.pipe, peer, self.jobs, self.batch, self.full, self.exact)
        return self.notes.recall(Score, peer.name, make, called_with=peer.steps, settings=settings)


def _made_for(path: Path, facts: str) -> bool:
    if not path.exists():
        return False
    with safe_open(path, "pt") as kept:
        return bool((kept.metadata() or {}).get("facts") == facts)
