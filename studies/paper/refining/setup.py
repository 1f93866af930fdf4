"""What every refinement shares: one schedule, equal iterations, every result kept on disk."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import SPLITS
from hyca_calib.quality.metrics import log_error
from hyca_calib.search.assemble import build_section
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.options import Refinement
from hyca_calib.search.preconditioner import preconditioned
from hyca_calib.search.problem import Samples
from hyca_calib.search.refine import refine_taps
from hyca_calib.search.refinement_task import RefinementTask
from hyca_calib.search.rollout_error import to_db
from hyca_calib.search.rows import plan_taps, with_taps
from hyca_calib.search.settings import Settings
from hyca_runtime import Plan, apply_plan
from hyca_runtime.network_plan import NetworkPlan
from studies.paper.chapter import Context
from studies.paper.rollouts import optimum

Objective = Callable[[list[int]], Tensor]
"""The loss of some of the fit samples."""
Parameters = tuple[Tensor, Callable[[Tensor], Tensor]]
"""Where a refinement starts, and the way from there to taps ``(predicted step, depth, channel)``."""
KEPT = "whitened"
"""The folder of results; those in plain taps lie in another."""


@dataclass(frozen=True)
class RefinementSetup:
    """What every refinement of the chapter shares.

    Attributes:
        candidate, section: the offline optimum at the budget, with fitted taps.
        start: its taps, one row for every channel, ``(predicted step, depth, channel)``.
        fit, select, test: samples; `test` is only judged.
    """

    context: Context
    candidate: Candidate
    section: NetworkPlan
    start: Tensor
    fit: Samples
    select: Samples
    test: Samples
    settings: Refinement

    def on(self, candidate: Candidate) -> Self:
        """The same for another schedule."""
        section = build_section(candidate)
        return replace(self, candidate=candidate, section=section, start=_taps(section))

    def refined(
        self,
        name: str,
        parameters: Parameters | None = None,
        objective: Callable[[], Objective] | None = None,
        prompts: int | None = None,
        iterations: int | None = None,
    ) -> dict[str, Any]:
        """Refine the taps and judge on the test split; a result on disk is read instead.

        Args:
            parameters: where to start, and the way to taps; `own_coordinates` by default.
            objective: makes one for `refine_taps`.
            prompts: refine on that many of the fit samples.
        """
        fit = self.fit[:prompts]

        def work() -> dict[str, Any]:
            begin, expand = parameters or self.own_coordinates
            begun = time.monotonic()
            best, account = refine_taps(
                RefinementTask(self.context.pipe, self.section, begin, expand, fit, self.select),
                replace(self.settings, iterations=iterations or self.settings.iterations),
                self._file(name, "safetensors"),
                self.context.seed,
                objective=objective() if objective else None,
            )
            facts = {"name": name, "numbers": best.numel(), "seconds": time.monotonic() - begun, **account}
            taps = expand(best)
            save_file({"taps": taps.contiguous()}, self._file(name, "taps.safetensors"))
            facts["fit_db"] = self.judge(taps, fit[: len(self.test.jobs)])["latent_db"]
            return facts | self.judge(taps, self.test)

        found: dict[str, Any] = self.context.kept(f"{KEPT}/{name}", work)
        return found

    @property
    def own_coordinates(self) -> Parameters:
        """Zeros, and the way from `preconditioned` coordinates around `start` to taps."""
        start = self.start.double().numpy()
        gram, places = self.context.problem.regressions(self.section)
        return torch.zeros_like(self.start), preconditioned(start, places, gram)

    def taps_of(self, name: str) -> Tensor:
        """What a refinement that is on disk found."""
        return load_file(self._file(name, "taps.safetensors"))["taps"]

    def _file(self, name: str, kind: str) -> Path:
        return self.context.folder / KEPT / f"{name}.{kind}"

    def judge(self, taps: Tensor, samples: Samples) -> dict[str, list[float]]:
        """PSNR of each sample: of the final latent, and of the picture, its values clipped to [-1, 1]."""
        section = with_taps(self.section, taps.double().numpy())
        with apply_plan(self.context.pipe, Plan(name="refinement", sections=(section,)), on_mismatch="error"):
            ours = sample_latents(self.context.pipe, samples.jobs, samples.num_steps, 8)
        errors = {
            "latent_db": log_error(ours, samples.latents),
            "picture_db": log_error(ours.clamp(-1, 1), samples.latents.clamp(-1, 1)),
        }
        return {key: [to_db(error) for error in found.tolist()] for key, found in errors.items()}


def refinement_setup(context: Context) -> RefinementSetup:
    """The setup at the usual budget; `context.quick` needs seconds."""
    quick, candidate = context.quick, optimum(context, Settings())
    section = build_section(candidate)
    fit, select, test = (context.problem.samples(split) for split in SPLITS)
    settings = Refinement(minutes=600, iterations=2 if quick else 40, batch=2 if quick else 8, evaluations=4)
    judged = test[: 2 if quick else 24]
    return RefinementSetup(context, candidate, section, _taps(section), fit, select, judged, settings)


def _taps(section: NetworkPlan) -> Tensor:
    return torch.from_numpy(plan_taps(section)).float()
