"""Whether a plan fits a network."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from hyca_runtime.agreement import Agreement
from hyca_runtime.certified import check_certified, warn_of_rounding
from hyca_runtime.errors import PlanMismatchError, PlanMismatchWarning
from hyca_runtime.fingerprint import config_digest
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan import Plan

UNPARTED = frozenset(
    {
        "AnyFlowFARTransformer3DModel",
        "Cosmos3OmniTransformer",
        "HiDreamImageTransformer2DModel",
        "JoyImageEditPlusTransformer3DModel",
        "Kandinsky5Transformer3DModel",
        "MiniMaxH3Transformer3DModel",
        "OmniGenTransformer2DModel",
        "SanaWMLTX2RefinerTransformer3DModel",
        "WanAnimate2Transformer3DModel",
    }
)
"""Networks whose samples do not all lie along the first axis of their arguments, or answer otherwise together."""


def check_fits(
    name: str,
    sections: Iterable[NetworkPlan],
    networks: Mapping[str, nn.Module],
    target: str,
    require: float | None = None,
) -> None:
    """Whether the sections of the plan `name` are for these networks of a `target`, and as good as required.

    Raises:
        PlanMismatchError: one is for none of the networks.
        CertificateError: see `check_certified`.

    Warns:
        PrecisionWarning: nothing is required, see `warn_of_rounding`.
    """
    sections = tuple(sections)
    for section in sections:
        _check_section(name, section, networks, target)
    if require is None:
        warn_of_rounding(name, sections, networks)
    else:
        check_certified(name, sections, networks, require)


def _check_section(name: str, section: NetworkPlan, networks: Mapping[str, nn.Module], target: str) -> None:
    if section.component not in networks:
        raise PlanMismatchError(
            f"plan {name!r} is for a {section.component!r}, {target} has only {', '.join(networks)}; "
            "nothing was changed"
        )
    module, expected = networks[section.component], section.model
    kind, digest = type(module).__name__, config_digest(module, **called_with(section))
    if expected.transformer not in {base.__name__ for base in type(module).__mro__}:  # xDiT has subclasses of its own
        raise PlanMismatchError(f"plan {name!r} is for a {expected.transformer}, got a {kind}; nothing was changed")
    if section.held < section.stacked and kind in UNPARTED:
        raise PlanMismatchError(
            f"plan {name!r} computes branches of one call on steps of their own, but calls of a {kind} cannot be cut "
            "along their batch; search a plan with one table for all. Nothing was changed"
        )
    if digest != expected.config_digest:
        raise PlanMismatchError(
            f"plan {name!r} is for a {kind} of another configuration ({expected.config_digest[:12]}, "
            f"this one is {digest[:12]}); trace and search this model. Nothing was changed"
        )


def called_with(section: NetworkPlan) -> dict[str, int]:
    """What a pipeline writes into the configuration of a network when it calls it for chunks of a video."""
    return {"num_frame_per_block": section.chunks.frames} if section.chunks is not None else {}


def check_agreed(plan: Plan, on_mismatch: str, networks: Mapping[str, nn.Module], ranks: Agreement) -> None:
    """Whether ranks that hold parts of a sample decide alike.

    Raises:
        PlanMismatchError: they were given different plans, which all of them raise, or would look each at its own part.
    """
    if not ranks.alone:
        _check_same(plan, on_mismatch, networks, ranks)
        return
    for section in plan.sections:
        spread = getattr(networks.get(section.component), "_parallel_config", None)
        if section.decider.by_sample and getattr(spread, "context_parallel_config", None) is not None:
            raise PlanMismatchError(
                f"plan {plan.name!r} decides by what it sees of a sample, and the {section.component} is cut over "
                "ranks that each see another part; let them agree: apply_plan(..., ranks=across_ranks(pipe)), of "
                "hyca_runtime.integrations.parallel. Nothing was changed"
            )


def _check_same(plan: Plan, on_mismatch: str, networks: Mapping[str, nn.Module], ranks: Agreement) -> None:
    told = hashlib.sha256(f"{on_mismatch} {plan.model_dump_json()}".encode()).digest()
    device = next((p.device for module in networks.values() for p in module.parameters()), None)
    own = torch.tensor([*told], dtype=torch.float64, device=device)
    if not ranks.everywhere(ranks.mean(own) == own).all():
        raise PlanMismatchError(
            f"ranks that share samples were given different plans, here {plan.name!r} with on_mismatch "
            f"{on_mismatch!r}; give all the same file. Nothing was changed"
        )


def tell_of_rounding(name: str, section: NetworkPlan, module: nn.Module) -> None:
    """Warn where the timesteps of a network without a scheduler may be too coarse to tell its first steps apart."""
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    times, rounding = section.grid.timesteps, 2 * torch.finfo(dtype).eps
    if len(times) > 1 and section.grid.is_at(0, times[1], rounding):
        warnings.warn(
            f"plan {name!r}: steps 0 and 1 have one timestep in {dtype}, {times[0]:g}; if the network is called with "
            "timesteps of that dtype, apply the plan to the pipeline, whose scheduler tells them apart, or say the "
            "step: with session.at(step)",
            PlanMismatchWarning,
            stacklevel=3,
        )
