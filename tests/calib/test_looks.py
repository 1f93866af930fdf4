"""What a person is shown of samples that are pictures, clips, series or sound."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hyca_calib.report.looks import FREQUENCIES, Look, error_shown, look_of, shown
from hyca_calib.report.tiles import AMPLIFY

TONE = torch.sin(2 * math.pi * 1000 / 16000 * torch.arange(16000))


@pytest.mark.parametrize(
    ("samples", "look"),
    [
        (torch.rand(2, 1, 3, 16, 16), "pictures"),
        (torch.rand(2, 5, 1, 16, 16), "clips"),
        (torch.randn(2, 35, 48), "curves"),
        (torch.randn(2), "curves"),
        (torch.randn(2, 2, 2, 7, 12, 12), "curves"),
        (TONE.expand(2, 2, -1), "spectrograms"),
    ],
)
def test_every_sample_can_be_shown(samples: Tensor, look: Look) -> None:
    """Also one of NaN, or one that is nothing but zeros."""
    assert look_of(samples) == look
    for sample in (samples[0], 0 * samples[0], samples[0] * torch.nan):
        for drawn in (shown(sample, samples[0]), error_shown(sample, samples[0])):
            assert drawn.shape[:2] == (5 if look == "clips" else 1, 3)
            assert sample.isnan().any() or (drawn.min() >= 0 and drawn.max() <= 1)


def test_pictures_of_another_range_are_shown_on_their_own_scale() -> None:
    picture = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    picture[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    assert torch.equal(shown(picture, picture), picture)
    torch.testing.assert_close(shown(2 * picture - 1, 2 * picture - 1), picture)
    signed = error_shown(2 * picture - 1 + 0.01, 2 * picture - 1)
    torch.testing.assert_close(signed, torch.full_like(signed, 1 - AMPLIFY * 0.005))


def test_a_tone_is_a_line_at_its_frequency() -> None:
    brightness = shown(TONE[None], TONE[None])[0].sum(0).mean(1)
    assert len(brightness) == FREQUENCIES + 1
    assert FREQUENCIES - int(brightness.argmax()) == round(1000 / 8000 * FREQUENCIES)  # low ones are at the bottom
    silence = error_shown(TONE[None], TONE[None])
    assert torch.equal(silence, silence[..., :1, :1].expand_as(silence))
