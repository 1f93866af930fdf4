"""What is told of a plan that is not sound."""

from __future__ import annotations

from pydantic import BaseModel, ValidationError

from hyca_runtime.errors import HycaError
from hyca_runtime.forecast import Forecast, Source
from hyca_runtime.group import DimensionGroup
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan_facts import Certificate, ModelFingerprint, NewPromptBound, Quality, TimeGrid, Timing
from hyca_runtime.point import CachePoint
from hyca_runtime.policies import PolicySpec
from hyca_runtime.registry import did_you_mean
from hyca_runtime.schedule import Action, Schedule
from hyca_runtime.variant import VariantSpec


def first_fault(error: ValidationError | HycaError, whole: type[BaseModel]) -> str:
    """What is wrong with a plan, where, and what may have been meant.

    Args:
        whole: the class of plans.
    """
    if isinstance(error, HycaError):
        return str(error)
    faults = [fault for fault in error.errors() if fault["loc"] != ("sections",)] or error.errors()
    fault, others = faults[0], len(faults) - 1  # where no section is sound, pydantic also tells that there is none
    where = ".".join(str(part) for part in fault["loc"]) or "plan"
    reason = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        reason = f"unknown field{did_you_mean(str(fault['loc'][-1]), _fields_beside(fault['loc'], whole))}"
    elif fault["type"] == "missing":
        reason = "this field is missing"
    elif fault["type"] != "value_error":
        reason = f"{reason}, got {str(fault['input'])[:60]!r}"
    return f"{where}: {reason}" + (f" ({others} more fault{'s' * (others > 1)})" if others else "")


def _fields_beside(location: tuple[int | str, ...], whole: type[BaseModel]) -> list[str]:
    """Names a misspelt field may have meant."""
    named = [part for part in location if isinstance(part, str)]
    parts: dict[str, type[BaseModel]] = {
        "sections": NetworkPlan,
        "model": ModelFingerprint,
        "grid": TimeGrid,
        "points": Forecast,
        "at": CachePoint,
        "schedule": Schedule,
        "policy": PolicySpec,
        "palette": Action,
        "variants": VariantSpec,
        "groups": DimensionGroup,
        "sources": Source,
        "timing": Timing,
        "quality": Quality,
        "certificate": Certificate,
        "new_prompt": NewPromptBound,
    }
    owner = next((parts[name] for name in reversed(named[:-1]) if name in parts), whole)
    return list(owner.model_fields)
