"""What a prompt that nobody has seen agrees at least, with a probability: split conformal prediction, one-sided.

Let :math:`a_1 \\dots a_n` be the agreements of prompts that the plan was made without and :math:`a` that of a new one,
all exchangeable (drawn in the same way, in an order that says nothing), :math:`a_{(k)}` the k-th smallest of the n.
:math:`a < a_{(k)}` if and only if fewer than k of the n are at or below :math:`a`. At most k of the n + 1 are like that
among all of them, and each of them is the new one with the same chance:

.. math:: P(a < a_{(k)}) \\le \\frac{k}{n + 1}, \\qquad k = \\lfloor (n + 1) (1 - \\mathrm{level}) \\rfloor,

with equality where no two are equal; this k is the largest that leaves out no more than 1 - level. Nothing is assumed
of how agreements are distributed (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005; Lei,
G'Sell, Rinaldo, Tibshirani and Wasserman, Distribution-Free Predictive Inference for Regression, JASA 2018, arXiv
1604.04173, theorem 2.2).

The probability is marginal: over the n prompts and the new one together. What share of all prompts a bound covers that
has been made depends on its n prompts; it is one minus the k-th smallest of n uniform numbers, so its distribution is
Beta(n + 1 - k, k) for independent prompts without ties (Vovk, Conditional validity of inductive conformal predictors,
2012, arXiv 1209.2673), and never lower with ties.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.9


def new_prompt_bound(values: Sequence[float], groups: Sequence[int], level: float = LEVEL) -> float | None:
    """Least agreement of a new prompt's sample, with probability `level`; None of fewer than `fewest_prompts`.

    Args:
        values: agreement of every sample; NaN counts as the worst.
        groups: the number of every sample's prompt, see `worst_of_prompts`.
    """
    worst = np.sort(worst_of_prompts(values, groups))
    rank = bound_rank(len(worst), level)
    return float(worst[rank - 1]) if rank and np.isfinite(worst[rank - 1]) else None


def worst_of_prompts(values: Sequence[float], groups: Sequence[int]) -> NDArray[np.float64]:
    """The worst sample of every prompt, ``(prompt,)``.

    Samples of one prompt are related, so prompts are what is exchangeable. A bound of the worst holds all the more for
    a single sample of a new prompt, and where some prompts were drawn more often than others.
    """
    numbers, prompts = np.unique(np.asarray(groups), return_inverse=True)
    worst = np.full(len(numbers), np.inf)
    np.minimum.at(worst, prompts, np.nan_to_num(np.asarray(values, np.float64), nan=-np.inf))
    return worst


def bound_rank(prompts: int, level: float) -> int:
    """Which of the agreements of so many prompts bounds a new one: k, counted from the worst; 0 for none."""
    return math.floor((prompts + 1) * (1 - _exact(level)))


def fewest_prompts(level: float) -> int:
    """How many prompts a bound takes: with k = 1 the condition is n >= level / (1 - level)."""
    return math.ceil(_exact(level) / (1 - _exact(level)))


def _exact(level: float) -> Fraction:
    """The decimal number as written: of floats, ten times 1 - 0.9 is below 1."""
    return Fraction(str(level))
