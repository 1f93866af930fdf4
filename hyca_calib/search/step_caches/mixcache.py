"""MixCache, arXiv 2508.12691: step, guidance branch or blocks are reused, whichever matters least."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import nn

from hyca_calib.pipelines.workload import Job
from hyca_calib.search.kept_runs import Rows, measured
from hyca_calib.search.problem import Problem
from hyca_calib.search.sources import MIXCACHE
from hyca_calib.search.step_caches.impact import effects
from hyca_calib.search.step_caches.rule import Progress, Rule
from hyca_runtime.attach.points import SIDE_LIST, find_blocks
from hyca_runtime.errors import AttachError
from hyca_runtime.fit import UNPARTED
from hyca_runtime.forecast import Forecast
from hyca_runtime.point import CachePoint, parse_point
from hyca_runtime.policies import MixedGranularity
from hyca_runtime.policies.mixed_granularity import BLOCK, BRANCH, OUTPUT, STEP
from hyca_runtime.schedule import Action

KEPT = "impacts.json"
SAMPLES = 4
"""Of the fit split, for the impacts."""
EASIER = ((2, 2, 6), (2, 4, 8), (2, 8, 16), (2, 32, 64))
"""Warm-up, first and longest interval, for budgets beyond what the first ones allow."""

NETWORK_OUTPUT = parse_point("output")


@dataclass(frozen=True)
class MixCache(Rule):
    """The settings of MixCache, but the threshold.

    Attributes:
        span: path of the blocks that may be reused, "" for none.
        leader, followers: the guidance branch that is computed where the others are reused, and these; None and none
            where that is not to be had.
        uses: its granularities.
        lacks: why one is not to be had.
        impact: of all that are, see `MixedGranularity`; one is worth as much as another until fitted.
        warmup, initial, longest: leading steps that are computed, and the interval between computed steps.
        output: the network's, as the trace has it if it does.
    """

    span: str
    leader: str | None
    followers: tuple[str, ...]
    uses: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    impact: tuple[tuple[str, float], ...] = ()
    warmup: int = 4
    initial: int = 2
    longest: int = 6
    output: CachePoint = NETWORK_OUTPUT
    preset: ClassVar[str] = MIXCACHE

    @classmethod
    def released(cls, network: nn.Module, problem: Problem) -> tuple[Self, ...]:
        """The rule as it suits a network and its guidance: with all granularities, with one of the finer ones, and
        without, for budgets that these leave no room for."""
        kind, trace, leader = type(network).__name__, problem.trace, None
        span = middle_blocks(network)
        lacks = [] if span else [f"no block granularity: {kind} has no list of two blocks or more"]
        try:
            leader = leading_branch(kind, trace.branches, trace.guidance, trace.stacked)
        except AttachError as error:
            lacks.append(f"no branch granularity: {error}")
        followers = () if leader is None else tuple(branch for branch in trace.branches if branch != leader)
        finer = {BRANCH: leader is not None, BLOCK: bool(span)}
        there = [granularity for granularity, has in finer.items() if has]
        chosen = [there, *([one] for one in there if len(there) > 1), *([[]] if there else [])]
        output = next((point for point in trace.points if point.kind == "output"), NETWORK_OUTPUT)
        return tuple(cls(span, leader, followers, (STEP, *uses), tuple(lacks), output=output) for uses in chosen)

    @property
    def probes(self) -> int:
        return 0

    @property
    def spare(self) -> bool:
        return self.uses == (STEP,) != tuple(self._there)

    @property
    def notes(self) -> tuple[str, ...]:
        return self.lacks

    @property
    def lead(self) -> str | None:
        return self.leader if BRANCH in self.uses else None

    @property
    def others(self) -> tuple[str, ...]:
        return self.followers if BRANCH in self.uses else ()

    @property
    def branches(self) -> tuple[str, ...]:
        return ("",) if self.lead is None else (self.lead,)

    @property
    def _there(self) -> Mapping[str, CachePoint]:
        """The point of each granularity that is to be had."""
        found = {STEP: self.output, **({} if self.leader is None else {BRANCH: self.output})}
        return {**found, **({BLOCK: parse_point(f"span:{self.span}:residual")} if self.span else {})}

    @property
    def points(self) -> Mapping[str, CachePoint]:
        block = {BLOCK: self._there[BLOCK]} if BLOCK in self.uses else {}
        return {**block, OUTPUT: self._there[STEP]}

    @property
    def actions(self) -> tuple[Action, ...]:
        return tuple(Action(forecast=(name,)) for name in self.points)

    def forecast(self, channels: int, numel: int | None = None, name: str = OUTPUT) -> Forecast:
        made = super().forecast(channels, numel, name)
        lead = self.lead if name == OUTPUT else None
        return made if lead is None else made.model_copy(update={"against": dict.fromkeys(self.others, lead)})

    def policy(self, threshold: float) -> MixedGranularity:
        known = dict(self.impact) or dict.fromkeys(self._there, 1.0)
        impact = {granularity: known[granularity] for granularity in self.uses}
        return MixedGranularity(
            threshold, impact, self.lead, warmup=self.warmup, initial=self.initial, longest=self.longest
        )

    def easier(self) -> tuple[Self, ...]:
        return (self, *(replace(self, warmup=w, initial=first, longest=most) for w, first, most in EASIER))

    def fitted(self, pipe: Any, problem: Problem, folder: Path, on_progress: Progress) -> Self:
        def measure(job: Job) -> Rows:
            return effects(pipe, problem, self._there, self.leader, job)

        jobs, of = problem.workload.of("fit")[:SAMPLES], f"{problem.identity}, impacts at {self.span}, {self.leader}"
        found = measured(folder / KEPT, of, jobs, measure, on_progress)
        impact = {granularity: statistics.fmean(run[granularity][0][0] for run in found) for granularity in self._there}
        return replace(self, impact=tuple((of, max(value, 1e-12)) for of, value in impact.items()))


def middle_blocks(network: nn.Module) -> str:
    """The span of as many blocks as half of the network's, in the middle of its longest list, where that has more than
    one; else ""."""
    every = [place.path.rpartition(".")[0] for place in find_blocks(network)]
    owners = [owner for owner in every if not SIDE_LIST.search(owner)]
    longest = max(dict.fromkeys(owners), key=owners.count)
    size = owners.count(longest)
    held = min((len(owners) + 1) // 2, size - 1)
    first = (size - held + 1) // 2
    return f"{longest}.{first}..{longest}.{first + held - 1}" if held else ""


def leading_branch(network: str, branches: list[str], guidance: tuple[float, ...], stacked: int) -> str:
    """The guidance branch with the largest weight.

    Raises:
        AttachError: the others cannot be forecast from it in the same step.
    """
    if len(branches) < 2:
        raise AttachError("there is one guidance branch")
    if not guidance:
        raise AttachError("how guidance weighs its branches is not known from the trace")
    if stacked > 1 and network in UNPARTED:
        raise AttachError(f"calls of a {network} hold all branches and cannot be cut along their batch")
    lead = max(zip(branches, guidance, strict=True), key=lambda of: of[1])[0]
    if len(branches) // stacked > 1 and branches.index(lead) >= stacked:
        raise AttachError(f"{lead!r}, which the others would follow, is called after {branches[0]!r}")
    return lead
