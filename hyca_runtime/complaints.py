"""Telling why steps are not done as a plan says."""

from __future__ import annotations

from collections.abc import Callable

from hyca_runtime.errors import ForecastWarning, MissingHistoryWarning, PlanMismatchError, PlanMismatchWarning
from hyca_runtime.forecasting import NOT_FINITE
from hyca_runtime.lane import Lane

Complain = Callable[[type[Warning], str, str], None]
"""Told a kind of warning, what it is about, and the message; each subject is warned of once."""


def tell_of_leaving(complain: Complain, lane: Lane) -> None:
    """A run does not follow its plan.

    Raises:
        PlanMismatchError: that is an error.
    """
    plan, reason = lane.plan, lane.track.off_grid
    steps = plan.section(lane.track).schedule.num_steps
    message = f"plan {plan.name!r} is for {steps} steps of its own sampler, but {reason}"
    if plan.on_mismatch == "error":
        raise PlanMismatchError(f"{message}; sample as the plan says or search a plan for these steps")
    remedy = "Sample as the plan says, search a plan for these steps, or apply it with on_mismatch='adapt'"
    complain(PlanMismatchWarning, reason, f"{message}; this run is computed in full. {remedy}")


def tell_of_miss(complain: Complain, lane: Lane, branch: str, cause: str) -> None:
    """A step that the plan predicts is computed.

    Raises:
        PlanMismatchError: that is an error.
    """
    plan, step = lane.plan, lane.track.position
    if cause == NOT_FINITE:
        message = f"plan {plan.name!r} {cause} at step {step:g}; steps are computed until it can forecast again"
        kind: type[Warning] = ForecastWarning
    else:
        who = f"branch {branch!r}" if branch else "the network"
        message = f"plan {plan.name!r} predicts step {step:g}, but it is computed: {who} lacks earlier features, "
        message += f"for {cause}"
        kind = MissingHistoryWarning
    if plan.on_mismatch == "error":
        raise PlanMismatchError(message)
    lane.lacks(cause)
    complain(kind, cause, message)
