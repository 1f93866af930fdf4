"""What a plan says of the model and the times it is for, what its steps cost, and how well it did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

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

    def check(self, steps: int) -> None:
        """Raises ValueError unless there is a time of each kind for each of so many steps, all of the axis apart."""
        kinds = {"timesteps": self.timesteps, "axis_times": self.axis_times}
        if self.scheduler_timesteps is not None:
            kinds["scheduler_timesteps"] = self.scheduler_timesteps
        for label, values in kinds.items():
            if len(values) != steps:
                raise ValueError(f"grid.{label}: expected {steps} values, one per step, got {len(values)}")
        if len(set(self.axis_times)) != steps:
            raise ValueError("grid.axis_times: two steps share one time")

    def is_at(self, step: int, timestep: float, rounding: float) -> bool:
        """Whether the network is called with `timestep`, known up to relative `rounding`, on `step`."""
        if step >= len(self.timesteps):
            return False
        return abs(self.timesteps[step] - timestep) <= rounding * max(abs(self.timesteps[step]), 1e-6)


class Timing(PlanPart):
    """How long steps take on one machine; what they cost in FLOPs is the same on all.

    Attributes:
        device: the name of a GPU, or of a CPU with its threads.
        dtype: how the network's weights were stored.
        batch: samples in each call.
        seconds: of one step of one sample with each action of the palette, all guidance branches together.
    """

    device: str
    dtype: str
    batch: int = Field(ge=1)
    seconds: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.device} in {self.dtype}"


def check_costs(name: str, costs: Sequence[float] | None, computes: Sequence[bool]) -> None:
    """Whether there is a cost for each action of a palette, if any is told.

    Args:
        name: of the field, for messages.
        computes: of each action, whether all of the network runs.

    Raises:
        ValueError: another number of costs, or one that cannot be.
    """
    if costs is None:
        return
    if len(costs) != len(computes):
        raise ValueError(f"{name}: expected {len(computes)} numbers, one per action, got {len(costs)}")
    if any(cost < 0 or (all_of_it and cost == 0) for cost, all_of_it in zip(costs, computes, strict=True)):
        raise ValueError(f"{name}: expected positive numbers, got {list(costs)}")


class Quality(PlanPart):
    """Agreement with the full run on a split that its making saw: PSNR of the final latents, before a decoder."""

    split: Literal["fit", "select", "test"]
    num_samples: int
    psnr_db: float


class NewPromptBound(PlanPart):
    """What a sample of a new prompt agrees at least.

    Attributes:
        least_db: the bound.
        level: probability with which it holds, over these prompts and the new one.
        num_prompts: that it was found with.
    """

    least_db: float
    level: float = Field(gt=0, lt=1)
    num_prompts: int = Field(ge=1)

    def __str__(self) -> str:
        return (
            f"a new prompt {self.least_db:.2f} dB or more with probability {self.level:g} ({self.num_prompts} prompts)"
        )


class Certificate(PlanPart):
    """How well a plan does on samples that its making never saw, each against the model's own full run.

    Attributes:
        content: digest of the plan as it was measured, see `content_digest`; nothing is said of another.
        split, workload, num_samples: which samples; the second is a digest of prompts, seeds and steps.
        metric: what agreement is told as, in dB.
        mean_db, worst_db: over the samples.
        lower_db: lower bound of the mean over prompts; None of few prompts.
        level: probability of such bounds to hold, or of intervals, see `sided`.
        sided: 1 if `lower_db` is a bound of its own, 2 if it is one end of an interval, as in files from before it was
            kept: the latter holds more often than `level` says.
        new_prompt: what is said of prompts beyond these; None of few prompts, and in files from before it was kept.
        flops_ratio, wall_ratio: FLOPs of the networks, and seconds of all that the pipeline does, in the full run over
            those under the plan, as measured; as all that has None by default, not in files from before it was kept.
        weights: digest of the network's weights.
        signature: see `signature_of`; None unless it was asked for.
        device, dtype: as of `Timing`.
        attention: what computes the network's attention.
        versions: of installed libraries, by name.
        commit, date: of the code that measured, and the day.
    """

    content: str
    split: Literal["test"] = "test"
    workload: str
    num_samples: int = Field(ge=1)
    metric: str
    mean_db: float
    worst_db: float
    lower_db: float | None = None
    level: float = Field(gt=0, lt=1)
    sided: Literal[1, 2] = 2
    new_prompt: NewPromptBound | None = None
    flops_ratio: float | None = None
    wall_ratio: float | None = None
    weights: str
    signature: str | None = None
    device: str
    dtype: str
    attention: str | None = None
    versions: dict[str, str]
    commit: str
    date: str

    def __str__(self) -> str:
        bound = "no bound, of so few prompts"
        if self.lower_db is not None:
            bound = f"at least {self.lower_db:.2f} at {100 * self.level:.0f} %"
        new = "" if self.new_prompt is None else f", {self.new_prompt}"
        told = [f"{self.metric} {self.mean_db:.2f} dB ({bound}), worst {self.worst_db:.2f} dB{new}"]
        told += [f"{self.num_samples} {self.split} samples"]
        told += [] if self.flops_ratio is None else [f"{self.flops_ratio:.2f}x fewer FLOPs"]
        told += [] if self.wall_ratio is None else [f"{self.wall_ratio:.2f}x less time"]
        told += [self.device, self.dtype]
        told += [] if self.attention is None else [f"attention {self.attention}"]
        return ", ".join([*told, self.date, *(["signed"] if self.signature else [])])
