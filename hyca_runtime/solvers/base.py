r"""What a solver is.

The network was computed at times :math:`t_0 > t_1 > \dots` (newest first, `past`) and its feature
there is :math:`F(t_i)`. A solver forecasts the feature at a later `target` time as a weighted sum

.. math:: \hat F(t) = \sum_i w_i(t; t_0, t_1, \dots)\, F(t_i),

so it *is* a row of weights. Anything linear in the history is such a row: reuse, Taylor and Newton
extrapolation, Adams-Bashforth, BDF, least-squares taps. All weights depend on the real, uneven
times; a shift or a change of unit of time leaves them alone.

Life cycle: a solver is a frozen dataclass of settings. `rows` is asked once per predicted step when
a plan is loaded or judged, never while sampling. With fewer entries than `depth` a solver lowers its
order by itself; with one entry every closed-form solver is reuse.

An `AdaptiveSolver` also has rows that depend on the features, one for each group and sample; the
runtime asks for those while sampling (`hyca_runtime.adaptive`), everyone else sees its closed form.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from hyca_runtime.group import SolverSpec
from hyca_runtime.registry import Registry
from hyca_runtime.settings import check_settings

solvers: Registry[type[Solver]] = Registry("solver", "hyca.solvers")


@dataclass(frozen=True)
class Instant:
    """A step of the sampler: its index and its time on the plan's time axis."""

    step: int
    time: float


class Solver(ABC):
    """Base of all solvers; subclasses are frozen dataclasses.

    Attributes:
        name: how plans call it.
        depth: how many past features it can use.
        exact_degree: highest degree of polynomials in time it extrapolates without error, -1 for none.
        for_any_past: whether it forecasts from whatever steps of the plan were computed, and not from those alone that
            its schedule says.
    """

    name: ClassVar[str]
    for_any_past: ClassVar[bool] = False

    @property
    @abstractmethod
    def depth(self) -> int: ...

    @property
    def exact_degree(self) -> int:
        return 0

    @abstractmethod
    def rows(self, past: Sequence[Instant], target: Instant) -> np.ndarray:
        """Weights of the past features, newest first.

        Args:
            past: at least one computed step; those beyond `depth` are ignored.
            target: the step to predict.

        Returns:
            float64 with shape ``(min(len(past), depth), width)``; ``width`` is 1, or one column for
            each channel of the group.
        """

    def spec(self) -> SolverSpec:
        """This solver as it stands in a plan."""
        return SolverSpec(name=self.name, configuration=asdict(self))  # type: ignore[call-overload]


class ClosedFormSolver(Solver):
    """A solver that is a formula in the times alone, the same for every channel."""

    for_any_past: ClassVar[bool] = True

    def rows(self, past: Sequence[Instant], target: Instant) -> np.ndarray:
        times = np.array([instant.time for instant in past[: self.depth]], dtype=np.float64)
        if target.time == times[0]:  # an adapted run past the plan's last step; formulas may be 0/0 there
            return np.eye(len(times), 1)
        return self.weights(times, float(target.time))[:, None]

    @abstractmethod
    def weights(self, times: np.ndarray, target: float) -> np.ndarray:
        """Weights ``(k,)`` for past `times` ``(k,)``, newest first, ``1 <= k <= depth``; they sum to 1."""


class AdaptiveSolver(ClosedFormSolver):
    """A solver whose row depends on the features, by their inner products within a group.

    Its `weights` are what it does without features, or with fewer than `depth` of them. Both methods
    run on the device: they must not wait for it, nor mix samples.
    """

    @abstractmethod
    def learn(self, gram: Tensor, times: np.ndarray) -> Tensor:
        """What the features say, asked once after each computed step.

        Args:
            gram: ``(depth - 1, depth - 1, ...)``, inner products of the differences :math:`F_i - F_{i+1}`,
                newest first; the axes behind count samples and groups.
            times: ``(depth,)``, newest first.

        Returns:
            One number for each sample and group, ``(...)``.
        """

    @abstractmethod
    def adapted(self, learnt: Tensor, times: np.ndarray, target: float) -> Tensor:
        """Weights ``(depth, ...)``, newest first, from what was learnt; asked for each predicted step."""


@dataclass(frozen=True)
class OrderedSolver(ClosedFormSolver):
    """A closed form that comes in orders and uses one feature more than its order."""

    order: int = 1
    orders: ClassVar[range]

    def __post_init__(self) -> None:
        if self.order not in self.orders:
            raise ValueError(f"{self.name}: order must be {self.orders[0]} to {self.orders[-1]}, got {self.order}")

    @property
    def depth(self) -> int:
        return self.order + 1


def register(solver: type[Solver]) -> type[Solver]:
    """Class decorator: make a solver known to plans by its name."""
    solvers.add(solver.name, solver)
    return solver


def solver_from_spec(spec: SolverSpec) -> Solver:
    """The solver a plan names.

    Raises:
        HycaError: unknown name.
        ValueError: settings the solver does not take or refuses.
    """
    kind = solvers[spec.name]
    settings: dict[str, Any] = dict(spec.configuration)
    try:
        check_settings(f"solver {spec.name!r}", kind, settings)
        return kind(**settings)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"solver {spec.name!r} does not take {sorted(settings)}: {error}") from error
