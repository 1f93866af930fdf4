from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from commands import write_prompts, write_trace

from hyca_calib.demo.motion.codec import BlockCodec
from hyca_calib.demo.motion.pipeline import MotionPipeline
from studies.training.motion.clips import scenes
from studies.training.motion.train import Flow, Recipe


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with prompts.txt in it."""
    monkeypatch.chdir(tmp_path)
    write_prompts(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def _traced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("traced")
    write_trace(folder, 7, request.module.STEPS)
    return folder


@pytest.fixture
def traced_folder(_traced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a trace of as many steps as its module says."""
    shutil.copytree(_traced, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def motion() -> MotionPipeline:
    """The architecture with random weights; every test that needs trained ones says so."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    torch.manual_seed(0)
    flow = Flow(Recipe(width=64, blocks=2, latent_channels=8), sorted({w for s in scenes() for w in s.caption.split()}))
    torch.nn.init.normal_(flow.transformer.proj_out.weight, std=0.1)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = MotionPipeline(flow.transformer.eval(), flow.text_encoder, BlockCodec(latent_channels=8), scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe
