"""Full runs beyond the trace, for refinement: the fit split's prompts with noise that the trace has not seen.

Rows are fitted on Gram statistics, of which some dozens of samples tell enough. End to end they are refined on final
latents, which costs no more than sampling, and of which more are worth having: see `studies.curves`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import zarr

from hyca_calib.pipelines.pipeline import Pipeline
from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import batches
from hyca_calib.search.problem import Samples
from hyca_calib.trace.store import Trace

FRESH_RUNS = "fresh.zarr"


@dataclass(frozen=True)
class FreshRuns:
    """So many of them, drawn when they are first needed and kept for all budgets.

    Attributes:
        path: a Zarr array of final latents ``(run, ...)``, in float32; an interrupted call goes on from it.
    """

    count: int
    path: Path

    def drawn(self, pipe: Pipeline, trace: Trace, on_share: Callable[[float], None]) -> Samples:
        """All of them whose latents are finite.

        Args:
            trace: whose model, prompts and settings they are of.
            on_share: told the share of them that is there.
        """
        workload = trace.workload()
        jobs = workload.further("fit", self.count)
        kept = self._kept(trace)
        done = cast(int, kept.attrs["done"])
        for batch in batches(jobs[done:], trace.attributes.batch):
            on_share(done / len(jobs))
            latents = sample_latents(pipe, batch, workload.num_steps, len(batch))
            kept[done : done + len(batch)] = latents.cpu().numpy()
            kept.attrs["done"] = done = done + len(batch)
        on_share(1.0)
        latents = torch.from_numpy(np.asarray(kept[: len(jobs)]))
        usable = np.flatnonzero(latents.flatten(1).isfinite().all(1).numpy())
        return Samples(jobs, latents, workload.num_steps)[usable.tolist()]

    def _kept(self, trace: Trace) -> zarr.Array[Any]:
        """The array, of as many runs or more, with the number of those that are done; begun anew if it is of others."""
        of = {"trace": trace.attributes.model_dump(mode="json", include={"model", "workload"})}
        shape = (self.count, *trace.latents_of("select").shape[1:])
        if self.path.exists():
            found = zarr.open_array(self.path, mode="r+")
            if found.attrs["of"] == of:
                found.resize((max(found.shape[0], self.count), *shape[1:]))
                return found
        chunks = (1, *shape[1:])
        return zarr.create_array(
            self.path, shape=shape, chunks=chunks, dtype="float32", attributes={"of": of, "done": 0}, overwrite=True
        )
