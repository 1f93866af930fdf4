"""What a plan says of its making, also where it was put together from several."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pydantic import BaseModel, ValidationError


class Announced(BaseModel, frozen=True):
    """What a plan for a budget of time says that runs under it take, and where.

    Attributes:
        seconds, full_seconds: of a sample under the plan, and in full.
    """

    seconds: float
    full_seconds: float
    device: str
    dtype: str
    batch: int

    def beside(self, seconds: float, full: float, elsewhere: str = "") -> str:
        """What was announced, where if that is elsewhere, and what a sample took; and how much of the difference is the
        machine's, whose full run took longer or shorter too.

        Args:
            seconds, full: of a sample under the plan, and in full.
        """
        off, machine = (100 * (took / told - 1) for took, told in ((seconds, self.seconds), (full, self.full_seconds)))
        own = 100 * (seconds / full * self.full_seconds / self.seconds - 1)
        return (
            f"announced {self.seconds:.3g} s a sample{elsewhere}; measured {seconds:.3g} s ({off:+.1f} %), while the "
            f"full run took {full:.3g} s where {self.full_seconds:.3g} s were timed ({machine:+.1f} %): {own:+.1f} % "
            f"are the plan's"
        )


def announced_in(provenance: Mapping[str, Any]) -> Announced | None:
    """That of a plan; None if it announces nothing."""
    budget = provenance.get("budget")
    told = budget.get("announced") if isinstance(budget, Mapping) else None
    try:
        return None if told is None else Announced.model_validate(told)
    except ValidationError:  # a plan is a file of anybody
        return None


class TracedNetwork(BaseModel, frozen=True):
    """What a plan says of the network that was traced."""

    name: str
    component: str
    weights_digest: str


def traced_models(provenance: Mapping[str, Any]) -> list[TracedNetwork]:
    """Those of a plan that say what they are."""
    found = list[TracedNetwork]()
    for origin in origins(provenance):
        with suppress(ValidationError):  # a plan is a file of anybody
            found.append(TracedNetwork.model_validate(origin.get("model")))
    return found


def origins(provenance: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What is said of each plan that a merged one was put together from, in the order of its sections; of any other
    plan, what it says of itself.

    A plan is a file of anybody: what is no such account counts for one that says nothing.
    """
    if "merged" not in provenance:
        return [provenance]
    parts = provenance["merged"] if isinstance(provenance["merged"], list) else []
    return [origin for part in parts for origin in origins(part if isinstance(part, Mapping) else {})]
