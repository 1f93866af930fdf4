"""The chapter on refinement, on the tiny model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.pipelines.workload import Workload
from hyca_calib.search.assemble import build_section
from hyca_calib.search.problem import Problem
from hyca_calib.search.rows import plan_taps
from hyca_calib.search.tap_rollout import TapRollout
from hyca_calib.trace.store import Trace
from studies.paper.chapter import Chapter, Context
from studies.paper.refining import REFINEMENT
from studies.paper.refining.least_squares import reach, refitted
from studies.paper.refining.setup import KEPT, RefinementSetup, refinement_setup
from studies.paper.refining.variants import losses, parameterisations


@pytest.fixture
def setup(recorded: Trace, workload: Workload, pipe: EmojiPipeline, tmp_path: Path) -> RefinementSetup:
    return refinement_setup(Context("tiny", pipe, Problem(recorded), workload, tmp_path, quick=True))


def test_every_parameterisation_starts_at_fitted_taps(setup: RefinementSetup) -> None:
    for name, (theta, expand) in parameterisations(setup).items():
        taps = expand(theta)
        assert taps.shape == setup.start.shape, name
        if "channel" in name:
            torch.testing.assert_close(taps, setup.start, msg=name)
    theta, expand = parameterisations(setup)["16 groups"]
    grouped = replace(setup.candidate, settings=replace(setup.candidate.settings, groups=16, taps="group"))
    fitted = plan_taps(build_section(grouped))
    torch.testing.assert_close(expand(theta), torch.from_numpy(fitted).float(), atol=1e-5, rtol=1e-5)


def test_every_loss_falls_from_no_taps_to_fitted_ones(setup: RefinementSetup) -> None:
    for name, make in losses(setup).items():
        if make is None:
            continue
        objective, values = make(), []
        for taps in (torch.zeros_like(setup.start), setup.start):
            with TapRollout(setup.context.pipe, setup.section, checkpointed=False) as rollout, torch.no_grad():
                rollout.follow(taps)
                values.append(objective([0, 1]).item())
        assert values[1] < values[0], name


def test_refitting_on_an_undisturbed_history_finds_the_offline_fit(setup: RefinementSetup) -> None:
    """Up to the second gap the accelerated history is the full run's: the same least squares."""
    problem, section = setup.context.problem, setup.section
    step = section.schedule.predicted_steps[0]
    history = section.taps()[step].history
    taps = torch.zeros_like(setup.start)
    found = refitted(setup, taps)[0, : len(history)].double().numpy()
    gram = problem.fit
    expected = np.linalg.solve(
        gram[:, history][:, :, history] + 1e-9 * np.eye(len(history)), gram[:, history, step][..., None]
    )[..., 0].T
    ours, theirs = (np.einsum("kc,ck->c", w, gram[:, history, step]) for w in (found, expected))
    np.testing.assert_allclose(ours, theirs, rtol=5e-2)


def test_more_regressors_never_fit_worse_in_their_own_favour(setup: RefinementSetup) -> None:
    found = reach(setup, setup.section.schedule.predicted_steps[-1])
    assert found["mixing of all channels"] >= found["mixing of rank 1"] - 1
    assert all(np.isfinite(list(found.values())))


@pytest.mark.slow
def test_the_chapter_resumes(setup: RefinementSetup) -> None:
    chapter = REFINEMENT.chapter("refinement", setup.context)
    assert Chapter.model_validate(json.loads(json.dumps(chapter.model_dump()))).to_markdown() == chapter.to_markdown()
    assert len(chapter.claims) == 6
    kept = setup.context.folder / KEPT / "parameters channel.json"
    result = json.loads(kept.read_text())
    result["latent_db"] = [db + 10 for db in result["latent_db"]]
    kept.write_text(json.dumps(result))
    again = REFINEMENT.measure(setup.context)
    assert np.mean(again.numbers["parameters"]["channel"]["latent_db"]) == pytest.approx(
        np.mean(chapter.numbers["parameters"]["channel"]["latent_db"]) + 10
    )
