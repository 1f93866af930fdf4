"""What a plan says of the model and the times it is for, and how well it did."""

from __future__ import annotations

from typing import Literal

from hyca_runtime.plan_part import PlanPart


class ModelFingerprint(PlanPart):
    """What a model must look like for the plan to fit.

    Attributes:
        transformer: class name of the network.
        config_digest: SHA-256 of its configuration.
    """

    transformer: str
    config_digest: str


class TimeGrid(PlanPart):
    """The time grid the plan was made for.

    Attributes:
        scheduler: class name, for people.
        timesteps: what the network is called with on each step, in its own unit.
        axis: the time axis of the solvers: "step", "sigma" or "log_snr".
        axis_times: position of each step on that axis.
        scheduler_timesteps: the scheduler's own timesteps on those steps, where it says them.
    """

    scheduler: str
    timesteps: tuple[float, ...]
    scheduler_timesteps: tuple[float, ...] | None = None
    axis: str
    axis_times: tuple[float, ...]

    def is_at(self, step: int, timestep: float, rounding: float) -> bool:
        """Whether the network is called with `timestep`, known up to relative `rounding`, on `step`."""
        if step >= len(self.timesteps):
            return False
        return abs(self.timesteps[step] - timestep) <= rounding * max(abs(self.timesteps[step]), 1e-6)


class Quality(PlanPart):
    """Agreement with the full run, measured by rollouts on one split: PSNR of the final latents, before a decoder."""

    split: Literal["fit", "select", "test"]
    num_samples: int
    psnr_db: float
