r"""What a channel's trajectory looks like, in a few numbers.

Each descriptor is an energy of a linear filter along the steps, so it follows from the Gram matrix
alone: for filter rows D the energy is :math:`\mathrm{tr}(D\, G_c D^T)`, over all tokens and samples.
Ratios are scale-free; energies enter as logarithms. All columns are standardised over channels.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
TINY = 1e-30
ROUNDING = 1e-12  # of a channel's energy: below, a spectrum is rounding noise


def difference_energy(gram: Array, order: int) -> Array:
    r"""Mean energy of the `order`-th backward difference, :math:`\|\nabla^k F_c\|^2`; ``(channel,)``."""
    rows = np.diff(np.eye(gram.shape[1]), n=order, axis=0)  # none where the run has too few steps
    found = np.einsum("ks,cst,kt->c", rows, gram, rows, optimize=True) / max(1, len(rows))
    return np.asarray(np.maximum(found, 0.0))  # rounding may leave a perfectly smooth channel below zero


def energy(gram: Array) -> Array:
    r"""``log ||F||^2``: how large the channel is."""
    return np.log(difference_energy(gram, 0) + TINY)[:, None]


def dynamics(gram: Array) -> Array:
    r"""Log ratios of difference energies: speed :math:`\|\nabla F\|/\|F\|`, curvature
    :math:`\|\nabla^2 F\|/\|\nabla F\|`, jerk :math:`\|\nabla^3 F\|/\|\nabla^2 F\|`."""
    energies = np.stack([difference_energy(gram, order) for order in range(4)], axis=1) + TINY
    return np.asarray(0.5 * np.diff(np.log(energies), axis=1))


def spectrum(gram: Array) -> Array:
    """Flatness of the power spectrum along the steps (geometric over arithmetic mean, constant left
    out), and the share of power in its lowest fifth."""
    steps = gram.shape[1]
    k, s = np.arange(1, steps)[:, None], np.arange(steps)[None, :]
    cosine = np.cos(np.pi * k * (2 * s + 1) / (2 * steps))
    power = np.einsum("ks,cst,kt->ck", cosine, gram, cosine, optimize=True)
    power = np.maximum(power, ROUNDING * np.trace(gram, axis1=1, axis2=2)[:, None] + TINY)
    flatness = np.exp(np.log(power).mean(1)) / power.mean(1)
    low = power[:, : max(1, steps // 5)].sum(1) / power.sum(1)
    return np.stack([np.log(flatness), np.log1p(-np.clip(low, 0, 1 - 1e-12))], axis=1)


def taps(gram: Array) -> Array:
    """Least-squares weights of the two last steps on the next one, averaged over the run: channels
    that want the same extrapolation are alike."""
    s = np.arange(2, gram.shape[1])
    if not s.size:
        return np.zeros((len(gram), 2))
    a, b, d = gram[:, s - 1, s - 1], gram[:, s - 1, s - 2], gram[:, s - 2, s - 2]
    x, y = gram[:, s, s - 1], gram[:, s, s - 2]
    ridge = 1e-3 * (a + d) / 2
    a, d = a + ridge, d + ridge
    det = a * d - b * b
    newest = (d * (x + 2 * ridge) - b * (y - ridge)) / det  # ridge pulls towards 2, -1
    older = (a * (y - ridge) - b * (x + 2 * ridge)) / det
    return np.stack([newest.mean(1), older.mean(1)], axis=1)


DESCRIPTORS: dict[str, Callable[[Array], Array]] = {f.__name__: f for f in (energy, dynamics, spectrum, taps)}
"""Descriptor families by name."""


def describe_channels(gram: Array, names: tuple[str, ...]) -> Array:
    """Standardised descriptors ``(channel, feature)`` of the named families.

    Args:
        gram: ``(channel, step, step)``.
    """
    columns = np.concatenate([DESCRIPTORS[name](gram) for name in names], axis=1)
    spread = columns.std(0)
    return np.asarray((columns - columns.mean(0)) / np.where(spread > 0, spread, 1.0))
