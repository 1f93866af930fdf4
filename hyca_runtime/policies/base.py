"""What a policy is: a decision at run time between the actions of a plan.

A policy is content of a plan: a name and settings, no code. It is a frozen dataclass; whatever it must
remember of a run is a state that it is given and gives back, one for each guidance branch of each run. It is
asked on the host, before the network is called, and answers from the moment alone: to look at features would
wait for the device.

A `ProbingPolicy` is asked when the call has run its first blocks, and sees a few numbers that it
measured there. That is one wait for the device at each decision, which the report counts. One that decides in
two stages names who is asked next. Most compute once a change of what is seen there, summed over calls, is
large: `AccumulatedChange`. A `LearningPolicy` is told, when a call has computed all of the network, how far forecasts
of it would have been off.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from hyca_runtime.moment import Moment
from hyca_runtime.plan_part import PlanPart
from hyca_runtime.registry import Registry
from hyca_runtime.schedule import Action, Schedule
from hyca_runtime.settings import check_settings

Evidence = tuple[float, ...] | None
"""One number for each sample."""

Surprises = Mapping[str, tuple[float, ...]]
"""By the name of a point one number for each sample: how far a forecast of it would have been off, relatively."""

policies: Registry[type[Policy]] = Registry("policy", "hyca.policies")


class PolicySpec(PlanPart):
    """A policy by name, with its settings: ``{"name": "careful_end", "configuration": {"steps": 3}}``.

    Attributes:
        max_computed: the most calls of one guidance branch in one run that compute all of the network, whatever the
            policy says; of a run with more steps than the plan's as large a share.
    """

    name: str
    configuration: dict[str, Any] = Field(default_factory=dict)
    max_computed: int | None = Field(default=None, ge=1)


class Policy(ABC):
    """Base of all policies; subclasses are frozen dataclasses.

    Attributes:
        name: how plans call it.
        by_sample: whether its decisions depend on the samples, so that a batch is decided about as a whole.
        joint: whether the guidance branches of a run share one state, since it decides about a step and not about each
            branch for itself. Those of a picture that is denoised in parts are one for each part.
    """

    name: ClassVar[str]
    by_sample: ClassVar[bool] = False
    joint: ClassVar[bool] = False

    def begin(self) -> Any:
        """The state of a guidance branch before its first call in a run, see `joint`; anything but None."""
        return ()

    def check_points(self, places: Mapping[str, str], schedule: Schedule) -> None:
        """Raises ValueError if the plan's points, by name, or what the actions forecast, are not what is decided about.

        By default any are.
        """
        del places, schedule

    @abstractmethod
    def decide(self, state: Any, moment: Moment, schedule: Schedule, evidence: Evidence = None) -> tuple[Action, Any]:
        """What a call does, and the state after it. The state that is given stays as it is.

        Args:
            schedule: the plan's; the action is one of its palette. The first call of a run must compute.
            evidence: what a `ProbingPolicy` measured, one number for each sample; None at the first call of a run, and
                for other policies.
        """

    @staticmethod
    def forecasts(schedule: Schedule) -> Action:
        """The first action of the palette that forecasts."""
        return next(action for action in schedule.palette if not action.computes)

    def spec(self, max_computed: int | None = None) -> PolicySpec:
        """This policy as it stands in a plan."""
        settings: dict[str, Any] = asdict(self)  # type: ignore[call-overload]
        return PolicySpec(name=self.name, configuration=settings, max_computed=max_computed)


class ProbingPolicy(Policy):
    """A policy that looks at what the leading blocks make.

    The plan's points are as `check_points` says.

    Attributes:
        blocks: how many lead, 1 or more, a field of the dataclass; or always 0, see `looks_at`.
        looks_at: what the probe is: what the leading blocks make, or, for a policy of no blocks that decides before the
            call, the "latents" that it is called with or their "embedding".
        since: what a probe is held against, that of the call before of the same branch, or of the latest call that
            computed all of the network.
    """

    blocks: int
    by_sample: ClassVar[bool] = True
    since: ClassVar[Literal["call", "computed"]] = "call"

    @property
    def looks_at(self) -> str:
        return "blocks"

    @property
    def behind(self) -> ProbingPolicy | None:
        """Who decides about the last point, where this one only decided that the first is computed, from what the
        blocks between them add; None where there is one point."""
        return None

    def check_points(self, places: Mapping[str, str], schedule: Schedule) -> None:
        """Raises ValueError if the plan's points, by name, or what the actions forecast, are not what is decided about.

        By default that is one point, what the blocks behind the probe add, or what all blocks add.
        """
        del schedule
        fitting, found = ("trunk:residual", f"behind:{self.blocks}"), list(places.values())
        if len(found) > 1 or found[0] not in fitting:
            raise ValueError(f"policy: {self.name!r} needs one point, one of {fitting}, got {found}")

    def look(self, probe: Tensor, added: Tensor, position: float) -> Tensor:
        """What is compared of a probe, and kept for the next: the probe itself, unless a policy says otherwise.

        Args:
            probe: what the leading blocks make in this call, ``(sample, ...)``.
            added: what they add to what comes into the first, as large.
            position: the step of the plan.
        """
        del added, position
        return probe

    def measure(self, probe: Tensor, before: Tensor) -> Tensor:
        """One number for each sample, ``(sample,)``, on the device: it must not wait for it.

        By default it is the relative change, in the mean of absolute values.

        Args:
            probe: what `look` saw in this call.
            before: what it saw in the call that this one is held against, see `since`.
        """
        probe, before = probe.float().flatten(1), before.float().flatten(1)
        return (probe - before).abs().mean(1) / before.abs().mean(1).clamp_min(1e-12)

    def _check_probe(self, threshold: float) -> None:
        """Raises ValueError if `threshold` is negative, or `blocks` no number of blocks."""
        if not threshold >= 0:
            raise ValueError(f"{self.name}: threshold must be 0 or more, got {threshold}")
        if type(self.blocks) is not int or self.blocks < 1:
            raise ValueError(f"{self.name}: blocks must be a whole number, 1 or more, got {self.blocks}")


class LearningPolicy(Policy):
    """A policy that is told how far forecasts would have been off, whenever a call has computed all of the network.

    That is one wait for the device at each such call that it `wants`, which the report counts, and none at others. It
    decides before a call begins, as others do, by what it made of that in its state. Nothing is told of a run's last
    step.
    """

    by_sample: ClassVar[bool] = True

    def wants(self, state: Any, moment: Moment) -> bool:
        """Whether it is to be told of a call that computes all of the network; of those that it is not, nobody waits.

        Args:
            state: after `decide`.
        """
        del state, moment
        return True

    @abstractmethod
    def learn(self, state: Any, moment: Moment, surprises: Surprises) -> Any:
        """The state after a call that computed all of the network. The state that is given stays as it is.

        Args:
            moment: that of the call, as `decide` was given it.
            surprises: of each point that its branch remembers a feature of, the mean absolute difference between the
                feature that was computed and what the closed forms of the plan make for this step of the branch's own
                past, over the mean absolute value of the computed one. Where a forecast is reuse, that is how far the
                feature has changed since it was computed last.
        """


def register_policy(policy: type[Policy]) -> type[Policy]:
    """Class decorator: make a policy known to plans by its name."""
    policies.add(policy.name, policy)
    return policy


def policy_from_spec(spec: PolicySpec) -> Policy:
    """The policy a plan names.

    Raises:
        HycaError: unknown name.
        ValueError: settings the policy does not take or refuses, or that are not of the types it declares.
    """
    kind = policies[spec.name]
    settings: dict[str, Any] = dict(spec.configuration)
    try:
        check_settings(f"policy {spec.name!r}", kind, settings)
        return kind(**settings)
    except TypeError as error:
        raise ValueError(f"policy {spec.name!r} does not take {sorted(settings)}: {error}") from error
