"""Runs of a policy on evidence that is known without a network."""

from collections.abc import Sequence

from pydantic import BaseModel

from hyca_calib.search.step_caches.rule import STACK, Rule
from hyca_calib.search.step_caches.stack import Stack
from hyca_runtime.moment import Moment
from hyca_runtime.policies import LearningPolicy, Policy
from hyca_runtime.schedule import Schedule


class SampleRun(BaseModel, frozen=True):
    """One run of one sample.

    Attributes:
        share: of the full run's FLOPs.
        computed: steps on which a branch was computed.
        most: computed calls of the branch that has most.
        partly: other steps, on which a branch did the first of the actions that forecast.
        halfway: steps on which some branches were computed and others not.
        psnr_db: of its final latent; None where nothing ran.
    """

    share: float
    computed: tuple[int, ...]
    most: int
    partly: tuple[int, ...] = ()
    halfway: tuple[int, ...] = ()
    psnr_db: float | None = None


def cheapest_run(stack: Stack, rule: Rule, threshold: float, num_steps: int) -> SampleRun:
    """The run in which nothing that is looked at ever changes; where nothing is, the run."""
    policy = rule.policy(threshold)
    called = {branch: rule.called(branch, num_steps) for branch in rule.branches}
    branches = [_computed(policy, branch, steps, rule.looks, num_steps) for branch, steps in called.items()]
    share = sum(map(len, branches)) / sum(map(len, called.values()))
    steps = tuple(sorted(set().union(*branches)))
    return SampleRun(share=stack.share(share), computed=steps, most=max(map(len, branches)))


def _computed(policy: Policy, branch: str, called: Sequence[int], probes: bool, num_steps: int) -> Sequence[int]:
    """The steps on which a guidance branch is computed, of those on which it is called."""
    schedule, state, found = Schedule.from_steps(num_steps, [0], STACK), policy.begin(), list[int]()
    for before, step in zip((-1, *called), called, strict=False):
        moment = Moment(0, step, before, num_steps, branch)
        action, state = policy.decide(state, moment, schedule, (0.0,) if probes and before >= 0 else None)
        found += [step] if action.computes else []
        if action.computes and isinstance(policy, LearningPolicy) and policy.wants(state, moment):
            state = policy.learn(state, moment, {STACK: (0.0,)} if before >= 0 else {})
    return found
