r"""Spectrum: features as Chebyshev series over the whole run, fitted by ridge regression.

Han et al. (2026), "Adaptive Spectral Feature Forecasting for Diffusion Sampling Acceleration", arXiv 2603.01623.
With :math:`\tau_s = 2 s / S - 1` for step s of S, the rows :math:`x_s = (T_0(\tau_s), \dots, T_m(\tau_s))` of all steps
computed so far make the matrix X, their features the rows of F, and

.. math:: \hat F(s) = x_s^T (X^T X + \lambda I)^{-1} X^T F,

which is a weighted sum of those features. The authors' release mixes it with a linear extrapolation of the last two,
:math:`w \hat F + (1 - w) \hat F_{lin}`: w = 1 is the paper, 0.5 to 1 what the release recommends. The schedule is the
release's (paper, appendix B.1): W computed steps first, then one at the end of every window of N steps, where N grows
by alpha after each. Published: m = 4, lambda = 0.1, W = 5, N = 2, alpha = 0.75 or 3 (14 or 10 of 50 steps). The port
in stable-diffusion.cpp also computes a last tenth of the run: `last` steps here, 0 in the release. The release's
forecaster can forget all but K features, and is told to keep 100, which is all; where the first features are unlike all
later ones (`demo-class`: their norm falls to a third within three steps) one polynomial through all is far off, so K is
tried, too.

Where ours may differ: the release rounds coefficients, times and features to bfloat16, we do not; it maps steps to
:math:`\tau` with S = 50 whatever the number of steps, we with the real one. The port just named forecasts the output of
the network, we the input of its final norm, as the release does for FLUX.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.polynomial.chebyshev import chebvander
from numpy.typing import ArrayLike

from hyca_calib.baselines.base import Applied, Axis, Family, Settings, Setup, counts, ladder
from hyca_calib.baselines.stepwise import refusal, solver_weights, tabled
from hyca_runtime.solvers import ClosedFormSolver
from hyca_runtime.solvers.newton import lagrange

GROWTHS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.5, 7.0, 10.0, 15.0, 22.0, 33.0)


def growing_windows(num_steps: int, warmup: int, window: float, growth: float, last: int = 0) -> list[int]:
    """Steps that are computed: the first ones, then the last of every window, which grows by `growth` each time.

    Args:
        last: steps at the end that are computed, too.
    """
    computed = list(range(min(warmup, num_steps)))
    step = warmup - 1
    while (step := step + int(window)) < num_steps:
        computed.append(step)
        window = round(window + growth, 3)  # as the release does, lest 2 + 4 * 0.25 fall short of 3
    return sorted({*computed, *range(max(0, num_steps - last), num_steps)})


def chebyshev_row(steps: ArrayLike, target: float, num_steps: int, degree: int, ridge: float) -> np.ndarray:
    """Weights of the features at `steps` in the forecast for step `target`, in the order of `steps`."""
    design, wanted = (chebvander(2 * np.atleast_1d(at) / num_steps - 1.0, degree) for at in (steps, target))
    normal = design.T @ design + ridge * np.eye(degree + 1)
    return np.asarray(wanted[0] @ np.linalg.solve(normal, design.T))


@dataclass(frozen=True)
class SpectrumSolver(ClosedFormSolver):
    """Spectrum's forecast on one run.

    Attributes:
        blend: share of the Chebyshev forecast, the rest is linear extrapolation.
        kept: most computed features that it sees.
    """

    name: ClassVar[str] = "spectrum"
    num_steps: int
    degree: int
    ridge: float
    blend: float
    kept: int

    @property
    def depth(self) -> int:
        return self.kept

    def weights(self, times: np.ndarray, target: float) -> np.ndarray:
        row = self.blend * chebyshev_row(times, target, self.num_steps, self.degree, self.ridge)
        row[:2] += (1 - self.blend) * lagrange(times[:2], target)
        return row


def spectrum_family(pipe: Any, setup: Setup) -> Family:
    """Spectrum with all its settings."""
    num = setup.num_steps

    def apply(pipe: Any, settings: Settings) -> Applied:
        warmup, last = int(settings["W"]), int(settings["last"])
        computed = growing_windows(num, warmup, float(settings["N"]), float(settings["alpha"]), last)
        degree, kept = int(settings["m"]), int(settings["K"])
        solver = SpectrumSolver(num, degree, float(settings["lambda"]), float(settings["w"]), kept)
        return tabled(pipe, solver_weights(solver, num, computed))

    axes = (
        Axis("W", counts(1, num - 1), (5,), closed=True),
        Axis("N", counts(1, num), (2,), closed=True),
        Axis("alpha", (*(a for a in GROWTHS if a < num), float(num)), (0, 0.25, 0.75, 1.5, 3, 7), closed=True),
        Axis("last", counts(0, num - 1), (0,), closed=True),
        Axis("w", (0.25, 0.5, 0.75, 1.0), (0.5, 1.0), closed=True),
        Axis("m", counts(0, num - 1), (4,), closed=True),
        Axis("K", counts(2, num), (num,), closed=True),
        Axis("lambda", ladder(1e-4, 30, 10**0.5), (0.1,)),
    )
    source = "Han et al. 2026, arXiv 2603.01623; rewritten from the paper and the release's schedule"
    return Family("Spectrum", source, axes, apply, num, refused=refusal(pipe))
