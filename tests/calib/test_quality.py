"""The reference-free score: what it measures, and that the embedded judges know their pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from safetensors import safe_open
from scipy.linalg import sqrtm

from hyca_calib.bench.equivalence import Margins, load_margins
from hyca_calib.bench.picture_quality import JudgedPictures, PictureQuality, frechet_distance, judged, quality
from hyca_calib.costs.memory import peak_memory
from hyca_calib.demo import demo_pipeline, demo_prompts
from hyca_calib.demo.judge import WEIGHTS, load_judge
from hyca_calib.demo.judge.network import FEATURES, SIZE, Judge, labels_of
from hyca_calib.pipelines.rollout import sample_images
from hyca_calib.pipelines.workload import Job, Workload
from hyca_calib.quality.metrics import prompt_groups


def test_frechet_distance_is_the_published_formula() -> None:
    rng = np.random.default_rng(0)
    features, other = rng.normal(size=(60, 5)) @ rng.normal(size=(5, 5)), rng.normal(size=(400, 5))
    mean, covariance, own = other.mean(axis=0), np.cov(other, rowvar=False), np.cov(features, rowvar=False)
    common = sqrtm(own @ covariance).real
    expected = np.square(features.mean(axis=0) - mean).sum() + np.trace(own + covariance - 2 * common)
    assert frechet_distance(features, mean, covariance) == pytest.approx(expected)
    assert frechet_distance(other, mean, covariance) == pytest.approx(0, abs=1e-9)


def test_what_a_call_asks_for() -> None:
    assert labels_of({"prompt": "Red heart, rising"}) == ("red", "heart", "rising")
    assert labels_of({"class_labels": "Q"}) == ("Q",)
    assert labels_of({}) == ()


def test_recall_is_accuracy_for_one_label() -> None:
    judge = Judge(("blue", "heart", "red"), 1)
    logits = torch.tensor([[0.1, 2.0, 1.0], [3.0, 2.0, 1.0], [0.0, 1.0, 2.0]])
    assert judge.recalled(logits, [("red", "heart"), ("red", "heart"), ("red",)]) == [1.0, 0.5, 1.0]
    assert np.isnan(judge.recalled(logits[:1], [("unheard",)])[0])


def test_a_worse_method_is_seen() -> None:
    rng = np.random.default_rng(0)
    judge = Judge(("a", "b"), 1)
    marks = {"detail, 1 px": tuple(rng.normal(size=48).tolist()), "confidence": (1.0,) * 48}
    good = JudgedPictures(rng.normal(size=(48, FEATURES)), (1.0,) * 48, marks)
    bad = JudgedPictures(good.features + 2, (1.0,) * 24 + (0.0,) * 24, {**marks, "confidence": (0.0,) * 48})
    margins = Margins("planted", 0.3, 0.1)
    assert quality(judge, bad, good, margins).outcome == "worse"
    gain = quality(judge, bad, good, margins).accuracy_gain
    assert gain is not None
    assert gain[0] == -0.5
    same = quality(judge, good, good, margins)
    assert same.outcome == "as good"
    assert same.frechet_excess == (0.0, 0.0, 0.0)
    assert quality(judge, good, good).outcome == "cannot tell"  # without margins


def test_words_that_the_judge_does_not_know_count_for_nothing() -> None:
    """The figures of what it knows can be written as JSON and read back, also where it knows nothing."""
    rng, judge, kept = np.random.default_rng(0), Judge(("a", "b"), 1), TypeAdapter(PictureQuality)
    for unknown, accuracy, gain in ((1, 0.5, -0.5), (4, None, None)):
        full = JudgedPictures(rng.normal(size=(4, FEATURES)), (np.nan,) * unknown + (1.0,) * (4 - unknown))
        found = JudgedPictures(full.features, (np.nan,) * unknown + (0.5,) * (4 - unknown))
        seen = quality(judge, found, full)
        assert seen.accuracy == accuracy
        assert (seen.accuracy_gain and seen.accuracy_gain[0]) == gain
        assert kept.validate_json(kept.dump_json(seen)) == seen


def test_repeated_prompts_are_resampled_together() -> None:
    rng, groups = np.random.default_rng(0), [i // 3 for i in range(48)]
    judge = Judge(("a", "b"), 1)
    shift = rng.normal(size=(16, FEATURES)).repeat(3, axis=0)
    full = JudgedPictures(
        rng.normal(size=(16, FEATURES)).repeat(3, axis=0) + 0.1 * rng.normal(size=(48, FEATURES)), (1.0,) * 48
    )
    found = JudgedPictures(full.features + shift, (1.0,) * 48)
    (_, low, high), (_, naive_low, naive_high) = (
        quality(judge, found, full, groups=of).frechet_excess for of in (groups, None)
    )
    assert high - low > 1.3 * (naive_high - naive_low)


def test_quality_is_kept_as_json() -> None:
    judge = Judge(("a", "b"), 1)
    jobs = [Job(i, "test", i, {"class_labels": "a"}) for i in range(FEATURES + 2)]
    images = torch.rand(len(jobs), 3, SIZE, SIZE)
    full, found = (judged(judge.eval(), x, jobs) for x in (images, images.roll(1, 0)))
    assert set(full.marks) == {"detail, 1 px", "detail, 2 px", "detail, 4 px", "confidence"}
    kept, seen = TypeAdapter(PictureQuality), quality(judge, found, full, Margins("planted", 0.3, 0.1))
    assert kept.validate_json(json.dumps(kept.dump_python(seen, mode="json"), allow_nan=False)) == seen


def test_a_clip_is_its_frames_below_one_another() -> None:
    """As `sample_images` puts them."""
    judge, clips = Judge(("a",), 8).eval(), torch.rand(2, 3, 8, SIZE, SIZE)
    features, _ = judge.judge(clips.flatten(2, 3))
    torch.testing.assert_close(features, judge(clips)[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "samples", "block"),
    [("demo", 49, 4), ("demo-class", 49, 4), ("demo-video", 28, 8)],  # clips are made of blocks of 4 pixels
)
def test_judges_tell_good_pictures_from_bad(model: str, samples: int, block: int) -> None:
    """Of what the full run draws they recognise most; blurred pictures are behind it, and farther from real ones."""
    judge, pipe = load_judge(model), demo_pipeline(model)
    assert judge is not None
    pipe.set_progress_bar_config(disable=True)
    jobs: tuple[Job, ...] = Workload(demo_prompts(model), num_samples=samples).of("test")
    images, _ = sample_images(pipe, jobs, 12, 8)
    blurred = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(images, block), scale_factor=block)
    full, worse = judged(judge, images, jobs), judged(judge, blurred, jobs)
    margins, groups = load_margins(model), prompt_groups(jobs)
    assert np.mean(full.recalled) > 0.7
    found, same = (quality(judge, x, full, margins, groups) for x in (worse, full))
    assert found.outcome == "worse"
    assert found.frechet_excess[0] > 0.2 * same.frechet
    assert same.outcome == "as good"


def test_peak_memory() -> None:
    with peak_memory(torch.device("cpu")) as peak:
        torch.ones(2**24).add_(1)
    assert peak.bytes is None or 0.9 * 2**26 < peak.bytes < 2**27
    with peak_memory(torch.device("cpu")) as after:
        pass
    assert after.bytes is None or after.bytes < 2**23
    with peak_memory(torch.device("cpu")) as outer:
        torch.ones(2**24).add_(1)
        with peak_memory(torch.device("cpu")) as inner:
            torch.ones(2**22).add_(1)
    assert outer.bytes is None or (0.9 * 2**26 < outer.bytes < 2**27 and 0.9 * 2**24 < (inner.bytes or 0) < 2**25)


@pytest.mark.parametrize("model", ["demo", "demo-class", "demo-video"])
def test_the_card_says_what_the_weights_say(model: str) -> None:
    with safe_open(WEIGHTS / f"{model}.safetensors", "pt") as kept:
        facts = json.loads(kept.metadata()["facts"])
    (row,) = [line for line in (WEIGHTS / "README.md").read_text().splitlines() if line.startswith(f"| `{model}.s")]
    labels, frames, clips, steps, recall = (cell.split()[0] for cell in row.split("|")[2:7])
    assert (int(labels), int(frames), int(clips)) == (len(facts["labels"]), facts["frames"], facts["clips"])
    assert (int(steps), float(recall)) == (facts["recipe"]["steps"], facts["recall"])
