"""A plan around ComfyUI's sampling: on its network while a run lasts, for the network is shared by all nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hyca_runtime.compiled_plan import OnMismatch
from hyca_runtime.errors import AttachError, PlanMismatchError
from hyca_runtime.integrations.comfyui.architectures import fingerprint_of
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan import Plan
from hyca_runtime.session import Session

KEY = "hyca"
"""Under which wrappers stand in ComfyUI."""

BRANCHES = {0: "cond", 1: "uncond"}
"""What ComfyUI's numbers of what is stacked in a call mean."""

NOTHING = "nothing was sampled with this model yet"
OPTIONS = 5
"""The place of ``transformer_options`` among the arguments ``x, t, c_concat, c_crossattn, control`` of a call."""


class PlannedRun:
    """What ComfyUI calls around a run of its sampler, and around each call of the network in it.

    Args:
        plan: of one network, with one table for all guidance branches, that forecasts at ``trunk``.

    Attributes:
        report: what the latest run did.

    Raises:
        PlanMismatchError: the plan is another.
    """

    def __init__(self, plan: Plan, on_mismatch: OnMismatch = "adapt") -> None:
        for section in plan.sections:
            _check_usable(plan.name, section)
        self._plan, self._on_mismatch = plan, on_mismatch
        self._session: Session | None = None
        self._known: dict[str, list[Sequence[Any]]] = {}  # conditionings of this run, by the branches they are of
        self.report = NOTHING

    def around_sampling(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """A wrapper of the kind OUTER_SAMPLE; `executor` knows the guider.

        Raises:
            PlanMismatchError: the plan is for another network.
        """
        network: nn.Module = executor.class_obj.model_patcher.model.diffusion_model
        check_network(self._plan, network)
        with Session({"transformer": network}, self._plan, self._on_mismatch) as session:
            self._session, self._known = session, {}
            try:
                return executor(*args, **kwargs)
            finally:
                self.report, self._session = str(session.report()), None

    def around_call(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """A wrapper of the kind APPLY_MODEL, which says which guidance branches a call holds."""
        if self._session is None:
            return executor(*args, **kwargs)
        options = args[OPTIONS] if len(args) > OPTIONS else kwargs.get("transformer_options")
        with self._session.at(branch=self._branch(options or {})):
            return executor(*args, **kwargs)

    def _branch(self, options: Mapping[str, Any]) -> str | None:
        """As `branch_of`, numbered where a prompt has several conditionings, which ComfyUI calls one after another."""
        branch, which = branch_of(options), options.get("uuids") or ()
        if branch is None:
            return None
        known = self._known.setdefault(branch, [])
        if which not in known:
            known.append(which)
        number = known.index(which)
        return f"{branch} {number + 1}" if number else branch


def branch_of(options: Mapping[str, Any]) -> str | None:
    """The name of what a call holds: "cond", "uncond", or "uncond+cond" where ComfyUI puts both into one."""
    stacked = options.get("cond_or_uncond")
    return "+".join(BRANCHES.get(number, str(number)) for number in stacked) if stacked else None


def with_plan(model: Any, plan: Plan, on_mismatch: OnMismatch) -> Any:
    """A clone of a MODEL that is sampled by a plan, instead of one that it may have had.

    Raises:
        AttachError: this ComfyUI has other interfaces, or the network is not known.
        PlanMismatchError: the plan is for another network, or cannot be followed here.
    """
    outer, call = wrapper_kinds()
    run = PlannedRun(plan, on_mismatch)
    try:
        check_network(plan, model.get_model_object("diffusion_model"))
        clone = model.clone()
        for kind, wrapper in ((outer, run.around_sampling), (call, run.around_call)):
            clone.wrappers.get(kind, {}).pop(KEY, None)
            clone.add_wrapper_with_key(kind, KEY, wrapper)
    except AttributeError as error:
        raise _other_host(str(error)) from error
    return clone


def run_of(model: Any) -> PlannedRun | None:
    """The plan that a MODEL is sampled by, None if there is none."""
    wrappers: list[Callable[..., Any]] = model.wrappers.get(wrapper_kinds()[0], {}).get(KEY, [])
    runs = [getattr(wrapper, "__self__", None) for wrapper in wrappers]
    return next((run for run in runs if isinstance(run, PlannedRun)), None)


def wrapper_kinds() -> tuple[str, str]:
    """What ComfyUI calls wrappers of a run and of a call.

    Raises:
        AttachError: this is not ComfyUI, or another one.
    """
    try:
        from comfy.patcher_extension import WrappersMP  # a host: imported where it is used
    except ImportError as error:
        raise _other_host(str(error)) from error
    if missing := [name for name in ("OUTER_SAMPLE", "APPLY_MODEL") if not hasattr(WrappersMP, name)]:
        raise _other_host(f"WrappersMP has no {', '.join(missing)}")
    return WrappersMP.OUTER_SAMPLE, WrappersMP.APPLY_MODEL


def _other_host(what: str) -> AttachError:
    return AttachError(
        f"this is not the ComfyUI that is expected ({what}): plans need ModelPatcher.clone, get_model_object, wrappers "
        "and add_wrapper_with_key, and OUTER_SAMPLE and APPLY_MODEL of comfy.patcher_extension"
    )


def check_network(plan: Plan, network: nn.Module) -> None:
    """Raises PlanMismatchError unless a plan is for this network, by the names and shapes of its weights."""
    found = fingerprint_of(network)
    for section in plan.sections:
        if section.model != found:
            raise PlanMismatchError(
                f"plan {plan.name!r} is for a {section.model.transformer} of configuration "
                f"{section.model.config_digest[:12]}, by its weights this model is a {found.transformer} of "
                f"{found.config_digest[:12]}; nothing was changed"
            )


def _check_usable(name: str, section: NetworkPlan) -> None:
    if section.component != "transformer":
        raise PlanMismatchError(
            f"plan {name!r} is for a {section.component!r}, too; in ComfyUI each network is a MODEL of its own: give "
            "each the plan that it had before they were merged, for the component 'transformer'"
        )
    if [str(place) for place in section.places.values()] != ["trunk"]:
        told = ", ".join(str(place) for place in section.places.values())
        raise PlanMismatchError(f"plan {name!r} forecasts at {told}; in ComfyUI plans forecast at 'trunk'")
    if section.stacked > 1 or section.branches:
        raise PlanMismatchError(
            f"plan {name!r} treats guidance branches each in their own way, but ComfyUI decides by free memory which "
            "share a call; search a plan with one table for all"
        )


def sigmas_of(plan: Plan, sampling: Any) -> Tensor:
    """The noise levels at which a plan's steps lie, and 0, ``(steps + 1,)``.

    Args:
        sampling: what a MODEL calls ``model_sampling``; its `timestep` gives the time of a noise level.

    Raises:
        PlanMismatchError: the plan has several grids, or times of this model are not proportional to its noise.
    """
    if len(plan.sections) > 1:
        steps = ", ".join(str(section.schedule.num_steps) for section in plan.sections)
        raise PlanMismatchError(f"plan {plan.name!r} has grids of {steps} steps; give the one that is to be sampled")
    times = torch.tensor(plan.section.grid.timesteps, dtype=torch.float64)
    sigmas = (times / float(sampling.timestep(torch.tensor(1.0)))).float()
    if not torch.allclose(sampling.timestep(sigmas).double(), times, rtol=1e-6, atol=1e-9):
        raise PlanMismatchError(
            f"plan {plan.name!r}: the times of this model are not proportional to its noise, so its sigmas are not "
            "known; sample with those of ComfyUI and on_mismatch 'adapt'"
        )
    return torch.cat([sigmas, torch.zeros(1)])
