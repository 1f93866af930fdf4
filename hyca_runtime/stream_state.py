"""What the calls of one guidance branch remember of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from hyca_runtime.agreement import ALONE, Agreement
from hyca_runtime.attach.arrival import Arrival
from hyca_runtime.calls import Call
from hyca_runtime.feature import Signature
from hyca_runtime.finite_guard import FiniteGuard
from hyca_runtime.history import History
from hyca_runtime.policies import Evidence, Policy, ProbingPolicy
from hyca_runtime.probes import ProbeMemory
from hyca_runtime.report import StreamCount

PASSED = "a step of the plan passed without a call"
"""Why a branch lacks features that began with its run and forgot none."""


class StreamState:
    """What one guidance branch remembers of the present run.

    Args:
        ranks: those that must decide as it does.

    Attributes:
        branch, part: whose calls they are.
        histories: the features of each point, by its name.
        previous: the position of its latest call, -1 before the first.
        step: the number of the run's step for which it needs no feature any more.
        probes: what its leading blocks made, where a policy looks at that.
        probes_behind: what blocks made that a second stage of the policy looks at.
        memory: what the plan's policy remembers, None before it was asked.
        cause: why its history is shorter than the plan wants, if it is.
        stacked: whether its calls hold as many branches as the plan says.
        filled_cache: whether its latest computed call also filled a cache of keys and values. Such a call may
            have more tokens than the next, before theirs.
    """

    def __init__(self, branch: str, part: int, depths: Mapping[str, int], cause: str, ranks: Agreement = ALONE) -> None:
        self.branch, self.part = branch, part
        self.histories = {name: History(depth) for name, depth in depths.items()}
        self.count = StreamCount()
        self.guard = FiniteGuard(ranks)
        self._ranks = ranks
        self.previous = -1.0
        self.step = 0
        self.cause = cause
        self.memory: Any = None
        self.probes, self.probes_behind = ProbeMemory(), ProbeMemory()
        self.stacked = True
        self.filled_cache = False
        self._signature: Signature = ()

    def come_to(self, position: float) -> float:
        """Move to a step; returns the position of the call before, -1 at the first."""
        previous, self.previous = self.previous, position
        if 0 <= previous < position - 1:
            self.cause = PASSED
        return previous

    def see(self, shapes: Signature) -> bool:
        """Forget the features if those of a call with these shapes are not comparable; returns whether they are new."""
        before, self._signature = self._signature, shapes
        if before and shapes != before and not self.filled_cache:
            self.forget("the shapes of what it is called with changed")
        return shapes != before

    def forget(self, cause: str) -> None:
        self.clear()
        self.guard.forget()
        self.cause = cause

    def measure(self, policy: Policy, probes: ProbeMemory, probe: Tensor, added: Tensor) -> Evidence:
        """What a policy that probes says of a probe, and of what it added to its input; waits for the device.

        Args:
            probes: those that it is held against.
        """
        if not isinstance(policy, ProbingPolicy):
            return None
        self.count.waits += 1
        return probes.measure(policy, probe, added, self.previous, self._ranks)

    def look(self, policy: Policy, arrival: Arrival, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Evidence:
        """What a policy says of the input of a call, if it looks at that; waits for the device then."""
        if not isinstance(policy, ProbingPolicy) or policy.blocks:
            return None
        seen = arrival.of(policy.looks_at, args, kwargs)
        return None if seen is None else self.measure(policy, self.probes, seen, seen)

    @property
    def computed(self) -> int:
        """Calls of the run on which all of the network ran."""
        return self.count.computed

    @property
    def _features(self) -> list[History | ProbeMemory]:
        return [*self.histories.values(), self.probes, self.probes_behind]

    @property
    def nbytes(self) -> int:
        return sum(remembered.nbytes for remembered in self._features)

    def clear(self) -> None:
        """Give the memory of all features back."""
        for remembered in self._features:
            remembered.clear()


class Turn(NamedTuple):
    """Who is decided about in a call.

    Attributes:
        previous: the position of its call before, -1 at the first.
        anew: whether the call has other shapes than that, or is the first.
    """

    call: Call
    state: StreamState
    previous: float
    anew: bool
