"""What the policy of a plan says of a call, and what it is told of it."""

from __future__ import annotations

import math
from typing import Any, Protocol

from hyca_runtime.moment import Moment, Stream
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.policies import Evidence, LearningPolicy, Policy, Surprises
from hyca_runtime.run_tracker import RunTracker
from hyca_runtime.schedule import COMPUTE, Action


class Remembered(Protocol):
    """What is remembered of a run, as far as a policy is concerned.

    Attributes:
        memory: what the policy gave back at the latest call, None before the first.
        computed: how many calls of the run computed all of the network.
    """

    memory: Any

    @property
    def computed(self) -> int: ...


def decide(
    section: NetworkPlan,
    track: RunTracker,
    stream: Stream,
    previous: float,
    run: Remembered,
    evidence: Evidence = None,
    stage: Policy | None = None,
) -> Action:
    """What the step a run is at does for a stream.

    Args:
        previous: where the stream's latest call was.
        run: what is remembered; the policy's memory is renewed.
        evidence: see `Policy.decide`.
        stage: who decides, if not the plan's policy, on whose behalf and with whose memory.
    """
    if track.undecided:
        return COMPUTE
    policy, palette = stage or section.decider, section.schedule.palette
    before = section.decider.begin() if run.memory is None else run.memory
    moment = _moment(section, track, stream, previous)
    action, run.memory = policy.decide(before, moment, section.schedule, evidence)
    if action.computes and run.computed >= _most(section, track.density):
        action = next((other for other in palette if not other.computes), COMPUTE)
    return action


def _most(section: NetworkPlan, density: float) -> float:
    """How many calls may compute: of a run of more steps than the plan has, as large a share of them."""
    most = section.policy.max_computed if section.policy is not None else None
    return math.inf if most is None else math.floor(most * max(1.0, density))


def learns(section: NetworkPlan, track: RunTracker, stream: Stream, previous: float, run: Remembered) -> bool:
    """Whether the policy is to be told of the call that it decided about."""
    if track.undecided or not isinstance(section.decider, LearningPolicy) or run.memory is None:
        return False
    return section.decider.wants(run.memory, _moment(section, track, stream, previous))


def learn(
    section: NetworkPlan, track: RunTracker, stream: Stream, previous: float, run: Remembered, surprises: Surprises
) -> None:
    """Tell the policy how far forecasts of a computed call would have been off; its memory is renewed.

    Args:
        previous: where the stream's call before was.
    """
    policy = section.decider
    if isinstance(policy, LearningPolicy) and run.memory is not None:
        run.memory = policy.learn(run.memory, _moment(section, track, stream, previous), surprises)


def _moment(section: NetworkPlan, track: RunTracker, stream: Stream, previous: float) -> Moment:
    return Moment(track.run, track.position, previous, section.schedule.num_steps, *stream)
