from __future__ import annotations

import numpy as np
import pytest

from hyca_calib.features.descriptors import DESCRIPTORS, describe_channels, difference_energy, dynamics, spectrum


def gram_of(features: np.ndarray) -> np.ndarray:
    """``(channel, step, token)`` -> ``(channel, step, step)``."""
    return np.asarray(features @ features.transpose(0, 2, 1))


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_energies_are_those_of_the_differences(order: int) -> None:
    features = np.random.default_rng(0).normal(size=(4, 10, 30))
    expected = (np.diff(features, n=order, axis=1) ** 2).sum(-1).mean(-1)
    np.testing.assert_allclose(difference_energy(gram_of(features), order), expected, rtol=1e-10)


def test_smooth_and_rough_channels_differ() -> None:
    rng = np.random.default_rng(0)
    t = np.linspace(0, 1, 20)
    smooth = np.cos(np.pi * t)[:, None] * rng.normal(size=(1, 50))
    rough = rng.normal(size=(20, 50))
    gram = gram_of(np.stack([smooth, rough]))
    assert (dynamics(gram)[0] < dynamics(gram)[1] - 1).all()
    assert spectrum(gram)[0, 0] < spectrum(gram)[1, 0] - 1


def test_columns_are_standardised() -> None:
    gram = gram_of(np.random.default_rng(0).normal(size=(40, 12, 20)).cumsum(axis=1))
    table = describe_channels(gram, tuple(DESCRIPTORS))
    np.testing.assert_allclose(table.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(table.std(0), 1, atol=1e-9)
    scaled = describe_channels(gram * np.linspace(1, 9, 40)[:, None, None], ("dynamics", "spectrum", "taps"))
    np.testing.assert_allclose(scaled, describe_channels(gram, ("dynamics", "spectrum", "taps")), atol=1e-6)
