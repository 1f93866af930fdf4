"""What the pages of hosts say to type is typed: ComfyUI, ranks, the Hub."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import comfy_host as host
import commands
import parts
import plans
import pytest
import tiny
import torch
from diffusers import FluxTransformer2DModel
from huggingface_hub import constants

from hyca_runtime import save_plan

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "integrations"


def blocks(page: str, language: str = "python") -> list[str]:
    """What stands in a page's fences of one language, "" for those that name none."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", (PAGES / f"{page}.md").read_text(), re.DOTALL | re.MULTILINE)
    found = [text for of, text in fences if of == language]
    assert found, f"{page} has something to type"
    return found


@pytest.mark.parametrize("page", ["comfyui", "parallel", "hub"])
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\((?!http|#)([^)#]+)", (PAGES / f"{page}.md").read_text()):
        assert (PAGES / link).exists(), link


def test_parallel(tmp_path: Path) -> None:
    (code,) = blocks("parallel")
    save_plan(plans.probing_plan(tiny.pipeline().transformer), tmp_path / "plan.json")
    first, second = parts.on_two_ranks(parts.page, tmp_path, code)
    assert first == second
    assert 1 < len(first["computed"]) < plans.STEPS


def test_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands on the tiny model; the lines on what they wrote, as it would be in the Hub's cache."""
    monkeypatch.chdir(tmp_path)
    pipe = tiny.pipeline()
    (tmp_path / "studies" / "demo-3x").mkdir(parents=True)
    save_plan(plans.make_plan(pipe.transformer), tmp_path / "studies" / "demo-3x" / "plan.json")
    (lines,) = blocks("hub", "")
    push, find = (shlex.split(line) for line in lines.splitlines())
    assert commands.run(*push[1:]).stdout.startswith("hf://someone/plans#")
    asked = ["tiny:pipeline" if word == "demo" else "12" if word == "50" else word for word in find[1:]]
    assert commands.run(*asked).stdout.startswith("repository/plan.json: test; transformer 4 of 12 steps")
    kept, commit = tmp_path / "cache" / "models--someone--plans", "a" * 40
    shutil.copytree(tmp_path / "repository", kept / "snapshots" / commit)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    names: dict[str, Any] = {"pipe": pipe}
    (code,) = blocks("hub")
    exec(code, names)  # noqa: S102
    pipe("red heart", num_inference_steps=plans.STEPS)
    assert names["session"].report().computed == 4


def test_comfyui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    host.install(monkeypatch)
    with torch.device("meta"):
        network = FluxTransformer2DModel(
            in_channels=host.LATENT,
            num_layers=2,
            num_single_layers=3,
            attention_head_dim=host.WIDTH,
            num_attention_heads=1,
            joint_attention_dim=host.TEXT,
            pooled_projection_dim=host.TEXT,
        )
    save_plan(plans.make_plan(network), tmp_path / "plan.json")
    names: dict[str, Any] = {"model": host.model_of(host.Flux(), 1.0)}
    (code,) = blocks("comfyui")
    exec(code, names)  # noqa: S102
    assert len(names["sigmas"]) == plans.STEPS + 1
    assert names["model"].wrappers.keys() == {"outer_sample", "apply_model"}


def test_the_folder_is_linked(tmp_path: Path) -> None:
    (line,) = blocks("comfyui", "")
    (tmp_path / "ComfyUI" / "custom_nodes").mkdir(parents=True)
    paths = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }
    subprocess.run(["bash", "-c", line], cwd=tmp_path, env=os.environ | paths, check=True)  # noqa: S607
    assert (tmp_path / "ComfyUI/custom_nodes/hyca/nodes.py").samefile(
        ROOT / "hyca_runtime/integrations/comfyui/nodes.py"
    )
