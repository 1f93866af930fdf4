"""What a plan says of its making, where it was put together from several."""

from collections.abc import Mapping
from typing import Any


def origins(provenance: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What is said of each plan that a merged one was put together from, in the order of its sections; of any other
    plan, what it says of itself.

    A plan is a file of anybody: what is no such account counts for one that says nothing.
    """
    if "merged" not in provenance:
        return [provenance]
    parts = provenance["merged"] if isinstance(provenance["merged"], list) else []
    return [origin for part in parts for origin in origins(part if isinstance(part, Mapping) else {})]
