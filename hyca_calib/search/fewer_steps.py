"""What the sampler alone does in as few steps as a plan costs: whether anything is gained at that cost."""

from dataclasses import asdict, dataclass
from typing import Any, Self

from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.quality.metrics import log_error
from hyca_calib.records.console import say
from hyca_calib.search.options import FEW_STEPS
from hyca_calib.search.problem import Problem
from hyca_calib.search.rollout_error import mean_psnr
from hyca_runtime.errors import TraceError, WorkloadError
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan import Plan

FEWER = "fewer_steps"
"""Where a plan's provenance has it."""


@dataclass(frozen=True)
class FewerSteps:
    """The full sampler in fewer steps, beside a plan that costs no less.

    Attributes:
        steps: as many as the plan pays for.
        latent_psnr_db, plan_latent_psnr_db: to the full run, on the select split.
    """

    steps: int
    latent_psnr_db: float
    plan_latent_psnr_db: float

    @property
    def gains(self) -> bool:
        return self.plan_latent_psnr_db > self.latent_psnr_db

    @property
    def told(self) -> dict[str, Any]:
        """For the provenance of a plan."""
        return {FEWER: asdict(self)}

    @classmethod
    def told_in(cls, plan: Plan) -> Self | None:
        """What a plan says of it."""
        found = plan.provenance.get(FEWER)
        return cls(**found) if isinstance(found, dict) and set(found) == set(cls.__dataclass_fields__) else None

    def __str__(self) -> str:
        ours, theirs = self.plan_latent_psnr_db, self.latent_psnr_db
        both = f"latent PSNR {ours:.2f} dB, {self.steps} steps of the sampler alone {theirs:.2f} dB"
        if self.gains:
            return f"{ours - theirs:.1f} dB gained over fewer steps: {both}"
        return f"nothing can be gained at this cost: {both}; take those, or allow more"


def fewer_steps(pipe: Any, problem: Problem, section: NetworkPlan, budget: Budget) -> FewerSteps | None:
    """The comparison, for a plan of few steps whose cost and agreement are known; else None.

    In as many steps as the plan costs, or as the budget allows where the plan costs less.

    Cost: a run of fewer steps for each sample of the select split.
    """
    ratio, quality = section.flops_ratio, section.quality
    if problem.trace.num_steps > FEW_STEPS or not ratio or quality is None:
        return None
    samples = problem.samples("select")
    allowed = budget.share if budget.share is not None and budget.measure == "flops" else 0.0
    steps = max(1, int(samples.num_steps * max(1 / ratio, allowed) + 1e-6))
    if steps >= samples.num_steps:
        return None
    try:
        latents = sample_latents(pipe, samples.jobs, steps, len(samples.jobs))
    except (TraceError, WorkloadError) as error:  # a pipeline need not run in any number of steps
        say(f"not compared with the sampler alone in {steps} steps: {error}")
        return None
    lost = log_error(latents, samples.latents.to(latents.device)).mean().item()
    return FewerSteps(steps, round(mean_psnr(lost, samples), 3), round(quality.psnr_db, 3))
