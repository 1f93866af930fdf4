"""The nodes; what they do is in `planned_run`."""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar

from torch import Tensor

from hyca_runtime.compiled_plan import OnMismatch
from hyca_runtime.errors import PlanError
from hyca_runtime.integrations.comfyui.planned_run import NOTHING, run_of, sigmas_of, with_plan
from hyca_runtime.plan import Plan, load_plan, plan_file

CATEGORY = "model_patches/hyca"

Inputs = dict[str, dict[str, tuple[Any, ...]]]
"""What a node takes, as ComfyUI wants it said."""


class LoadPlan:
    """A plan from a file, a study's folder, or the Hub."""

    CATEGORY, FUNCTION = CATEGORY, "load"
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("HYCA_PLAN",)

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {"required": {"path": ("STRING", {"default": "plan.json"}), "download": ("BOOLEAN", {"default": False})}}

    @classmethod
    def IS_CHANGED(cls, path: str, download: bool) -> str:  # noqa: N802
        """What ComfyUI compares to know whether a node is to be run anew: the content of the file."""
        del download
        try:
            return hashlib.sha256(plan_file(path).read_bytes()).hexdigest()
        except (OSError, PlanError):  # on the Hub, or not there, which `load` tells
            return path

    def load(self, path: str, download: bool) -> tuple[Plan]:
        """Raises PlanError if there is no sound plan."""
        return (load_plan(path, download=download),)


class ApplyPlan:
    """A model that is sampled by a plan; the one that is given is not."""

    CATEGORY, FUNCTION = CATEGORY, "apply"
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        ways = (["adapt", "compute", "error"], {"default": "adapt"})
        return {"required": {"model": ("MODEL",), "plan": ("HYCA_PLAN",), "on_mismatch": ways}}

    def apply(self, model: Any, plan: Plan, on_mismatch: OnMismatch) -> tuple[Any]:
        """Raises PlanMismatchError if the plan is for another model."""
        return (with_plan(model, plan, on_mismatch),)


class PlanSigmas:
    """The sigmas at which a plan was made, for SamplerCustom: a run with them is the plan's own."""

    CATEGORY, FUNCTION = CATEGORY, "sigmas"
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("SIGMAS",)

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {"required": {"model": ("MODEL",), "plan": ("HYCA_PLAN",)}}

    def sigmas(self, model: Any, plan: Plan) -> tuple[Tensor]:
        """Raises PlanMismatchError if they are not known."""
        return (sigmas_of(plan, model.get_model_object("model_sampling")),)


class PlanReport:
    """What the latest run of a model did; it takes the latent, so that it is asked after the sampler."""

    CATEGORY, FUNCTION, OUTPUT_NODE = CATEGORY, "report", True
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("STRING",)

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:  # noqa: N802
        return {"required": {"model": ("MODEL",), "latent": ("LATENT",)}}

    def report(self, model: Any, latent: Any) -> dict[str, Any]:
        """As text, shown and handed on."""
        del latent
        run = run_of(model)
        text = run.report if run is not None else f"{NOTHING}; no plan is applied to it"
        return {"ui": {"text": [text]}, "result": (text,)}
