"""Whether a plan still is what was certified."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan_facts import Certificate

TOLD = frozenset({"action_flops", "action_bits", "timing", "quality", "certificate"})
"""What a section says of itself that decides no run."""


def content_digest(section: NetworkPlan, sections: Iterable[NetworkPlan]) -> str:
    """SHA-256 of what decides a run under a section: of itself, and of those for the pipeline's other networks.

    Args:
        sections: all of the plan.
    """
    others = [other for other in sections if other.component != section.component]
    own, *beside = (
        json.dumps(one.model_dump(mode="json", exclude=set(TOLD), exclude_defaults=True), sort_keys=True)
        for one in (section, *others)
    )
    return hashlib.sha256("\n".join([own, *sorted(beside)]).encode()).hexdigest()


def valid_certificate(section: NetworkPlan, sections: Iterable[NetworkPlan]) -> Certificate | None:
    """The certificate of a section, unless there is none, or the plan was changed since."""
    found = section.certificate
    return found if found is not None and found.content == content_digest(section, sections) else None
