"""The cache backend for vLLM-Omni, on a stand-in for its pipeline and by its runner's steps.

The runner (vllm_omni/diffusion/worker/diffusion_model_runner.py, 0.30.0) asks the selector for a backend, calls
``enable(pipeline)`` once, and before each request, if ``is_enabled()``, ``refresh(pipeline, num_inference_steps)``;
never where a request leaves its number of steps open. The pipeline's loop is that of its FluxPipeline.diffuse.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hosted import Pipeline, Served, Undressed
from plans import STEPS, changed
from torch import nn

from hyca_runtime import PlanError, PlanMismatchError, PlanMismatchWarning, apply_plan, save_plan
from hyca_runtime.fingerprint import config_digest
from hyca_runtime.integrations.vllm_omni import RUNNER, SELECTOR, register
from hyca_runtime.policies import CarefulEnd


@pytest.fixture
def case(tmp_path: Path) -> Served:
    return Served(tmp_path)


def test_a_server_follows_the_plan(case: Served, caplog: pytest.LogCaptureFixture) -> None:
    """Latents are those of the plan on diffusers' own network; afterwards the host's is as it was."""
    full, backend = case.pipeline(), case.backend()
    backend.enable(case.pipeline)
    assert backend.is_enabled()
    drawn = []
    with caplog.at_level(logging.INFO, "hyca_runtime"):
        for _ in range(2):
            backend.refresh(case.pipeline, STEPS)
            drawn.append(case.pipeline())
    assert "4 of 12 steps" in backend.report()
    assert "the run before: 4 of 12 steps" in caplog.text
    backend.disable(case.pipeline)
    assert not backend.is_enabled()
    assert torch.equal(case.pipeline(), full)
    theirs = Pipeline(Undressed(case.of), None)
    with apply_plan(case.of, case.plan, "error"):
        expected = theirs()
    assert torch.equal(drawn[0], drawn[1])
    torch.testing.assert_close(drawn[0], expected, rtol=0, atol=1e-6)
    assert (drawn[0] - full).abs().max() > 1e-4


def test_requests_that_are_not_announced(case: Served) -> None:
    """vLLM-Omni leaves out `refresh` where a request does not say its steps; a cancelled one ends in the midst."""
    backend = case.backend()
    backend.enable(case.pipeline)
    expected = case.pipeline()
    scheduler = case.pipeline.scheduler
    step, done = scheduler.step, list[int]()

    def cancelled(*args: Any, **kwargs: Any) -> Any:
        done.append(1)
        if len(done) == 6:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "step", cancelled)
        with pytest.raises(KeyboardInterrupt):
            case.pipeline(seed=1)
    assert torch.equal(case.pipeline(), expected)


def test_a_plan_that_cannot_be_had_changes_nothing(case: Served) -> None:
    backend = case.backend()
    backend.enable(case.pipeline)
    expected = case.pipeline()
    case.path.unlink()
    with pytest.raises(PlanError, match="cannot read the plan"):
        backend.enable(case.pipeline)
    assert backend.is_enabled()
    assert torch.equal(case.pipeline(), expected)


def test_a_request_with_other_steps_is_computed_and_says_so(case: Served) -> None:
    full, backend = case.pipeline(steps=7), case.backend()
    backend.enable(case.pipeline)
    backend.refresh(case.pipeline, 7)
    with pytest.warns(PlanMismatchWarning):
        assert torch.equal(case.pipeline(steps=7), full)
    strict = case.backend(on_mismatch="error")
    backend.disable(case.pipeline)
    strict.enable(case.pipeline)
    with pytest.raises(PlanMismatchError):
        case.pipeline(steps=7)


def test_a_plan_of_the_hosts_own_network_needs_no_configuration(case: Served) -> None:
    case.pipeline.od_config = None  # type: ignore[assignment]
    with pytest.raises(PlanMismatchError, match="vLLM-Omni keeps no configuration of it; trace this checkpoint"):
        case.backend().enable(case.pipeline)
    own = case.plan.section.model.model_copy(update={"config_digest": config_digest(case.pipeline.transformer)})
    save_plan(changed(case.plan, model=own), case.path)
    case.backend().enable(case.pipeline)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda case: vars(case.pipeline.od_config.tf_model_config)["params"].update(num_layers=3), "of configuration"),
        (
            lambda case: vars(case.pipeline.od_config.tf_model_config)["params"].update(num_layers="x"),
            "of configuration",
        ),
        (lambda case: case.pipeline.__setattr__("transformer", nn.Linear(2, 2)), "vLLM-Omni has a Linear"),
        (lambda case: case.pipeline.__delattr__("transformer"), "vLLM-Omni's pipeline does not have"),
    ],
)
def test_another_network_is_refused(case: Served, change: Callable[[Served], None], told: str) -> None:
    change(case)
    with pytest.raises(PlanMismatchError, match=told):
        case.backend().enable(case.pipeline)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"plan": None}, 'expected \'{"plan": "plan.json"}\''),
        ({"on_mismatched": "error"}, "unknown key 'on_mismatched'; did you mean \"on_mismatch\""),
        ({"on_mismatch": "ignore"}, "on_mismatch: expected one of"),
        ({"plan": "nowhere.json"}, "cannot read the plan"),
    ],
)
def test_bad_settings_are_told(case: Served, settings: dict[str, Any], told: str) -> None:
    backend = case.backend(**settings)
    with pytest.raises(PlanError) as caught:
        backend.enable(case.pipeline)
    assert told in str(caught.value)
    assert not backend.is_enabled()


def test_several_processes_take_no_policy(case: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    save_plan(changed(case.plan, policy=CarefulEnd().spec()), case.path)
    case.backend().enable(case.pipeline)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(PlanError, match=r"decides in each run \(careful_end\), and 2 processes"):
        case.backend().enable(case.pipeline)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """vLLM-Omni's modules with the selector, as far as the adapter meets them."""
    for name in ("vllm_omni", "vllm_omni.diffusion", "vllm_omni.diffusion.cache", "vllm_omni.diffusion.worker"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    selector, runner = ModuleType(SELECTOR), ModuleType(RUNNER)

    def get_cache_backend(cache_backend: str | None, cache_config: Any) -> Any:
        if cache_backend is None or cache_backend == "none":
            return None
        raise ValueError(f"Unsupported cache backend: {cache_backend}.")

    for module in (selector, runner):
        vars(module)["get_cache_backend"] = get_cache_backend
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return runner


def test_the_selector_learns_the_name_once(server: ModuleType, case: Served) -> None:
    register()
    learnt = server.get_cache_backend
    register()
    assert server.get_cache_backend is learnt
    assert sys.modules[SELECTOR].get_cache_backend is learnt
    backend = learnt("hyca", {"plan": str(case.path)})
    backend.enable(case.pipeline)
    assert backend.is_enabled()
    assert learnt("none", None) is None
    with pytest.raises(ValueError, match="Unsupported cache backend: tea"):
        learnt("tea", None)


def test_another_vllm_omni_is_told_and_left_alone(
    server: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = server.get_cache_backend
    monkeypatch.setitem(sys.modules, SELECTOR, None)
    register()
    assert server.get_cache_backend is before
    assert "no cache backend 'hyca'" in caplog.text
    assert "written against vllm-omni==" in caplog.text
