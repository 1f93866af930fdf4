"""What the leading blocks made in a stream's earlier calls."""

from __future__ import annotations

from torch import Tensor

from hyca_runtime.policies import Evidence, ProbingPolicy
from hyca_runtime.solvers import Aligned

DEPTH = 2
"""Probes of computed steps that are kept."""


class ProbeMemory:
    """The latest probe, and what the leading blocks added on the newest computed steps."""

    def __init__(self) -> None:
        self._latest: Tensor | None = None
        self._added: list[Tensor] = []

    def measure(self, policy: ProbingPolicy, probe: Tensor) -> Evidence:
        """What `policy` says of a probe beside the one before; waits for the device."""
        before, self._latest = self._latest, probe.detach().clone()
        if before is None or before.shape != probe.shape:
            return None
        return tuple(policy.measure(probe, before).tolist())

    def keep(self, added: Tensor) -> None:
        """Remember what the leading blocks added on a computed step."""
        self._added = [added.detach().clone(), *self._added[: DEPTH - 1]]

    def weights(self, solver: Aligned, added: Tensor) -> Tensor | None:
        """Weights ``(2, sample)`` of a forecast; None with fewer than two computed steps."""
        if len(self._added) < DEPTH or self._added[-1].shape != added.shape:
            return None
        return solver.probed(added.detach(), *self._added)

    def clear(self) -> None:
        """Forget everything."""
        self._latest, self._added = None, []

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self._latest, *self._added) if tensor is not None)
