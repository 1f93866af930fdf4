"""What the pages of docs/integrations tell is run, with stand-ins for hosts that are not here."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import tiny
from commands import run
from hosted import Served, Staged
from plans import STEPS, make_plan

from hyca_calib.baselines.cache_dit import package
from hyca_calib.baselines.foreign_caches import untouched
from hyca_runtime import load_plan, save_plan
from hyca_runtime.integrations import sglang, vllm_omni
from hyca_runtime.integrations.hosts import TESTED

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "integrations"


def snippets(page: str, language: str = "") -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", (PAGES / f"{page}.md").read_text(), re.DOTALL | re.MULTILINE)
    return [text for named, text in fenced if named == language]


def command(page: str, beginning: str) -> list[str]:
    """The words of the command of a page that begins so."""
    (line,) = (text for text in snippets(page) if text.startswith(beginning))
    return shlex.split(line)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("host", TESTED)
def test_a_page_installs_what_is_tested(host: str) -> None:
    page = {"xfuser": "parallel"}.get(host, host)
    (line,) = (text for text in snippets(page) if text.startswith("pip install"))
    assert line.startswith("pip install hyca ")
    assert f"=={TESTED[host]}" in line
    assert host in line
    assert f" {TESTED[host]}" in (PAGES / f"{page}.md").read_text().split(line)[0]


@pytest.mark.skipif(importlib.util.find_spec("cache_dit") is None, reason="cache-dit is not installed")
def test_cache_dit() -> None:
    pipe = tiny.pipeline()
    save_plan(make_plan(pipe.transformer), "plan.json")
    words = command("cache-dit", "hyca export")
    assert run(*words[1:]).exit_code == 0
    masks, taps, back = snippets("cache-dit", "python")
    for text in (masks, taps):
        ran: list[int] = []
        handle = pipe.transformer.single_transformer_blocks[-1].register_forward_hook(lambda *_, ran=ran: ran.append(1))
        with untouched(pipe):
            adapter = package().get_adapter(pipe.transformer)  # what it makes of pipelines whose class it knows
            adapter.pipe = pipe
            exec(text, {"pipe": adapter})  # noqa: S102  # the page's own
            pipe("red cat", num_inference_steps=STEPS)
        handle.remove()
        assert len(ran) == len(load_plan("plan.json").section.schedule.computed_steps)
    exec(back, {})  # noqa: S102
    assert load_plan("theirs.json").section.schedule == load_plan("plan.json").section.schedule


class Omni:
    """Brings its plugins, then does as its runner."""

    made: ClassVar[list[tuple[Served, vllm_omni.HycaBackend]]] = []

    def __init__(self, model: str, cache_backend: str, cache_config: Any) -> None:
        served = Served(Path.cwd())
        backend = import_module(vllm_omni.SELECTOR).get_cache_backend(cache_backend, cache_config)
        backend.enable(served.pipeline)
        backend.refresh(served.pipeline, STEPS)
        served.pipeline()
        self.made.append((served, backend))


def test_vllm_omni(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("vllm_omni", "vllm_omni.diffusion", "vllm_omni.diffusion.cache", vllm_omni.SELECTOR):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    vars(sys.modules[vllm_omni.SELECTOR])["get_cache_backend"] = lambda *_: pytest.fail("an unknown name")
    vars(sys.modules["vllm_omni"])["Omni"] = Omni
    vllm_omni.register()
    words = command("vllm-omni", "vllm serve")
    given = dict(zip(words[4::2], words[5::2], strict=True))
    assert given.keys() == {"--cache-backend", "--cache-config"}
    Omni(words[2], given["--cache-backend"], json.loads(given["--cache-config"]))
    exec(snippets("vllm-omni", "python")[0], {})  # noqa: S102
    assert ["4 of 12 steps computed" in backend.report() for _, backend in Omni.made] == [True, True]


class DiffGenerator:
    """Keeps what it is asked."""

    asked: ClassVar[dict[str, Any]] = {}

    @classmethod
    def from_pretrained(cls, model_path: str) -> DiffGenerator:
        return cls()

    def generate(self, sampling_params_kwargs: dict[str, Any]) -> None:
        self.asked.update(sampling_params_kwargs)


def test_sglang(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Staged(Path("plan.json"))
    for name in ("sglang", "sglang.multimodal_gen"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    vars(sys.modules["sglang.multimodal_gen"])["DiffGenerator"] = DiffGenerator
    exec(snippets("sglang", "python")[0], {})  # noqa: S102
    expected = sglang.request_params(load_plan("plan.json").section)
    assert DiffGenerator.asked == {"prompt": "a heart", **expected}
    assert run("export", "plan.json", "--to", "sglang", "--out", "request.json").exit_code == 0
    assert json.loads(Path("request.json").read_text()) == expected
    variable = command("sglang", "HYCA_PLAN")[0].split("=")
    assert variable == [sglang.PLAN, "plan.json"]
    monkeypatch.setenv(*variable)
    stage.stage.hook = sglang.follow
    assert stage.stage.run().isfinite().all()


@pytest.mark.parametrize("name", ["cache-dit", "sglang", "vllm-omni"])
def test_links_of_pages(name: str) -> None:
    for link in re.findall(r"\]\((?!http|#)([^)#]+)", (PAGES / f"{name}.md").read_text()):
        assert (PAGES / link).exists(), f"{name}.md links to {link}"


def test_plugins_are_named_where_hosts_look() -> None:
    """And what is named is there."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    for group in ("vllm_omni.general_plugins", "sglang.multimodal_gen.plugins"):
        module, _, function = groups[group]["hyca"].partition(":")
        found: Callable[[], None] = getattr(import_module(module), function)
        assert found.__module__ == module
