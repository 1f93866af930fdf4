"""SGLang's diffusion server: the schedule of a plan in each request, or the plan itself by a plugin.

A request takes cache-dit's settings, among them when to compute, as runs of steps (`request_params`). The plugin
follows one plan for all requests, forecasts included: it hooks the place where SGLang switches cache-dit on for a
request, and is active where the environment names a plan::

    HYCA_PLAN=plan.json sglang serve --model-path black-forest-labs/FLUX.1-dev
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from hyca_runtime.errors import AttachError
from hyca_runtime.integrations.cache_dit import options
from hyca_runtime.integrations.hosted_plan import hosted
from hyca_runtime.integrations.hosts import host_module
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan import Plan, load_plan
from hyca_runtime.session import Session

PLAN = "HYCA_PLAN"
"""The environment's name for the plan that the plugin follows."""

PLUGINS = "sglang.multimodal_gen.runtime.platforms.plugins"
HOOKED = "sglang.multimodal_gen.runtime.pipelines_core.stages.denoising.DenoisingStage._maybe_enable_cache_dit"
"""Called once a request, when the networks are there and before they are compiled."""

logger = logging.getLogger(__name__)

_sessions: WeakKeyDictionary[nn.Module, Session] = WeakKeyDictionary()
"""By a stage's transformer, which stages may share and the server may load anew."""


def request_params(section: NetworkPlan) -> dict[str, Any]:
    """Sampling parameters by which a request computes a plan's steps: ``enable_cache_dit`` and ``cache_dit_params``.

    SGLang refuses keys that it does not know; these are known. What is forecast, and how, is cache-dit's own affair,
    see `hyca_runtime.integrations.cache_dit.options`. A plan that computes every step switches cache-dit off.

    Raises:
        PlanError: cache-dit cannot do what the plan says.
    """
    settings = options(section)["cache_config"]
    steps, mask = settings.pop("num_inference_steps"), settings.pop("steps_computation_mask", None)
    if mask is not None:
        if all(mask):
            return {"num_inference_steps": steps, "enable_cache_dit": False}
        computed, cached = bins(mask)
        policy = settings.pop("steps_computation_policy")
        settings |= {"scm_compute_bins": computed, "scm_cache_bins": cached, "scm_policy": policy}
    return {"num_inference_steps": steps, "enable_cache_dit": True, "cache_dit_params": settings}


def bins(mask: Sequence[int]) -> tuple[list[int], list[int]]:
    """A mask as lengths of runs in turn: of steps that are computed, and of those that are not."""
    runs = [(computed, len(list(run))) for computed, run in groupby(mask)]
    return [n for computed, n in runs if computed], [n for computed, n in runs if not computed]


def register() -> None:
    """Hook SGLang's denoising stage; does nothing where the environment names no plan.

    Raises:
        AttachError: SGLang has no such plugins.
    """
    if os.environ.get(PLAN):
        plugins = host_module(PLUGINS, "sglang")
        plugins.HookRegistry.register(HOOKED, follow, plugins.HookType.AFTER)


def follow(result: Any, stage: Any, num_inference_steps: Any, batch: Any) -> Any:
    """Let a stage's networks follow the plan that the environment names, from their next call on.

    Args:
        result: of the hooked method; handed on.
        stage: SGLang's ``DenoisingStage``.
        num_inference_steps, batch: of the request.

    Raises:
        PlanError: there is no sound plan, or it is for other networks.
        AttachError: the request or the server uses another cache, or CUDA graphs that would keep a step's decision.
    """
    del num_inference_steps
    _check_alone(stage, batch)
    session = _sessions.get(stage.transformer)
    if session is None:
        plan, networks = hosted(load_plan(os.environ[PLAN]), stage, _checkpoint, "SGLang")
        for network in networks.values():  # another of them was loaded anew
            if (before := _sessions.pop(network, None)) is not None:
                before.remove()
        _sessions.update(dict.fromkeys(networks.values(), Session(networks, _in_scheduler_time(plan))))
        return result
    report = session.report()
    if report.steps:
        logger.info("the run before: %s", report)
    session.reset()
    return result


def _check_alone(stage: Any, batch: Any) -> None:
    others = {
        "TeaCache": getattr(batch, "enable_teacache", False),
        "Spectrum": getattr(batch, "enable_spectrum", False),
        "cache-dit": getattr(stage, "_cache_dit_enabled", False),
        "breakable CUDA graphs": getattr(stage.server_args, "enable_breakable_cuda_graph", False),
    }
    used = [name for name, there in others.items() if there]
    if used:
        raise AttachError(f"{used[0]} is switched on, and a plan is to be followed; unset {PLAN} or switch that off")


def _checkpoint(network: nn.Module) -> Mapping[str, Any] | None:
    """The ``config.json`` that SGLang's networks keep."""
    content = getattr(network, "hf_config", None)
    return content if isinstance(content, Mapping) and content else None


def _in_scheduler_time(plan: Plan) -> Plan:
    """SGLang calls every network with its scheduler's own timestep, as diffusers does only with some."""
    sections = []
    for section in plan.sections:
        told = section.grid.scheduler_timesteps
        grid = section.grid if told is None else section.grid.model_copy(update={"timesteps": told})
        sections.append(section.model_copy(update={"grid": grid}))
    return plan.model_copy(update={"sections": tuple(sections)})
