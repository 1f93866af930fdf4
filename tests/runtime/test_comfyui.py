"""Plans in ComfyUI: the nodes, on a stand-in for the parts of it that they meet."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import comfy_host as host
import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel, WanTransformer3DModel
from plans import STEPS, changed, make_plan, probing_plan
from torch import Tensor, nn

import hyca_runtime.integrations.comfyui as folder
from hyca_runtime import AttachError, Plan, PlanMismatchError, save_plan
from hyca_runtime.fingerprint import config_digest
from hyca_runtime.integrations.comfyui.architectures import fingerprint_of
from hyca_runtime.integrations.comfyui.nodes import ApplyPlan, LoadPlan, PlanReport, PlanSigmas
from hyca_runtime.solvers import Hold

COMPUTED = (0, 1, 4, 8)


def flux(**fields: Any) -> FluxTransformer2DModel:
    """Diffusers' own network of the sizes that the host's has."""
    made = {"num_layers": 2, "num_single_layers": 3, "attention_head_dim": host.WIDTH, "num_attention_heads": 1}
    made |= {"in_channels": host.LATENT, "joint_attention_dim": host.TEXT, "pooled_projection_dim": host.TEXT}
    with torch.device("meta"):
        return FluxTransformer2DModel(**made | fields)


@pytest.fixture
def plan() -> Plan:
    return make_plan(flux(), COMPUTED, (Hold(),))


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> host.ModelPatcher:
    host.install(monkeypatch)
    torch.manual_seed(0)
    return host.model_of(host.Flux(), 1.0)


class Seen:
    """Calls of the blocks, and what comes to the final layer."""

    def __init__(self, network: Any) -> None:
        self.blocks, self.features = 0, list[Tensor]()
        network.double_blocks[0].register_forward_hook(self._count)
        network.final_layer.register_forward_pre_hook(self._keep)

    def _count(self, *_: Any) -> None:
        self.blocks += 1

    def _keep(self, module: nn.Module, args: Any) -> None:
        self.features.append(args[0].clone())


def sample(model: host.ModelPatcher, sigmas: Tensor, shared: bool = True, combined: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    cond, uncond, more = (torch.randn(1, 5, host.TEXT, generator=generator) for _ in range(3))
    noise = torch.randn(1, 4, 8, 8, generator=generator)
    guider = host.Guider(model, cond, uncond, shared, more if combined else None)
    return guider.sample(noise, torch.zeros_like(noise), sigmas)


@pytest.mark.parametrize(("shared", "calls"), [(True, 1), (False, 2), (False, 3)])
def test_a_model_is_sampled_by_a_plan(
    model: host.ModelPatcher, plan: Plan, tmp_path: Path, shared: bool, calls: int
) -> None:
    save_plan(plan, tmp_path / "plan.json")
    (loaded,) = LoadPlan().load(str(tmp_path), download=False)
    (planned,) = ApplyPlan().apply(model, loaded, "error")
    (sigmas,) = PlanSigmas().sigmas(planned, loaded)
    assert sigmas.tolist() == pytest.approx([*np.linspace(1, 1 / STEPS, STEPS), 0])
    combined = calls == 3
    full, seen = sample(model, sigmas, shared, combined), Seen(model.model.diffusion_model)
    found = sample(planned, sigmas, shared, combined)
    assert seen.blocks == calls * len(COMPUTED)
    assert not torch.equal(found, full)
    for step in range(STEPS):  # every feature is that of the latest computed step, of its own conditioning
        latest = max(c for c in COMPUTED if c <= step)
        for call in range(calls):
            assert torch.equal(seen.features[calls * step + call], seen.features[calls * latest + call])
    report = PlanReport().report(planned, {})
    assert report["result"][0].startswith("4 of 12 steps computed")
    assert report["ui"]["text"] == [report["result"][0]]


def test_the_network_is_what_it_was(model: host.ModelPatcher, plan: Plan) -> None:
    """It is shared by all nodes: after the run, and after one that fails, nothing of the plan is on it."""
    (planned,) = ApplyPlan().apply(model, plan, "error")
    (sigmas,) = PlanSigmas().sigmas(planned, plan)
    before = sample(model, sigmas)
    sample(planned, sigmas)
    assert torch.equal(sample(model, sigmas), before)
    network = model.model.diffusion_model
    handle = network.final_layer.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sample(planned, sigmas)
    handle.remove()
    assert "forward" not in vars(network)
    assert torch.equal(sample(model, sigmas), before)
    assert PlanReport().report(model, {})["result"][0].endswith("no plan is applied to it")


def test_another_plan_takes_the_place_of_the_first(model: host.ModelPatcher, plan: Plan) -> None:
    (planned,) = ApplyPlan().apply(model, plan, "error")
    (again,) = ApplyPlan().apply(planned, make_plan(flux(), (0, 6), (Hold(),)), "error")
    sample(again, PlanSigmas().sigmas(again, plan)[0])
    assert PlanReport().report(again, {})["result"][0].startswith("2 of 12 steps computed")


def test_a_file_that_changes_is_loaded_anew(plan: Plan, tmp_path: Path) -> None:
    """ComfyUI runs a node again only where what `IS_CHANGED` says is another."""
    save_plan(plan, tmp_path / "plan.json")
    before = LoadPlan.IS_CHANGED(str(tmp_path), download=False)
    assert LoadPlan.IS_CHANGED(str(tmp_path / "plan.json"), download=False) == before
    save_plan(make_plan(flux(), (0, 6), (Hold(),)), tmp_path / "plan.json")
    assert LoadPlan.IS_CHANGED(str(tmp_path), download=False) != before
    for elsewhere in ("hf://someone/plans", str(tmp_path / "nowhere.json")):
        assert LoadPlan.IS_CHANGED(elsewhere, download=True) == elsewhere


def test_sigmas_of_its_own(model: host.ModelPatcher, plan: Plan) -> None:
    """ComfyUI's schedulers have other times: the plan is adapted to them."""
    (planned,) = ApplyPlan().apply(model, plan, "adapt")
    sample(planned, torch.tensor([*np.linspace(1, 0.1, 20) ** 1.05, 0]))
    told = PlanReport().report(planned, {})["result"][0]
    assert "of 20 steps computed" in told
    assert int(told.split()[0]) < 12


def test_models_are_known_by_their_weights() -> None:
    for network, theirs in ((flux(), host.Flux()), (flux(num_layers=1), host.Flux(double=1))):
        found = fingerprint_of(theirs)
        assert (found.transformer, found.config_digest) == ("FluxTransformer2DModel", config_digest(network))
    with torch.device("meta"):
        wan = WanTransformer3DModel(
            num_attention_heads=1, attention_head_dim=host.WIDTH, text_dim=host.TEXT, ffn_dim=48, num_layers=2
        )
    assert fingerprint_of(host.Wan()).config_digest == config_digest(wan)
    pictures = host.Wan()
    pictures.img_emb = nn.Linear(2, 2)
    with pytest.raises(AttachError, match="this variant is not known here"):
        fingerprint_of(pictures)
    with pytest.raises(AttachError, match="not named as those of FluxTransformer2DModel, WanTransformer3DModel"):
        fingerprint_of(nn.Linear(2, 2))


def test_plans_that_cannot_be_followed_are_refused(model: host.ModelPatcher, plan: Plan) -> None:
    other = make_plan(flux(num_layers=3))
    branches = changed(
        plan,
        schedule=plan.section.schedule.model_copy(
            update={"tables": plan.section.schedule.tables | {"uncond": plan.section.schedule.tables["*"]}}
        ),
    )
    refused = {
        "by its weights this model is a FluxTransformer2DModel": other,
        "in ComfyUI plans forecast at 'trunk'": probing_plan(flux()),
        "search a plan with one table for all": branches,
        "each network is a MODEL of its own": changed(plan, component="transformer_2"),
    }
    for told, one in refused.items():
        with pytest.raises(PlanMismatchError, match=told):
            ApplyPlan().apply(model, one, "adapt")
    model.model.model_sampling.timestep = lambda sigma: sigma**2
    with pytest.raises(PlanMismatchError, match="not proportional to its noise"):
        PlanSigmas().sigmas(model, plan)


def test_another_comfyui_is_told(model: host.ModelPatcher, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    host.install(monkeypatch, type("WrappersMP", (), {"OUTER_SAMPLE": "outer_sample"}))
    with pytest.raises(AttachError, match=r"not the ComfyUI that is expected .WrappersMP has no APPLY_MODEL"):
        ApplyPlan().apply(model, plan, "adapt")
    host.install(monkeypatch)
    monkeypatch.delattr(host.ModelPatcher, "add_wrapper_with_key")
    with pytest.raises(AttachError, match="has no attribute 'add_wrapper_with_key'"):
        ApplyPlan().apply(model, plan, "adapt")
    monkeypatch.setitem(sys.modules, "comfy", None)
    with pytest.raises(AttachError, match="not the ComfyUI that is expected"):
        ApplyPlan().apply(model, plan, "adapt")


def test_the_folder_is_a_custom_node() -> None:
    """ComfyUI runs the ``__init__.py`` of a folder under a name of its own, and reads two tables."""
    path = Path(folder.__file__)
    spec = importlib.util.spec_from_file_location(
        "custom_nodes.hyca", path, submodule_search_locations=[str(path.parent)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.NODE_CLASS_MAPPINGS.keys() == module.NODE_DISPLAY_NAME_MAPPINGS.keys()
    for node in module.NODE_CLASS_MAPPINGS.values():
        takes = node.INPUT_TYPES()["required"]
        assert list(takes) == [*getattr(node, node.FUNCTION).__annotations__][: len(takes)]
        assert isinstance(node.RETURN_TYPES, tuple)
        assert node.CATEGORY == "model_patches/hyca"
