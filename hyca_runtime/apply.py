"""Plans, applied to pipelines."""

from __future__ import annotations

import os
from weakref import WeakKeyDictionary, ref

from torch import nn

from hyca_runtime.agreement import ALONE, Agreement
from hyca_runtime.attach.deferral import defer_control
from hyca_runtime.attach.points import find_transformers
from hyca_runtime.compiled_plan import OnMismatch
from hyca_runtime.fit import check_agreed, check_fits, tell_of_rounding
from hyca_runtime.plan import Plan, as_plan
from hyca_runtime.session import Session

_sessions: WeakKeyDictionary[nn.Module, ref[Session]] = WeakKeyDictionary()
"""The latest session of each network, which keeps it while it follows the plan."""


def apply_plan(
    target: object,
    plan: Plan | str | os.PathLike[str],
    on_mismatch: OnMismatch = "compute",
    ranks: Agreement = ALONE,
    require: float | None = None,
) -> Session:
    """Make a diffusers pipeline, or a transformer, follow `plan`.

    Args:
        target: a pipeline, or a network itself, compiled or not. Prefer the pipeline: its scheduler
            tells the step without waiting for the GPU.
        plan: a plan, or the path of its file or of its study's folder.
        on_mismatch: what a run with other steps, timesteps or another kind of sampler does: "compute" every step
            and warn once, "adapt" the schedule to the sampler's time and forecast by the plan's closed forms, or
            raise an "error". A step that the plan predicts but whose branch lacks the features for it (it began
            late, a forecast was not finite) is computed with a warning, or is an "error", too.
        ranks: those that each hold a part of every sample and must decide alike, see `integrations.parallel`.
        require: agreement with the full run, in dB, that the plan's certificate must bound from below at 95 %, for
            weights stored as these are, and these very ones where it is signed; also of plans that it follows later.

    Returns:
        The session, which `report`s and `remove`s.

    Raises:
        PlanError: there is no sound plan.
        PlanMismatchError: the plan was made for other networks, or ranks were given different ones.
        CertificateError: it does not have the certificate that is required.
        AttachError: a network cannot be wrapped. Nothing was changed in any case.
    """
    plan, networks = as_plan(plan), find_transformers(target)
    check_agreed(plan, on_mismatch, networks, ranks)
    check_fits(plan.name, plan.sections, networks, type(target).__name__, require)
    if isinstance(target, nn.Module):
        for section in plan.sections:
            tell_of_rounding(plan.name, section, networks[section.component])
    pipe = None if isinstance(target, nn.Module) else target
    control = defer_control(target, {s.component: list(s.places.values()) for s in plan.sections})
    session = Session(networks, plan, on_mismatch, pipe, control, ranks, require)
    _sessions.update(dict.fromkeys(networks.values(), ref(session)))
    return session


def session_of(target: object) -> Session | None:
    """The session whose plan a pipeline or a network follows, to `report` or `remove` where it was not kept.

    Returns:
        That of the first network that follows a plan; None if none does.

    Raises:
        AttachError: the target has no network that could.
    """
    known = [_sessions[module]() for module in find_transformers(target).values() if module in _sessions]
    return next((session for session in known if session is not None and session.is_applied), None)
