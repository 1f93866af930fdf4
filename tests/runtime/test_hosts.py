"""What hosts really are, held against what the adapters take them for: fails where a release has another interface.

cache-dit is read where it is installed. vLLM-Omni, SGLang and xDiT need GPUs and much else to be installed; their
sources are read from wheels where ``HYCA_HOST_WHEELS`` names a folder of them, and the parts that import nothing are
run.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Optional

import pytest
import tiny
import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor
from hosted import plan_for
from packaging.version import Version
from plans import STEPS, make_plan
from releases import WHEELS, Release

from hyca_calib.baselines.cache_dit import package
from hyca_calib.search.step_caches.cache_dit_config import NEUTRAL
from hyca_runtime import apply_plan, save_plan
from hyca_runtime.integrations import sglang, vllm_omni
from hyca_runtime.integrations.cache_dit import steps_mask
from hyca_runtime.integrations.cache_dit_taps import FACTORY, PlanCalibrator, PlanCalibratorConfig
from hyca_runtime.integrations.hosts import TESTED, host_module

OMNI = "vllm_omni/diffusion"
STAGES = "sglang/multimodal_gen/runtime/pipelines_core/stages/denoising.py"
CACHE_DIT = "sglang/multimodal_gen/runtime/cache/cache_dit_integration.py"
HOOKS = "sglang/srt/plugins/hook_registry.py"
GROUPS = "xfuser/core/distributed"
FLUX = "xfuser/model_executor/models/transformers/transformer_flux.py"


def arguments(function: Any) -> list[str]:
    """As `Release.arguments` has them."""
    return [
        name if known.default is known.empty else f"{name}={known.default!r}"
        for name, known in inspect.signature(function).parameters.items()
        if known.kind is known.POSITIONAL_OR_KEYWORD
    ]


def test_cache_dit() -> None:
    pytest.importorskip("cache_dit")
    found, told = version("cache-dit"), "cache-dit has another interface; mend hyca_runtime/integrations/cache_dit*.py"
    assert Version(found) >= Version(TESTED["cache-dit"]), f"cache-dit {found} is older than what is tested"
    host = package()
    settings = {field.name: field.default for field in dataclasses.fields(host.DBCacheConfig)}
    assert {name: settings.get(name, "missing") for name in NEUTRAL} == NEUTRAL, told
    calibrator = host_module("cache_dit.caching.cache_contexts.calibrators", "cache-dit")
    for name in ("reset_cache", "mark_step_begin", "update", "approximate"):
        assert arguments(getattr(PlanCalibrator, name)) == arguments(getattr(calibrator.FoCaCalibrator, name)), told
    fields = {field.name for field in dataclasses.fields(host.CalibratorConfig)} - {"calibrator_kwargs"}
    assert fields == {field.name for field in dataclasses.fields(PlanCalibratorConfig)} - {"section"}, told
    assert "Calibrator(self.calibrator_config)" in inspect.getsource(host_module(FACTORY, "cache-dit")), told


def test_the_pin_of_vllm_omni() -> None:
    release = Release("vllm-omni")
    assert release.version == TESTED["vllm-omni"], release.told(f"tested is {TESTED['vllm-omni']}")


def test_the_backends_of_vllm_omni() -> None:
    release = Release("vllm-omni")
    for name in ("enable", "refresh", "is_enabled"):
        theirs = release.arguments(f"{OMNI}/cache/base.py", f"CacheBackend.{name}")
        assert arguments(getattr(vllm_omni.HycaBackend, name)) == theirs, release.told(
            f"CacheBackend.{name} is {theirs}"
        )
    runner = release.text(f"{OMNI}/worker/diffusion_model_runner.py")
    for line in (
        "from vllm_omni.diffusion.cache.selector import get_cache_backend",
        "get_cache_backend(self.od_config.cache_backend, self.od_config.cache_config)",
        "self.cache_backend.enable(self.pipeline)",
        "self.cache_backend.refresh(self.pipeline, num_inference_steps)",
    ):
        assert line in runner, release.told(f"its runner has no {line}")
    assert 'OMNI_DEFAULT_PLUGINS_GROUP = "vllm_omni.general_plugins"' in release.text("vllm_omni/plugins/__init__.py")
    assert {"params"} <= release.fields(f"{OMNI}/data.py", "TransformerConfig"), release.told("TransformerConfig")
    assert {"tf_model_config", "cache_config"} <= release.fields(f"{OMNI}/data.py", "OmniDiffusionConfig")


def test_the_selector_of_vllm_omni_learns_the_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its own function and configuration, run; what they import of backends is left out."""
    release = Release("vllm-omni")
    given = {"dataclass": dataclasses.dataclass, "field": dataclasses.field, "fields": dataclasses.fields, "Any": Any}
    config = release.run(f"{OMNI}/data.py", ("DiffusionCacheConfig",), given)["DiffusionCacheConfig"]
    theirs: dict[str, Any] = {"DiffusionCacheConfig": config, "Any": Any, "TeaCacheBackend": lambda found: found}
    found = release.run(f"{OMNI}/cache/selector.py", ("get_cache_backend",), theirs)["get_cache_backend"]
    for name in ("vllm_omni", "vllm_omni.diffusion", "vllm_omni.diffusion.cache"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    selector = ModuleType(vllm_omni.SELECTOR)
    vars(selector)["get_cache_backend"] = found
    monkeypatch.setitem(sys.modules, vllm_omni.SELECTOR, selector)
    vllm_omni.register()
    save_plan(plan_for(tiny.pipeline().transformer), tmp_path / "plan.json")
    told = json.loads(f'{{"plan": "{tmp_path}/plan.json"}}')
    for settings in (told, config.from_dict(told)):
        backend = selector.get_cache_backend("hyca", settings)
        assert vllm_omni._settings(backend.config) == (told["plan"], "compute"), release.told("--cache-config is lost")
    assert selector.get_cache_backend("tea_cache", {"rel_l1_thresh": 0.3}).rel_l1_thresh == 0.3
    with pytest.raises(ValueError, match="Unsupported cache backend"):
        selector.get_cache_backend("unheard", {})


def test_the_pin_of_sglang() -> None:
    release = Release("sglang")
    assert release.version == TESTED["sglang"], release.told(f"tested is {TESTED['sglang']}")


def test_requests_are_those_that_sglang_takes() -> None:
    """Its own strict reader and mask, run: a request computes the plan's steps."""
    pytest.importorskip("cache_dit")
    release = Release("sglang")
    names = (
        "CACHE_DIT_REQUEST_KNOB_KEYS",
        "CACHE_DIT_REQUEST_SCM_KEYS",
        "CACHE_DIT_REQUEST_PARAM_KEYS",
        "resolve_cache_dit_request_overrides",
        "get_scm_mask",
    )
    logger = SimpleNamespace(info=lambda *_: None)
    theirs = release.run(CACHE_DIT, names, {"steps_mask": package().steps_mask, "logger": logger})
    section = plan_for(tiny.pipeline().transformer).section
    asked = sglang.request_params(section)
    params = theirs["resolve_cache_dit_request_overrides"](asked["cache_dit_params"])
    mask = theirs["get_scm_mask"](
        "none", asked["num_inference_steps"], params["scm_compute_bins"], params["scm_cache_bins"]
    )
    assert mask == steps_mask(section), release.told("bins make another mask")
    with pytest.raises(ValueError, match="Unknown cache_dit_params keys"):
        theirs["resolve_cache_dit_request_overrides"](params | {"steps_computation_mask": mask})
    sampling = release.fields("sglang/multimodal_gen/configs/sample/sampling_params.py", "SamplingParams")
    assert {"num_inference_steps", "enable_cache_dit", "cache_dit_params"} <= sampling, release.told("SamplingParams")


def test_the_place_that_is_hooked_in_sglang() -> None:
    release = Release("sglang")
    module, owner, method = sglang.HOOKED.rsplit(".", 2)
    assert f"{module.replace('.', '/')}.py" == STAGES
    theirs = release.arguments(STAGES, f"{owner}.{method}")
    assert theirs == ["self", "num_inference_steps", "batch"], release.told(f"{method} is {theirs}")
    source = release.text(STAGES)
    for line in (
        "self._maybe_enable_cache_dit(num_inference_steps, batch)",
        "self.server_args.enable_breakable_cuda_graph",
        "batch.enable_teacache",
        "batch.enable_spectrum",
        "timestep = t_device.repeat(bsz)",
    ):
        assert line in source, release.told(f"its denoising stage has no {line}")
    assert "self.hf_config = hf_config" in release.text("sglang/multimodal_gen/runtime/models/dits/base.py")
    plugins = release.text(f"{sglang.PLUGINS.replace('.', '/')}.py")
    assert 'GENERAL_PLUGINS_GROUP = "sglang.multimodal_gen.plugins"' in plugins, release.told(
        "another group of plugins"
    )


def test_the_hooks_of_sglang_call_the_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own registry, run, on a stage of the same name."""
    release, stage = Release("sglang"), ModuleType(sglang.HOOKED.rsplit(".", 2)[0])
    theirs: dict[str, Any] = {"__name__": "hook_registry"}
    exec(release.text(HOOKS), theirs)  # noqa: S102  # imports the standard library alone
    registry = theirs["HookRegistry"]

    class DenoisingStage:
        def _maybe_enable_cache_dit(self, num_inference_steps: int, batch: Any) -> Any:
            seen.append("sglang")

    seen: list[Any] = []
    plugins = ModuleType(sglang.PLUGINS)
    vars(plugins).update(HookRegistry=registry, HookType=theirs["HookType"])
    vars(stage).update(DenoisingStage=DenoisingStage)
    for module in (plugins, stage):
        parts = module.__name__.split(".")
        for length in range(1, len(parts)):
            outer = ".".join(parts[:length])
            monkeypatch.setitem(sys.modules, outer, sys.modules.get(outer) or _package(outer))
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(sglang, "follow", lambda *told: seen.append(told))
    monkeypatch.setenv(sglang.PLAN, "plan.json")
    sglang.register()
    registry.apply_hooks()
    made = DenoisingStage()
    assert made._maybe_enable_cache_dit(12, "batch") is None
    assert seen == ["sglang", (None, made, 12, "batch")], release.told("hooks are called in another way")


def _package(name: str) -> ModuleType:
    found = ModuleType(name)
    found.__path__ = []
    return found


def test_the_pin_of_xdit() -> None:
    release = Release("xfuser")
    assert release.version == TESTED["xfuser"], release.told(f"tested is {TESTED['xfuser']}")


def test_the_group_of_xdit() -> None:
    """``get_sp_group().device_group``, as the page names it."""
    release = Release("xfuser")
    assert '"get_sp_group",' in release.text(f"{GROUPS}/__init__.py"), release.told("get_sp_group is elsewhere")
    assert release.arguments(f"{GROUPS}/parallel_state.py", "get_sp_group") == []
    assert "def get_sp_group() -> SequenceParallelGroupCoordinator:" in release.text(f"{GROUPS}/parallel_state.py")
    coordinators = release.text(f"{GROUPS}/group_coordinator.py")
    assert "class SequenceParallelGroupCoordinator(GroupCoordinator):" in coordinators, release.told("another group")
    fields = release.fields(f"{GROUPS}/group_coordinator.py", "GroupCoordinator")
    assert "device_group" in fields, release.told("its groups have no device_group")


def test_a_plan_on_the_transformer_of_xdit() -> None:
    """Its own class, run on one rank with diffusers' attention: latents are those of the plan on diffusers' class."""
    release, pipe = Release("xfuser"), tiny.pipeline()
    whole, state = SimpleNamespace(all_gather=lambda part, dim: part), SimpleNamespace()
    given: dict[str, Any] = {"Optional": Optional, "Tuple": tuple, "torch": torch}
    for cut in ("sequence_parallel", "classifier_free_guidance"):
        given |= {f"get_{cut}_rank": lambda: 0, f"get_{cut}_world_size": lambda: 1}
    given |= dict.fromkeys(("get_sp_group", "get_cfg_group"), lambda: whole)
    given |= dict.fromkeys(("register_fp8_comms_eligible_modules", "flux_attn_modules"), lambda *_: None)
    given |= {"get_runtime_state": lambda: state, "xFuserFluxAttnProcessor": FluxAttnProcessor}
    given |= {"FluxTransformer2DModel": FluxTransformer2DModel}
    name = "xFuserFlux1Transformer2DWrapper"
    theirs = release.run(FLUX, (name,), given)[name].from_config(pipe.transformer.config).eval()
    theirs.load_state_dict(pipe.transformer.state_dict())
    plan, drawn = make_plan(pipe.transformer), []
    for network in (pipe.transformer, theirs):
        pipe.transformer = network
        call: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "latent", "return_dict": False}
        with apply_plan(pipe, plan, "error") as session:
            drawn.append(pipe("red heart", generator=torch.Generator().manual_seed(0), **call)[0])
            assert session.report().computed == 4, release.told(f"{name} is called in another way")
    assert torch.equal(*drawn)


def test_another_release_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "vllm_omni-0.99.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{OMNI}/cache/base.py", "class CacheBackend:\n    def enable(self, pipeline, request): ...\n")
    monkeypatch.setenv(WHEELS, str(tmp_path))
    with pytest.raises(
        AssertionError, match=r"vllm-omni 0\.99\.0: tested is .* mend hyca_runtime/integrations/vllm_omni.py"
    ):
        test_the_pin_of_vllm_omni()
    with pytest.raises(
        AssertionError, match=r"CacheBackend.enable is \['self', 'pipeline', 'request'\]; read its interface"
    ):
        test_the_backends_of_vllm_omni()
