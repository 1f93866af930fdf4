"""What the leading blocks made in a stream's earlier calls."""

from __future__ import annotations

from torch import Tensor

from hyca_runtime.agreement import ALONE, Agreement
from hyca_runtime.policies import Evidence, Policy, ProbingPolicy
from hyca_runtime.solvers import Aligned

DEPTH = 2
"""Probes of computed steps that are kept."""


def tensors_held(policy: Policy) -> int:
    """How many tensors of a probe's size a stream holds at most."""
    if not isinstance(policy, ProbingPolicy):
        return 0
    return DEPTH + (1 if policy.since == "call" else 2)


class ProbeMemory:
    """The probe that the next is held against, and what the leading blocks added on the newest computed steps."""

    def __init__(self) -> None:
        self._before: Tensor | None = None
        self._live: Tensor | None = None
        self._added: list[Tensor] = []

    def measure(
        self, policy: ProbingPolicy, probe: Tensor, added: Tensor, position: float, ranks: Agreement = ALONE
    ) -> Evidence:
        """What `policy` says of a probe beside an earlier one; waits for the device.

        Args:
            added: what the leading blocks added.
            position: the step of the plan.
            ranks: those that must find the same.
        """
        seen, before = policy.look(probe.detach(), added.detach(), position).clone(), self._before
        if policy.since == "call":
            self._before = seen
        else:
            self._live = seen
        if before is None or before.shape != seen.shape:
            return None
        return tuple(ranks.mean(policy.measure(seen, before)).tolist())

    def keep(self, added: Tensor) -> None:
        """Remember what the leading blocks made and added on a computed step."""
        if self._live is not None:
            self._before, self._live = self._live, None
        self._added = [added.detach().clone(), *self._added[: DEPTH - 1]]

    def weights(self, solver: Aligned, added: Tensor) -> Tensor | None:
        """Weights ``(2, sample)`` of a forecast; None with fewer than two computed steps."""
        if len(self._added) < DEPTH or self._added[-1].shape != added.shape:
            return None
        return solver.probed(added.detach(), *self._added)

    def clear(self) -> None:
        """Forget everything."""
        self._before, self._live, self._added = None, None, []

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self._before, self._live, *self._added) if tensor is not None)
