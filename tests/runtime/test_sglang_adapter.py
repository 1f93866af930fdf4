"""The plugin for SGLang on a stand-in for its denoising stage, and the parameters of a request.

The stage (sglang/multimodal_gen/runtime/pipelines_core/stages/denoising.py, 0.5.23) calls
``_maybe_enable_cache_dit(num_inference_steps, batch)`` once a request, before compilation, and then the network with
its scheduler's own timesteps.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hosted import TRAINED, FluxTransformer2DModel, Staged, Undressed, diffused
from plans import STEPS, changed, layered_plan, make_plan

from hyca_runtime import AttachError, Plan, PlanError, PlanMismatchError, apply_plan, save_plan
from hyca_runtime.integrations.cache_dit import steps_mask
from hyca_runtime.integrations.sglang import HOOKED, PLAN, PLUGINS, bins, follow, register, request_params
from hyca_runtime.policies import ChangeSinceComputed
from hyca_runtime.schedule import Schedule


class HookType(Enum):
    AFTER = "after"


class HookRegistry:
    """As in sglang/srt/plugins/hook_registry.py: an AFTER hook is given the result, then the arguments."""

    registered: dict[str, tuple[Callable[..., Any], HookType]]

    @classmethod
    def register(cls, target: str, hook: Callable[..., Any], hook_type: HookType = HookType.AFTER) -> None:
        cls.registered[target] = hook, hook_type


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Staged:
    monkeypatch.setenv(PLAN, str(tmp_path / "plan.json"))
    return Staged(tmp_path / "plan.json")


def test_a_stage_follows_the_plan(case: Staged, caplog: pytest.LogCaptureFixture) -> None:
    full = case.stage.run()
    case.stage.hook = follow
    with caplog.at_level(logging.INFO, "hyca_runtime"):
        drawn = [case.stage.run() for _ in range(2)]
    assert "the run before: 4 of 12 steps" in caplog.text
    with apply_plan(case.of, case.plan, "error"):
        expected = diffused(Undressed(case.of), FlowMatchEulerDiscreteScheduler(), STEPS, 0, unit=1.0)
    assert torch.equal(drawn[0], drawn[1])
    torch.testing.assert_close(drawn[0], expected, rtol=0, atol=1e-5)
    assert (drawn[0] - full).abs().max() > 1e-4


def test_a_network_that_is_loaded_anew_follows_it_too(case: Staged) -> None:
    case.stage.hook = follow
    drawn = case.stage.run()
    again = FluxTransformer2DModel(case.of, TRAINED)
    again.hf_config = dict(case.of.config)  # type: ignore[assignment]
    case.stage.transformer = again
    assert torch.equal(case.stage.run(), drawn)


def test_one_of_two_networks_is_loaded_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first, second, again = (tiny.pipeline().transformer for _ in range(3))
    section = make_plan(first).section
    save_plan(
        Plan(name="two", sections=(section, section.model_copy(update={"component": "transformer_2"}))),
        tmp_path / "two.json",
    )
    monkeypatch.setenv(PLAN, str(tmp_path / "two.json"))
    stage = SimpleNamespace(transformer=first, transformer_2=second, server_args=SimpleNamespace())
    for network in (first, first, again):
        stage.transformer = network
        assert follow("made", stage, STEPS, SimpleNamespace()) == "made"
    assert "forward" not in vars(first)
    assert "forward" in vars(again)


@pytest.mark.parametrize("other", ["enable_teacache", "enable_spectrum", "cache-dit", "graphs"])
def test_another_cache_is_refused(case: Staged, other: str) -> None:
    case.stage.hook = follow
    case.stage._cache_dit_enabled = other == "cache-dit"
    case.stage.server_args.enable_breakable_cuda_graph = other == "graphs"
    with pytest.raises(AttachError, match=f"switched on, and a plan is to be followed; unset {PLAN}"):
        case.stage.run(**({other: True} if other.startswith("enable") else {}))


def test_another_checkpoint_is_refused(case: Staged) -> None:
    case.stage.hook = follow
    case.stage.transformer.hf_config = {**case.of.config, "num_layers": 5}  # type: ignore[assignment]
    with pytest.raises(PlanMismatchError, match="SGLang has one of configuration"):
        case.stage.run()


def test_the_plugin_hooks_where_a_plan_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plugins = ModuleType(PLUGINS)
    vars(plugins).update(HookRegistry=HookRegistry, HookType=HookType)
    HookRegistry.registered = {}
    monkeypatch.setitem(sys.modules, PLUGINS, plugins)
    monkeypatch.delenv(PLAN, raising=False)
    register()
    assert HookRegistry.registered == {}
    monkeypatch.setenv(PLAN, str(tmp_path / "plan.json"))
    register()
    assert HookRegistry.registered == {HOOKED: (follow, HookType.AFTER)}
    monkeypatch.setitem(sys.modules, PLUGINS, None)
    with pytest.raises(AttachError, match="pip install sglang=="):
        register()


@pytest.mark.parametrize("mask", [[1, 0, 0, 1], [1, 1, 0], [1, 0], [1, 0, 1, 0, 1], [1]])
def test_bins_are_runs(mask: list[int]) -> None:
    computed, cached = bins(mask)
    told = [step for pair in zip(computed, [*cached, 0], strict=False) for step in (*[1] * pair[0], *[0] * pair[1])]
    assert told == mask


def test_a_request_says_what_the_plan_computes() -> None:
    plan = make_plan(tiny.pipeline().transformer)
    found = request_params(plan.section)
    assert found == {
        "num_inference_steps": STEPS,
        "enable_cache_dit": True,
        "cache_dit_params": {
            "Fn_compute_blocks": 1,
            "Bn_compute_blocks": 0,
            "max_warmup_steps": 2,
            "enable_taylorseer": True,
            "taylorseer_order": 1,
            "scm_compute_bins": [2, 1, 1],
            "scm_cache_bins": [2, 3, 3],
            "scm_policy": "static",
        },
    }
    assert steps_mask(plan.section) == [1, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]
    everything = changed(plan, schedule=Schedule.from_steps(STEPS, range(STEPS)))
    assert request_params(everything.section) == {"num_inference_steps": STEPS, "enable_cache_dit": False}
    decides = changed(
        make_plan(tiny.pipeline().transformer, point="behind:2"), policy=ChangeSinceComputed(0.1, 2, 4).spec()
    )
    told = request_params(decides.section)["cache_dit_params"]
    assert told["residual_diff_threshold"] == 0.1
    assert (told["Fn_compute_blocks"], told["max_warmup_steps"], told["max_continuous_cached_steps"]) == (2, 4, -1)
    assert "scm_policy" not in told
    with pytest.raises(PlanError):
        request_params(layered_plan(tiny.pipeline().transformer).section)
