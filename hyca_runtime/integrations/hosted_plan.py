"""Plans for networks that a host has written anew: the same weights and names, no configuration of diffusers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from hyca_runtime.attach.wrappers import unwrapped
from hyca_runtime.errors import PlanError, PlanMismatchError
from hyca_runtime.fingerprint import config_digest
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan import Plan
from hyca_runtime.plan_facts import ModelFingerprint

Told = Callable[[nn.Module], Mapping[str, Any] | None]
"""Gives the content of a network's ``config.json`` as the host keeps it; None where it keeps none."""


def hosted(plan: Plan, pipe: object, told: Told, host: str) -> tuple[Plan, dict[str, nn.Module]]:
    """`plan` as one for a host's own networks, and those by component name.

    A section fits a network of its class whose configuration it was made for. That is read off the network itself, for
    plans that were traced in the host, or off the checkpoint's configuration by way of diffusers' class of that name.
    Certificates are of diffusers' network and are left out.

    Args:
        pipe: has the networks as attributes.
        told: of a network what its checkpoint says.
        host: its name, for messages.

    Raises:
        PlanMismatchError: a section is for another network, or it cannot be told whether it is.
        PlanError: the plan decides in each run and there are several processes, which might decide differently.
    """
    found = {section.component: getattr(pipe, section.component, None) for section in plan.sections}
    networks = {name: unwrapped(module) for name, module in found.items() if isinstance(module, nn.Module)}
    sections = tuple(_section(plan.name, section, networks, told, host) for section in plan.sections)
    policies = [section.policy.name for section in sections if section.policy is not None]
    if policies and torch.distributed.is_available() and torch.distributed.is_initialized():
        size = torch.distributed.get_world_size()
        if size > 1:
            raise PlanError(
                f"plan {plan.name!r} decides in each run ({policies[0]}), and {size} processes of {host} may decide "
                "differently; take a plan without a policy"
            )
    return plan.model_copy(update={"sections": sections}), networks


def _section(name: str, section: NetworkPlan, networks: Mapping[str, nn.Module], told: Told, host: str) -> NetworkPlan:
    module, expected = networks.get(section.component), section.model
    if module is None:
        raise PlanMismatchError(f"plan {name!r} is for a {section.component!r}, which {host}'s pipeline does not have")
    kind = type(module).__name__
    if kind != expected.transformer:
        raise PlanMismatchError(f"plan {name!r} is for a {expected.transformer}, {host} has a {kind}")
    own = config_digest(module)
    if own == expected.config_digest:
        return section
    content = told(module)
    digest = None if content is None else checkpoint_digest(kind, content)
    if digest != expected.config_digest:
        got = "keeps no configuration of it" if digest is None else f"has one of configuration {digest[:12]}"
        raise PlanMismatchError(
            f"plan {name!r} is for a {kind} of configuration {expected.config_digest[:12]}, {host} {got}; trace this "
            f"checkpoint with the release of diffusers that {host} installs, for others may know other settings"
        )
    fingerprint = ModelFingerprint(transformer=kind, config_digest=own)
    return section.model_copy(update={"model": fingerprint, "certificate": None})


def checkpoint_digest(kind: str, content: Mapping[str, Any]) -> str | None:
    """The digest that diffusers' class `kind` has when it is made from a ``config.json``, without memory for weights;
    None where diffusers is not installed, has no such class, or cannot make it from that."""
    try:
        made = getattr(importlib.import_module("diffusers"), kind, None)
    except ImportError:
        return None
    if made is None:
        return None
    with torch.device("meta"):
        try:
            return config_digest(made.from_config(dict(content)))
        except (TypeError, ValueError):  # what is there is no configuration of this class
            return None
