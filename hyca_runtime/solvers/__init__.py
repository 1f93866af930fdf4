"""The solvers that ship with HyCa; importing this package registers them."""

from hyca_runtime.solvers.adams_bashforth import AdamsBashforth
from hyca_runtime.solvers.adams_moulton import AdamsMoulton
from hyca_runtime.solvers.aligned import Aligned
from hyca_runtime.solvers.base import (
    AdaptiveSolver,
    ClosedFormSolver,
    Instant,
    Solver,
    register,
    solver_from_spec,
    solvers,
)
from hyca_runtime.solvers.bdf import BDF2, BDF3
from hyca_runtime.solvers.dynamic_mode import DynamicMode
from hyca_runtime.solvers.exponential import Exponential
from hyca_runtime.solvers.fitted import Fitted
from hyca_runtime.solvers.fitted_to_past import FittedToPast
from hyca_runtime.solvers.foca import FoCa
from hyca_runtime.solvers.hermite import Hermite
from hyca_runtime.solvers.hold import Hold
from hyca_runtime.solvers.increment import Increment
from hyca_runtime.solvers.mixture import TapTable, mixed_rows, rows_at, tap_table
from hyca_runtime.solvers.newton import Newton
from hyca_runtime.solvers.runge_kutta import RungeKutta
from hyca_runtime.solvers.taylor import Taylor

__all__ = [
    "BDF2",
    "BDF3",
    "AdamsBashforth",
    "AdamsMoulton",
    "AdaptiveSolver",
    "Aligned",
    "ClosedFormSolver",
    "DynamicMode",
    "Exponential",
    "Fitted",
    "FittedToPast",
    "FoCa",
    "Hermite",
    "Hold",
    "Increment",
    "Instant",
    "Newton",
    "RungeKutta",
    "Solver",
    "TapTable",
    "Taylor",
    "mixed_rows",
    "register",
    "rows_at",
    "solver_from_spec",
    "solvers",
    "tap_table",
]
