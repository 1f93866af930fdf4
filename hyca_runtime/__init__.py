"""HyCa at inference: load a plan, apply it to a diffusers pipeline, sample as usual.

>>> from hyca_runtime import apply_plan, load_plan
>>> session = apply_plan(pipe, load_plan("plan.json"))  # doctest: +SKIP
>>> image = pipe("smiling face").images[0]  # doctest: +SKIP
>>> print(session.report())  # doctest: +SKIP
"""

from hyca_runtime.apply import apply_plan, session_of
from hyca_runtime.errors import (
    AttachError,
    CertificateError,
    ClockError,
    HycaError,
    PlanError,
    PlanMismatchError,
    PlanMismatchWarning,
)
from hyca_runtime.plan import Plan, load_plan, merge_plans, save_plan
from hyca_runtime.plan_cache import PlanCache
from hyca_runtime.report import RunReport
from hyca_runtime.session import Session
from hyca_runtime.starter import starter_plan

__all__ = [
    "AttachError",
    "CertificateError",
    "ClockError",
    "HycaError",
    "Plan",
    "PlanCache",
    "PlanError",
    "PlanMismatchError",
    "PlanMismatchWarning",
    "RunReport",
    "Session",
    "apply_plan",
    "load_plan",
    "merge_plans",
    "save_plan",
    "session_of",
    "starter_plan",
]
