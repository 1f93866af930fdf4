"""Two one-sided tests against a margin, and the interval below them: planted cases, and how often they err."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from hyca_calib.bench.equivalence import (
    LEAST_GROUPS,
    Effect,
    Margins,
    PictureDamage,
    departures,
    load_margins,
    outcome,
)
from hyca_calib.bench.marks import CONFIDENCE, SCALES, confidence, detail
from hyca_calib.bench.picture_quality import JudgedPictures
from hyca_calib.demo.judge.network import Judge
from hyca_calib.pipelines.workload import Job
from hyca_calib.quality.metrics import image_psnr, interval, prompt_groups, resampled_means
from studies.training.damage import FEWER, LEVELS, blurred, damaged, damaged_to, noisy
from studies.training.judge_margins import chosen_margins, detection, detection_table

DETAIL = 0.4
MARGINS = Margins("planted", detail=DETAIL, confidence=0.1)


def pictures(count: int, seed: int = 0, side: int = 32) -> Tensor:
    """Smooth random pictures."""
    rough = torch.rand(count, 3, side // 4, side // 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(rough, size=(side, side), mode="bicubic").clamp(0, 1)


def marks(detail_db: np.ndarray, nats: np.ndarray) -> dict[str, tuple[float, ...]]:
    return {"detail, 1 px": tuple(detail_db.tolist()), CONFIDENCE: tuple(nats.tolist())}


def test_prompt_groups_go_by_the_call() -> None:
    calls: list[dict[str, Any]] = [{"prompt": "a", "guidance": 1}, {"prompt": "b"}, {"guidance": 1, "prompt": "a"}]
    assert prompt_groups([Job(i, "test", i, call) for i, call in enumerate(calls)]) == (0, 1, 0)


def test_whole_groups_are_resampled() -> None:
    """The mean of two groups of different sizes: one of them twice, or all samples."""
    draws = resampled_means(np.array([[1.0], [2.0], [6.0]]), (5, 5, 3), 200)
    assert set(np.unique(draws.round(9)).tolist()) == {1.5, 3.0, 6.0}
    with pytest.raises(ValueError, match="2 labels of groups for 3 samples"):
        resampled_means(np.zeros((3, 1)), (0, 1), 10)


def test_repeated_prompts_widen_the_interval() -> None:
    """Three equal samples of a prompt say as much as one."""
    values = np.random.default_rng(0).normal(size=16)
    thrice, groups = np.repeat(values, 3).tolist(), np.repeat(np.arange(16), 3).tolist()
    (_, low, high), (_, naive_low, naive_high) = interval(thrice, groups=groups), interval(thrice)
    assert (high - low) / (naive_high - naive_low) == pytest.approx(np.sqrt(3), rel=0.15)
    assert interval(thrice, groups=groups)[1:] == pytest.approx(interval(values.tolist())[1:])


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_intervals_hold_the_mean_as_often_as_they_say(level: float) -> None:
    """16 prompts of three noises each; within 2.5 standard errors of 300 trials. As if independent they do not."""
    rng, groups = np.random.default_rng(0), np.repeat(np.arange(16), 3)
    held = naive = 0
    for seed in range(300):
        values = (rng.normal(size=16)[groups] + 0.5 * rng.normal(size=48)).tolist()
        _, low, high = interval(values, seed, groups.tolist(), level)
        held += low < 0 < high
        _, low, high = interval(values, seed, level=level)
        naive += low < 0 < high
    error = np.sqrt(level * (1 - level) / 300)
    assert abs(held / 300 - level) < 2.5 * error
    assert naive / 300 < level - 0.1


@pytest.mark.parametrize("prompts", [12, 32])
@pytest.mark.parametrize("at", [1.0, -1.0])
def test_a_run_at_the_margin_seldom_passes(prompts: int, at: float) -> None:
    """Of all errors this one is bounded: 5 %, here of 300 trials, within 2.5 standard errors."""
    rng, passed, zero = np.random.default_rng(1), 0, np.zeros(prompts)
    for seed in range(300):
        away = at * DETAIL + 0.3 * rng.normal(size=prompts)
        found = departures(marks(away, zero), marks(zero, zero), MARGINS, seed=seed)
        passed += outcome(found) == "as good"
    assert passed / 300 < 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 300)


def test_an_equal_run_is_seldom_called_worse_and_mostly_as_good() -> None:
    rng, said, zero = np.random.default_rng(2), list[str](), np.zeros(48)
    for seed in range(200):
        found = marks(0.3 * rng.normal(size=48), 0.1 * rng.normal(size=48))
        said.append(outcome(departures(found, marks(zero, zero), MARGINS, seed=seed)))
    assert said.count("worse") / 200 < 0.05
    assert said.count("as good") / 200 > 0.9


def test_planted_outcomes() -> None:
    rng = np.random.default_rng(3)
    zero, little, much = np.zeros(48), 0.05 * rng.normal(size=48), 3 * rng.normal(size=48)
    full = marks(zero, zero)

    def said(detail_db: np.ndarray, nats: np.ndarray, margins: Margins | None = MARGINS) -> str:
        return outcome(departures(marks(detail_db, nats), full, margins))

    assert said(zero, zero) == "as good"
    assert said(little + 0.2, little) == "as good"  # certain, and within the margin
    assert said(little - 1, little) == "worse"
    assert said(little + 1, little) == "worse"  # noise is more detail
    assert said(little, little - 1) == "worse"
    assert said(little, little + 1) == "as good"  # nobody minds more confidence
    assert said(much - much.mean(), zero) == "cannot tell"
    assert said(zero, zero, None) == "cannot tell"  # nothing was chosen beforehand
    assert said(zero, zero, Margins("blind", 0.4, None)) == "cannot tell"
    assert said(little - 1, little, None) == "worse"


def test_few_prompts_cannot_tell() -> None:
    """Not even of equal pictures, nor of damaged ones, however many samples they have."""
    count = LEAST_GROUPS - 1
    groups, zero = list(islice(cycle(range(count)), 48)), np.zeros(48)
    for away in (zero, zero - 5):
        assert outcome(departures(marks(away, zero), marks(zero, zero), MARGINS, groups)) == "cannot tell"
    assert outcome(departures(marks(zero, zero), marks(zero, zero), MARGINS, [*groups[:-1], count])) == "as good"


def test_samples_that_ask_for_nothing_known_are_left_out() -> None:
    nats = np.array([np.nan] * 10 + [-1.0] * 20)
    found = departures(marks(np.zeros(30), nats), marks(np.zeros(30), np.zeros(30)))[1]
    assert (found.mean, found.low, found.high) == (-1.0, -1.0, -1.0)
    assert found.shown
    nothing = marks(np.zeros(30), np.full(30, np.nan))
    assert outcome(departures(nothing, nothing, MARGINS)) == "cannot tell"
    assert outcome(departures({}, {}, MARGINS)) == "cannot tell"
    with pytest.raises(ValueError, match="measure both runs alike"):
        departures({"flicker": (1.0,)}, nothing)


def test_detail_sees_blur_and_noise_where_they_are() -> None:
    images = pictures(6)
    names = [f"detail, {scale} px" for scale in SCALES]
    full, soft, rough = (detail(x, 1) for x in (images, blurred(images, 0.8, 1), noisy(images, 0.05)))
    lost, gained = ([np.mean(np.subtract(found[n], full[n])) for n in names] for found in (soft, rough))
    assert lost[0] < lost[1] < lost[2] < -0.01
    assert gained[0] > 0.3
    assert gained[0] > gained[1] > abs(gained[2])
    ramp = torch.arange(32.0).expand(1, 3, 32, 32) / 64
    assert detail(ramp, 1)["detail, 2 px"][0] == pytest.approx(20 * np.log10(2 / 64), abs=0.01)


def test_frames_are_compared_in_time_not_across_their_edges() -> None:
    still = pictures(2, side=8).repeat(1, 1, 4, 1)
    assert detail(still, 4)["flicker"] == pytest.approx((-60.0, -60.0))
    assert detail(still, 4)["detail, 1 px"] == pytest.approx(detail(still[:, :, :8], 1)["detail, 1 px"])
    assert blurred(still, 1.5, 4)[:, :, :8] == pytest.approx(blurred(still[:, :, :8], 1.5, 1), abs=1e-6)


def test_confidence_is_the_log_odds_of_what_was_asked_for() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5]])
    odds = confidence(Judge(("a", "b", "c"), 1), logits, [("a",)])[0]
    shares = logits[0].softmax(0)
    assert odds == pytest.approx(float(torch.log(shares[0] / (1 - shares[0]))))
    assert np.isnan(confidence(Judge(("a", "b", "c"), 1), logits, [("unheard",)])[0])


@pytest.mark.parametrize("level", LEVELS)
def test_damage_is_as_strong_as_it_says(level: float) -> None:
    images = pictures(4)
    for way in (noisy, lambda x, sigma: blurred(x, sigma, 1)):
        found, strength = damaged_to(images, level, way)
        assert np.mean(image_psnr(found, images)) == pytest.approx(level, abs=0.01)
        assert 1e-3 < strength < 30


def test_a_step_count_near_each_level_is_drawn() -> None:
    images = pictures(6)
    jobs = [Job(i, "test", i, {"prompt": str(i)}) for i in range(6)]
    asked: list[tuple[int, int]] = []

    def draw(some: Sequence[Job], steps: int) -> Tensor:
        asked.append((len(some), steps))
        return noisy(images[: len(some)], 10 ** (-(10 + steps) / 20))  # 10 dB, and one for each step

    found = [way for way, _ in damaged(images, 1, jobs, draw) if way.kind == FEWER]
    assert [(way.level, way.strength) for way in found] == [(40, 30), (30, 20), (25, 15), (20, 10)]
    assert all(way.psnr_db == pytest.approx(way.level, abs=0.6) for way in found)
    assert sum(count == 6 for count, _ in asked) == 4


def test_the_mildest_damage_decides() -> None:
    zero = np.zeros(20)

    def effect(kind: str, level: float, detail_db: float, nats: float, reached: float | None = None) -> Effect:
        away = marks(zero + detail_db, zero + nats)
        return Effect(PictureDamage(kind, level, reached or level, 1.0), departures(away, marks(zero, zero)))

    effects = [
        effect("blur", 40, -0.1, -9),
        effect("blur", 30, -2, 0),
        effect("blur", 25, -3, -0.5),
        effect("noise", 30, 0, -0.8),  # it shows in confidence only
        effect("noise", 25, 0.7, -0.2),
        effect("fewer steps", 30, -0.1, 0.01, reached=33),  # too mild for its level
        effect("fewer steps", 25, -0.9, 0.6),
    ]
    found = chosen_margins("planted", effects)
    assert found.detail == pytest.approx(0.7)
    assert found.confidence == pytest.approx(0.5)
    assert chosen_margins("planted", effects[1:2]).confidence is None
    with pytest.raises(ValueError, match="no damage at 30 dB"):
        chosen_margins("planted", effects[:1])
    kept = TypeAdapter(Margins)
    assert kept.validate_json(kept.dump_json(found)) == found


def test_the_table_tells_what_is_detected() -> None:
    images = pictures(24)

    def seen(x: Tensor) -> JudgedPictures:
        return JudgedPictures(np.zeros((24, 2)), (1.0,) * 24, {**detail(x, 1), CONFIDENCE: (1.0,) * 24})

    groups = list(islice(cycle(range(12)), 24))
    full = seen(images)
    found = [
        detection("blur", seen(blurred(images, 1.0, 1)), full, 25.0, MARGINS, groups),
        detection("itself", full, full, 150.0, MARGINS, groups),
    ]
    assert [run.outcome for run in found] == ["worse", "as good"]
    assert [run.shares[run.outcome] for run in found] == [1.0, 1.0]
    table = detection_table(found, MARGINS).splitlines()
    assert table[2].startswith("| blur | 25.0 | worse | 0 | 100 | 0 | -")
    assert "0.400 dB of detail and 0.100 nats of confidence" in table[-1]


JUDGED = sorted(path.parent.name for path in (Path(__file__).parents[2] / "studies" / "bench").glob("*/judge.json"))


@pytest.mark.parametrize("model", JUDGED)
def test_margins_are_kept_with_what_they_were_chosen_from(model: str) -> None:
    kept = load_margins(model)
    assert kept is not None
    assert kept.model == model
    assert len(kept.effects) == 3 * len(LEVELS)
    again = chosen_margins(model, kept.effects, kept.source)
    assert again == kept
    assert kept.detail is not None
    assert kept.detail > 0
    assert load_margins("unheard") is None
