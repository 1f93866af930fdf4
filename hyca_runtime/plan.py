"""The plan: everything the runtime needs, in one JSON file without code."""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from hyca_runtime.certified import valid_certificate
from hyca_runtime.errors import CertificateWarning, HycaError, PlanError
from hyca_runtime.integrations.hub import fetch_plan, is_on_hub
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan_faults import first_fault
from hyca_runtime.plan_part import PlanPart
from hyca_runtime.variant import merged_variants
from hyca_runtime.version_2 import from_version_2

PLAN_VERSION = 3
MAX_PLAN_BYTES = 1 << 28
PLAN_FILE = "plan.json"
"""What a plan is called in the folder of its study."""
NUMBERS = re.compile(r"\[\n([^\[\]{}\"]+)\]")
"""A list of numbers as `json` writes it, one to a line; no text has a line end."""
MAX_SHOWN = 600
"""Characters of a fault."""


class Plan(PlanPart):
    """Sections for the networks of a pipeline and the step counts it is run with.

    Attributes:
        format: always "hyca-plan".
        version: of this layout; newer ones are refused.
        sections: at most one for each network and time grid; of a video in chunks more, each for some of them.
        provenance: where the plan comes from; free-form, never read by the runtime.
    """

    format: Literal["hyca-plan"] = "hyca-plan"
    version: int = PLAN_VERSION
    name: str
    sections: tuple[NetworkPlan, ...] = Field(min_length=1)
    provenance: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Plan:
        seen: set[tuple[str, tuple[float, ...], int | None]] = set()
        for section in self.sections:
            key = (section.component, section.grid.timesteps, section.from_chunk)
            if key in seen:
                raise ValueError(f"sections: two are for the {section.component} with the same timesteps")
            seen.add(key)
        for component, timesteps, start in seen:
            if (component, timesteps, None) not in seen:
                raise ValueError(
                    f"sections: one of the {component} is from chunk {start} on; expected another with the same "
                    "timesteps for those before it"
                )
        for section in self.sections:
            like = next(s for s in self.sections if s.component == section.component)
            if section.chunks != like.chunks:
                raise ValueError(f"sections: those of the {section.component} must have the same chunks")
            if section.places != like.places:
                raise ValueError(f"sections: those of the {section.component} must share their cache points")
        for component in {section.component for section in self.sections}:
            merged_variants(section.variants for section in self.sections if section.component == component)
        return self

    @property
    def decides_by_sample(self) -> bool:
        """Whether a sample alone computes other steps than in a batch, which follows the one that asks for most."""
        return any(section.decider.by_sample for section in self.sections)

    @property
    def outdated(self) -> tuple[NetworkPlan, ...]:
        """The sections whose certificate is of something else, since the plan was changed after it was measured."""
        return tuple(s for s in self.sections if s.certificate and not valid_certificate(s, self.sections))

    @property
    def section(self) -> NetworkPlan:
        """The only section.

        Raises:
            PlanError: there are several.
        """
        if len(self.sections) > 1:
            raise PlanError(f"plan {self.name!r} has {len(self.sections)} sections, expected one")
        return self.sections[0]


def merge_plans(plans: Sequence[Plan], name: str) -> Plan:
    """One plan with the sections of all; of certificates those that are as true of it.

    Raises:
        PlanError: two sections are for the same network and timesteps, or of one name for networks of two classes.
    """
    sections = tuple(section for plan in plans for section in plan.sections)
    for name in {section.component for section in sections}:
        kinds = sorted({section.model.transformer for section in sections if section.component == name})
        if len(kinds) > 1:
            raise PlanError(f"these plans cannot be merged: as {name} they expect {' and '.join(kinds)}")
    valid = [valid_certificate(section, sections) for section in sections]
    try:
        return Plan(
            name=name,
            sections=tuple(s.model_copy(update={"certificate": c}) for s, c in zip(sections, valid, strict=True)),
            provenance={"merged": [{"name": plan.name, **plan.provenance} for plan in plans]},
        )
    except ValidationError as error:
        raise PlanError(f"these plans cannot be merged: {first_fault(error, Plan)}") from error


def save_plan(plan: Plan, path: str | os.PathLike[str]) -> None:
    """Write `plan` as JSON, all or nothing."""
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    text = json.dumps(plan.model_dump(mode="json", exclude_none=True), indent=1, allow_nan=False)
    partial.write_text(NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text) + "\n")
    partial.replace(target)


def load_plan(path: str | os.PathLike[str], download: bool = False) -> Plan:
    """Read and check a plan.

    Args:
        path: the file, the folder of a study, whose plan is ``plan.json``, or an address on the Hub, see
            `integrations.hub`.
        download: whether it may be fetched from there.

    Warns:
        CertificateWarning: the plan is not what its certificate is of.

    Raises:
        PlanError: not a readable, complete and consistent plan of this version; the message names
            the field, what was expected and what was got.
    """
    path = plan_file(path, download)
    try:
        if path.stat().st_size > MAX_PLAN_BYTES:
            raise PlanError(f"{path}: {path.stat().st_size} bytes is more than a plan can have ({MAX_PLAN_BYTES})")
        content = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_refuse, parse_float=_finite)
    except OSError as error:
        raise PlanError(f"{path}: cannot read the plan: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, PlanError):
            raise
        raise PlanError(f"{path}: not valid JSON, the file may be truncated: {error}") from error
    plan = parse_plan(content, str(path))
    if plan.outdated:
        changed = f"{path}: the {plan.outdated[0].component}'s plan was changed after it was certified"
        again = "its certificate does not count; measure it again: python -m hyca_calib evaluate"
        warnings.warn(f"{changed}, {again}", CertificateWarning, stacklevel=2)
    return plan


def plan_file(path: str | os.PathLike[str], download: bool = False) -> Path:
    """The file of the plan at `path`: itself, ``plan.json`` in a folder, or what the Hub has; see `load_plan`.

    Raises:
        PlanError: a folder without one; the message names the plans below it.
    """
    found = fetch_plan(str(path), MAX_PLAN_BYTES, download) if is_on_hub(path) else Path(path)
    if not found.is_dir():
        return found
    if (found / PLAN_FILE).is_file():
        return found / PLAN_FILE
    below = sorted(str(file.relative_to(found)) for file in found.glob(f"*/{PLAN_FILE}"))
    hint = f"name one of {', '.join(below)}" if below else f"expected a plan's file, or a study with a {PLAN_FILE}"
    raise PlanError(f"{found}: a folder without a {PLAN_FILE}; {hint}")


def as_plan(plan: object) -> Plan:
    """`plan` itself, or the one in the file or folder of that path.

    Raises:
        PlanError: it is neither, or there is no sound plan.
    """
    if isinstance(plan, Plan):
        return plan
    if isinstance(plan, str | os.PathLike):
        return load_plan(plan)
    raise PlanError(f"expected a Plan, or the path of its file or folder, got {type(plan).__name__}")


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
    if version == 2:
        content, version = from_version_2(content), PLAN_VERSION
    if version != PLAN_VERSION:
        old = "a plan of an older hyca, from before the first release; search again with this one. "
        raise PlanError(f"{source}: {old}Its version: expected {PLAN_VERSION}, got {str(version)[:40]!r}")
    try:
        return Plan.model_validate_json(json.dumps(content, allow_nan=False))
    except (ValidationError, HycaError, ValueError, ArithmeticError) as error:
        fault = str(error) if not isinstance(error, ValidationError) else first_fault(error, Plan)
        shown = fault if len(fault) <= MAX_SHOWN else f"{fault[:MAX_SHOWN]} ..."
        raise PlanError(f"{source}: {shown}") from error


def _finite(number: str) -> float:
    return found if math.isfinite(found := float(number)) else _refuse(number)


def _refuse(number: str) -> float:
    shown = number if len(number) <= MAX_SHOWN else f"{number[:MAX_SHOWN]} ..."
    raise ValueError(f"{shown} is not a number a plan may hold")
