"""How near samples of any kind are to the full run's: pictures, clips, series, sound."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from plans import make_plan

from hyca_calib.pipelines.outputs import are_pictures, samples_of
from hyca_calib.pipelines.workload import Job
from hyca_calib.quality.evaluate import evaluate_plan
from hyca_calib.quality.metrics import compare_samples, image_psnr, log_error, signal_to_error
from hyca_calib.search.problem import Samples
from hyca_calib.search.rollout_error import mean_psnr, to_db

JOBS = [Job(i, "test", i, call) for i, call in enumerate(tiny.prompts()[:2])]


def test_signal_to_error_is_energy_over_that_of_the_difference() -> None:
    """Whatever the scale and the shape of the samples."""
    for shape in ((5,), (35, 48), (2, 3, 4, 5, 6)):
        reference = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
        found = reference * torch.tensor([1.1, 1.01, 1.0]).view(3, *[1] * len(shape))
        for scale in (1e-3, 1.0, 1e4):
            assert signal_to_error(scale * found, scale * reference) == pytest.approx([20, 40, 150], abs=1e-3)
    silent = torch.zeros(1, 4)
    assert signal_to_error(silent, silent) == [150]
    assert signal_to_error(silent + 1, silent) == [-150]


def test_the_peak_of_pictures_is_1_or_their_own_range() -> None:
    picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    off = picture + 0.01
    assert image_psnr(off, picture) == pytest.approx([40], abs=0.01)
    signed, off_signed = 2 * picture - 1, 2 * off - 1
    signed[0, 0, 0, :2] = torch.tensor([-1.0, 1.0])
    assert image_psnr(off_signed.where(signed == 2 * picture - 1, signed), signed) == pytest.approx([40], abs=0.1)
    bytes_ = (255 * picture).round()
    expected = 20 * math.log10(float(bytes_.max() - bytes_.min()) / 5)
    assert image_psnr(bytes_ + 5, bytes_) == pytest.approx([expected], abs=0.01)


def test_latents_of_any_size_are_searched_alike() -> None:
    """The peak is their own range: of pictures in [-1, 1] the usual 2."""
    latents = torch.rand(2, 48, generator=torch.Generator().manual_seed(0))
    latents[:, :2] = torch.tensor([0.0, 1.0])
    pictures = Samples(tuple(JOBS), 2 * latents - 1, 4)
    off = log_error(pictures.latents + 0.02, pictures.latents).mean().item()
    assert mean_psnr(off, pictures) == pytest.approx(to_db(off)) == pytest.approx(40, abs=1e-3)
    hundreds = replace(pictures, latents=300 * latents)
    off = log_error(hundreds.latents + 3, hundreds.latents).mean().item()
    assert mean_psnr(off, hundreds) == pytest.approx(40, abs=1e-3)


@pytest.mark.parametrize("shape", [(2, 35, 48), (2, 2, 9600), (2, 12), (2, 8, 16, 16), (2, 5, 7, 16, 16)])
def test_only_pictures_have_psnr_and_similarity(shape: tuple[int, ...]) -> None:
    samples = torch.randn(shape)
    assert not are_pictures(samples)
    assert torch.equal(samples_of(samples.numpy(), "it"), samples)
    near = compare_samples(samples + 0.1, samples, samples, samples)
    assert near.agreement_db == near.signal_to_error_db
    assert [near.psnr_db, near.ssim] == [None, None]
    assert near.latent_error == (0, 0)


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 1, 16, 16), (2, 4, 16, 12)])
def test_pictures_have_both(shape: tuple[int, ...]) -> None:
    pictures = torch.rand(shape)
    near = compare_samples(pictures, pictures, pictures, pictures)
    assert [near.psnr_db, near.signal_to_error_db, near.agreement_db] == [(150, 150)] * 3
    assert near.ssim == pytest.approx((1, 1))
    clips = samples_of(np.moveaxis((255 * pictures).round().byte().numpy(), 1, -1), "it")
    assert clips.shape == (2, 1, *shape[1:])
    assert (clips[:, 0] - pictures).abs().max() <= 0.5 / 255 + 1e-6


def test_a_plan_for_time_series_is_evaluated() -> None:
    pipe = tiny.series()
    found, ours, full = evaluate_plan(pipe, make_plan(pipe.transformer), JOBS, 12, batch=2)
    assert full.images.shape == (2, 16, 48)
    assert torch.equal(full.images, 100 * full.latents)
    assert (found.measure, found.psnr_db, found.ssim) == ("signal-to-error ratio", None, None)
    error = (ours.images - full.images).square().sum((1, 2)) / full.images.square().sum((1, 2))
    expected = (-10 * error.log10()).tolist()
    assert found.agreement_db_each == pytest.approx(expected, abs=1e-3)
    assert found.signal_to_error_db == found.agreement_db == pytest.approx(sum(expected) / 2, abs=1e-3)
    assert found.latent_error == pytest.approx(error.mean().item(), rel=1e-4)
