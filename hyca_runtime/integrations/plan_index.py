"""``plans.json``: what plans a repository has, and for which networks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator

from hyca_runtime.errors import PlanError
from hyca_runtime.plan_part import PlanPart

INDEX_FILE = "plans.json"
MAX_INDEX_BYTES = 1 << 22

INSIDE = re.compile(r"(?:[\w-][\w.-]*/)*[\w-][\w.-]*\.(?:json|safetensors)")
"""Names of files inside a repository that may be fetched: neither code nor pickles, none above it."""


class IndexedNetwork(PlanPart):
    """One section of a plan, as far as one chooses by it.

    Attributes:
        component, transformer, config_digest: the network, as in the plan.
        scheduler, steps, computed: the sampler, its steps, and how many of them compute all of the network.
        flops_ratio, bits_ratio: FLOPs and bit operations of the full run over those of the plan, where it says them.
        certificate: what its certificate says, if it has one that is true of it.
    """

    component: str
    transformer: str
    config_digest: str
    scheduler: str
    steps: int = Field(ge=1)
    computed: int = Field(ge=1)
    flops_ratio: float | None = None
    bits_ratio: float | None = None
    certificate: str | None = None


class IndexedPlan(PlanPart):
    """A plan of a repository.

    Attributes:
        file: its name there.
        sha256, size: of that file, the latter in bytes.
        budget: what was asked for when it was searched, "" if it does not say.
        pictures: names of pictures that were drawn with it.
    """

    name: str
    file: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=1)
    networks: tuple[IndexedNetwork, ...] = Field(min_length=1)
    budget: str = ""
    pictures: tuple[str, ...] = ()

    @field_validator("file")
    @classmethod
    def _inside(cls, file: str) -> str:
        if not INSIDE.fullmatch(file):
            raise ValueError(f"expected a .json or .safetensors file inside the repository, got {file[:80]!r}")
        return file

    def fits(self, networks: Mapping[str, tuple[str, str]], steps: int | None) -> bool:
        """Whether it is for these networks.

        Args:
            networks: class and digest of the configuration, by component.
            steps: that it must be for; None for any.
        """
        own = all(networks.get(n.component) == (n.transformer, n.config_digest) for n in self.networks)
        return own and (steps is None or any(n.steps == steps for n in self.networks))


class PlanIndex(PlanPart):
    """All plans of a repository."""

    format: Literal["hyca-plans"] = "hyca-plans"
    version: Literal[1] = 1
    plans: tuple[IndexedPlan, ...] = ()

    def entry(self, file: str, source: str) -> IndexedPlan:
        """The plan in a file.

        Raises:
            PlanError: it is not listed; the message, which `source` opens, names those that are.
        """
        for plan in self.plans:
            if plan.file == file:
                return plan
        listed = ", ".join(plan.file for plan in self.plans) or "nothing"
        raise PlanError(f"{source}: no plan {file!r} in its {INDEX_FILE}, which lists {listed}")

    def with_plan(self, plan: IndexedPlan) -> PlanIndex:
        """The same with `plan` in the place of what its file held."""
        kept = [other for other in self.plans if other.file != plan.file]
        return PlanIndex(plans=tuple(sorted([*kept, plan], key=lambda one: one.file)))


def read_index(path: Path, source: str) -> PlanIndex:
    """The index in a file.

    Args:
        source: opens messages.

    Raises:
        PlanError: it cannot be read, is too large, or is no index.
    """
    try:
        if path.stat().st_size > MAX_INDEX_BYTES:
            raise PlanError(f"{source}: {path.stat().st_size} bytes is more than an index can have ({MAX_INDEX_BYTES})")
        return PlanIndex.model_validate_json(path.read_bytes())
    except OSError as error:
        raise PlanError(f"{source}: cannot read the index: {error.strerror}") from error
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or INDEX_FILE
        raise PlanError(f"{source}: not an index of plans: {where}: {fault['msg']}") from error
