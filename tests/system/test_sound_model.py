"""The sound model of the studies: its transform loses nothing, its pipeline does what HyCa asks of one."""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from hyca_calib.pipelines.load import load_pipeline
from hyca_runtime.errors import WorkloadError
from studies.sound.__main__ import RESULTS, page
from studies.sound.codec import LappedCodec
from studies.sound.notes import LENGTH, drawn_tunes, played
from studies.sound.train import Denoiser, Recipe, pipeline_of


def test_the_lapped_transform_is_orthonormal_and_inverted() -> None:
    codec, sounds = LappedCodec(16), torch.randn(2, 160, generator=torch.Generator().manual_seed(0))
    latents = codec.encode(sounds)
    assert latents.shape == (2, 16, 10)
    assert torch.allclose(latents.square().sum((1, 2)), sounds.square().sum(1), rtol=1e-5)
    codec.fit(sounds)
    assert torch.allclose(codec.decode(codec.encode(sounds)), sounds, atol=1e-5)


def test_tunes_differ_and_are_within_range() -> None:
    tunes, generator = drawn_tunes(20, seed=3), torch.Generator().manual_seed(0)
    assert len(set(tunes)) == 20
    assert drawn_tunes(20, seed=3) == tunes
    sound = played(tunes[0], generator)
    assert sound.shape == (LENGTH,)
    assert 0.5 <= sound.abs().max() <= 0.9


@pytest.fixture
def pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Small and untrained, loaded as the trained one is."""
    torch.manual_seed(0)
    model = Denoiser(Recipe(blocks=1, width=64))
    torch.nn.init.normal_(model.transformer.proj_out.weight, std=0.1)
    pipeline_of(model, LappedCodec()).save_pretrained(tmp_path)
    monkeypatch.setattr("studies.sound.pipeline.WEIGHTS", tmp_path)
    return load_pipeline("studies.sound.pipeline:sound")


def test_without_weights_it_is_said_how_to_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studies.sound.pipeline.WEIGHTS", tmp_path / "none" / "pipeline")
    with pytest.raises(WorkloadError, match=r"python -m studies\.sound\.train --out"):
        load_pipeline("studies.sound.pipeline:sound")


def test_the_pipeline_plays_what_hyca_asks_for(pipe: Any) -> None:
    asked = {"num_inference_steps": 2, "generator": [torch.Generator().manual_seed(i) for i in range(2)]}
    (latents,) = pipe(prompt=["bell c4", "horn a3 e4"], output_type="latent", return_dict=False, **asked)
    assert latents.shape == (2, 64, 128)
    alone = pipe(prompt=["horn a3 e4"], num_inference_steps=2, generator=[torch.Generator().manual_seed(1)])
    assert alone.audios.shape == (1, LENGTH)
    assert torch.allclose(pipe.vae.decode(latents)[1], torch.from_numpy(alone.audios[0]), atol=1e-4)
    with pytest.raises(ValueError, match="non-empty list"):
        pipe(prompt=[])


def test_the_page_is_of_the_results() -> None:
    results = json.loads((RESULTS / "results.json").read_text())
    assert page(results) == (RESULTS / "README.md").read_text()
    for row in results["rows"]:
        assert row["interval"][0] == pytest.approx(statistics.fmean(row["agreement_db"]))
        assert len(row["agreement_db"]) == results["samples"]
