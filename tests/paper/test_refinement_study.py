"""The chapter on refinement, on the tiny model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.search.assemble import build_section, plan_taps
from hyca_calib.search.problem import Problem
from hyca_calib.search.tap_rollout import TapRollout
from hyca_calib.trace.store import Trace
from hyca_calib.workload import Workload
from studies.paper.chapter import Chapter, Context
from studies.paper.loop.bed import Bed, bed_of
from studies.paper.loop.limits import reach
from studies.paper.loop.losses import losses
from studies.paper.loop.on_policy import refitted
from studies.paper.loop.parameters import parameterisations
from studies.paper.refinement import refinement


@pytest.fixture
def bed(recorded: Trace, workload: Workload, pipe: EmojiPipeline, tmp_path: Path) -> Bed:
    return bed_of(Context("tiny", pipe, Problem(recorded), workload, tmp_path, quick=True))


def test_every_parameterisation_starts_at_fitted_taps(bed: Bed) -> None:
    for name, (theta, expand) in parameterisations(bed).items():
        taps = expand(theta)
        assert taps.shape == bed.start.shape, name
        if "channel" in name:
            torch.testing.assert_close(taps, bed.start, msg=name)
    theta, expand = parameterisations(bed)["16 groups"]
    grouped = replace(bed.candidate, settings=replace(bed.candidate.settings, groups=16, taps="group"))
    fitted = plan_taps(build_section(bed.context.problem, grouped, bed.context.seed))
    torch.testing.assert_close(expand(theta), torch.from_numpy(fitted).float(), atol=1e-5, rtol=1e-5)


def test_every_loss_falls_from_no_taps_to_fitted_ones(bed: Bed) -> None:
    for name, make in losses(bed).items():
        if make is None:
            continue
        objective, values = make(), []
        for taps in (torch.zeros_like(bed.start), bed.start):
            with TapRollout(bed.context.pipe, bed.section, checkpointed=False) as rollout, torch.no_grad():
                rollout.follow(taps)
                values.append(objective([0, 1]).item())
        assert values[1] < values[0], name


def test_refitting_on_an_undisturbed_history_finds_the_offline_fit(bed: Bed) -> None:
    """Up to the second gap the accelerated history is the full run's: the same least squares."""
    problem, section = bed.context.problem, bed.section
    step = section.schedule.predicted_steps[0]
    history = section.taps[step].history
    taps = torch.zeros_like(bed.start)
    found = refitted(bed, taps)[0, : len(history)].double().numpy()
    gram = problem.fit
    expected = np.linalg.solve(
        gram[:, history][:, :, history] + 1e-9 * np.eye(len(history)), gram[:, history, step][..., None]
    )[..., 0].T
    forecast = [np.einsum("kc,ck->c", w, gram[:, history, step]) for w in (found, expected)]
    np.testing.assert_allclose(*forecast, rtol=5e-2)


def test_more_regressors_never_fit_worse_in_their_own_favour(bed: Bed) -> None:
    found = reach(bed, bed.section.schedule.predicted_steps[-1])
    assert found["mixing of all channels"] >= found["mixing of rank 1"] - 1
    assert all(np.isfinite(list(found.values())))


@pytest.mark.slow
def test_the_chapter_resumes(bed: Bed) -> None:
    chapter = refinement(bed.context)
    assert Chapter.from_json(json.loads(json.dumps(chapter.to_json()))).to_markdown() == chapter.to_markdown()
    assert len(chapter.claims) == 6
    kept = bed.folder / "parameters channel.json"
    result = json.loads(kept.read_text())
    result["latent_db"] = [db + 10 for db in result["latent_db"]]
    kept.write_text(json.dumps(result))
    again = refinement(bed.context)
    assert np.mean(again.numbers["parameters"]["channel"]["latent_db"]) == pytest.approx(
        np.mean(chapter.numbers["parameters"]["channel"]["latent_db"]) + 10
    )
