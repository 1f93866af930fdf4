"""The plan: everything the runtime needs, in one JSON file without code."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hyca_runtime.errors import HycaError, PlanError
from hyca_runtime.group import DimensionGroup, check_partition
from hyca_runtime.point import CachePoint
from hyca_runtime.registry import did_you_mean
from hyca_runtime.schedule import Schedule
from hyca_runtime.solvers import Solver, TapTable, solver_from_spec, tap_table

__all__ = ["PLAN_VERSION", "Cost", "ModelFingerprint", "Plan", "Quality", "Sampler", "load_plan", "save_plan"]

PLAN_VERSION = 1
MAX_PLAN_BYTES = 1 << 28


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class ModelFingerprint(_Part):
    """What a model must look like for the plan to fit.

    Attributes:
        transformer: class name of the network.
        config_digest: SHA-256 of its configuration.
        num_channels: feature dimensions at the cache point.
    """

    transformer: str
    config_digest: str
    num_channels: int = Field(ge=1)


class Sampler(_Part):
    """The time grid the plan was made for.

    Attributes:
        scheduler: class name, for people.
        timesteps: what the network is called with on each step, in its own unit.
        axis: the time axis of the solvers: "step", "sigma" or "log_snr".
        axis_times: position of each step on that axis.
    """

    scheduler: str
    timesteps: tuple[float, ...]
    axis: str
    axis_times: tuple[float, ...]


class Cost(_Part):
    """Measured compute of one run of the network, without text encoder and decoder."""

    full_step_flops: float = Field(gt=0)
    predicted_step_flops: float = Field(ge=0)
    flops_ratio: float = Field(gt=0)


class Quality(_Part):
    """Agreement with the full run, measured by rollouts on one split."""

    split: Literal["fit", "select", "test"]
    num_samples: int
    psnr_db: float


class Plan(_Part):
    """A complete recipe: where, when and how features are predicted.

    Attributes:
        format: always "hyca-plan".
        version: of this layout; newer ones are refused.
        groups: partition of the feature dimensions, each with its solver.
        provenance: where the plan comes from; free-form, never read by the runtime.
    """

    format: Literal["hyca-plan"] = "hyca-plan"
    version: int = PLAN_VERSION
    name: str
    model: ModelFingerprint
    sampler: Sampler
    point: CachePoint
    schedule: Schedule
    groups: tuple[DimensionGroup, ...]
    cost: Cost | None = None
    quality: Quality | None = None
    provenance: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Plan:
        steps = self.schedule.num_steps
        for label, values in (("timesteps", self.sampler.timesteps), ("axis_times", self.sampler.axis_times)):
            if len(values) != steps:
                raise ValueError(f"sampler.{label}: expected {steps} values, one per step, got {len(values)}")
        if len(set(self.sampler.axis_times)) != steps:
            raise ValueError("sampler.axis_times: two steps share one time")
        check_partition(self.groups, self.model.num_channels)
        try:
            _ = self.taps  # every row must exist and fit its group
        except HycaError as error:
            raise ValueError(str(error)) from error
        return self

    @cached_property
    def solvers(self) -> tuple[tuple[np.ndarray, Solver], ...]:
        """Channel indices and solver of each group."""
        return tuple((group.indices, solver_from_spec(group.solver)) for group in self.groups)

    @cached_property
    def taps(self) -> Mapping[int, TapTable]:
        """The weights of each predicted step, over the history its schedule gives it."""
        return tap_table(self.schedule, self.sampler.axis_times, self.solvers, self.model.num_channels)

    def __eq__(self, other: object) -> bool:
        """Equal fields; the cached properties hold arrays and do not count."""
        return isinstance(other, Plan) and self.model_dump() == other.model_dump()

    __hash__ = None  # type: ignore[assignment]

    @property
    def depth(self) -> int:
        """How many computed features a stream must remember."""
        return max((len(taps.history) for taps in self.taps.values()), default=1)


def save_plan(plan: Plan, path: str | os.PathLike[str]) -> None:
    """Write `plan` as JSON, all or nothing."""
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    partial.write_text(json.dumps(plan.model_dump(mode="json"), indent=1, allow_nan=False) + "\n")
    partial.replace(target)


def load_plan(path: str | os.PathLike[str]) -> Plan:
    """Read and check a plan.

    Raises:
        PlanError: not a readable, complete and consistent plan of this version; the message names
            the field, what was expected and what was got.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_PLAN_BYTES:
            raise PlanError(f"{path}: {path.stat().st_size} bytes is more than a plan can have ({MAX_PLAN_BYTES})")
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise PlanError(f"{path}: cannot read the plan: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, PlanError):
            raise
        raise PlanError(f"{path}: not valid JSON, the file may be truncated: {error}") from error
    return parse_plan(content, str(path))


def parse_plan(content: Any, source: str) -> Plan:
    """Check decoded JSON; `source` opens the error messages."""
    if not isinstance(content, dict) or content.get("format") != "hyca-plan":
        raise PlanError(f'{source}: not a HyCa plan: expected an object with "format": "hyca-plan"')
    version = content.get("version")
    if isinstance(version, int) and version > PLAN_VERSION:
        raise PlanError(
            f"{source}: plan version {version} is newer than this hyca understands ({PLAN_VERSION}); "
            "upgrade: pip install -U hyca"
        )
    if version != PLAN_VERSION:
        raise PlanError(f"{source}: version: expected {PLAN_VERSION}, got {version!r}")
    try:
        return Plan.model_validate_json(json.dumps(content, allow_nan=False))
    except (ValidationError, HycaError) as error:
        raise PlanError(f"{source}: {_first_fault(error)}") from error


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant} is not a number a plan may hold")


def _first_fault(error: ValidationError | HycaError) -> str:
    if isinstance(error, HycaError):
        return str(error)
    fault, others = error.errors()[0], error.error_count() - 1
    where = ".".join(str(part) for part in fault["loc"]) or "plan"
    reason = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        reason = f"unknown field{did_you_mean(str(fault['loc'][-1]), _fields_beside(fault['loc']))}"
    elif fault["type"] == "missing":
        reason = "this field is missing"
    elif fault["type"] != "value_error":
        reason = f"{reason}, got {str(fault['input'])[:60]!r}"
    return f"{where}: {reason}" + (f" ({others} more faults)" if others else "")


def _fields_beside(location: tuple[int | str, ...]) -> list[str]:
    """Names a misspelt field may have meant."""
    parts: dict[str, type[BaseModel]] = {
        "model": ModelFingerprint,
        "sampler": Sampler,
        "point": CachePoint,
        "schedule": Schedule,
        "groups": DimensionGroup,
        "cost": Cost,
        "quality": Quality,
    }
    owner = parts.get(str(location[0]), Plan) if len(location) > 1 else Plan
    return list(owner.model_fields)
