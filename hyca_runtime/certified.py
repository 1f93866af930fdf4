"""Whether a plan still is what was certified, and whether that suffices."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Iterable, Mapping

from torch import nn

from hyca_runtime.errors import CertificateError, PlanError, PrecisionWarning, WorkloadError
from hyca_runtime.fingerprint import weights_digest
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.noise_gain import noise_gain_db
from hyca_runtime.plan_facts import Certificate
from hyca_runtime.precision import is_rounded, precision_of

TOLD = frozenset({"action_flops", "action_bits", "timing", "quality", "certificate"})
"""What a section says of itself that decides no run."""

REQUIRED_LEVEL = 0.95
"""Probability of the bound that is required of a plan."""

MEASURE = "measure it on this model: python -m hyca_calib evaluate"


def content_digest(section: NetworkPlan, sections: Iterable[NetworkPlan]) -> str:
    """SHA-256 of what decides a run under a section: of itself, and of those for other networks, or other chunks.

    Args:
        sections: all of the plan.
    """
    own_place = section.component, section.from_chunk
    others = [other for other in sections if (other.component, other.from_chunk) != own_place]
    own, *beside = (
        json.dumps(one.model_dump(mode="json", exclude=set(TOLD), exclude_defaults=True), sort_keys=True)
        for one in (section, *others)
    )
    return hashlib.sha256("\n".join([own, *sorted(beside)]).encode()).hexdigest()


def valid_certificate(section: NetworkPlan, sections: Iterable[NetworkPlan]) -> Certificate | None:
    """The certificate of a section, unless there is none, or the plan was changed since."""
    found = section.certificate
    return found if found is not None and found.content == content_digest(section, sections) else None


def signature_of(certificate: Certificate, module: nn.Module) -> str:
    """SHA-256 of what a certificate says and of every number of a network's weights.

    Who changes either has to sign again. It holds no secret: whoever has the weights can sign.
    """
    told = json.dumps(certificate.model_dump(mode="json", exclude={"signature"}), sort_keys=True)
    return hashlib.sha256(f"{told}\n{weights_digest(module, probes=None)}".encode()).hexdigest()


def check_certified(
    name: str, sections: Iterable[NetworkPlan], networks: Mapping[str, nn.Module], least_db: object
) -> None:
    """Whether a plan was measured to agree well enough, on networks of this precision.

    Args:
        name, sections: of the plan; it fits the networks.
        least_db: that the bound of every certificate must reach, in dB.

    Raises:
        PlanError: what is required is no number.
        CertificateError: it was not; the message says what was got, what was expected, and what to do.
    """
    if isinstance(least_db, bool) or not isinstance(least_db, int | float) or math.isnan(least_db):
        raise PlanError(f"require: expected a number of dB, got {least_db!r}")
    sections = tuple(sections)
    for section in sections:
        module, found = networks[section.component], valid_certificate(section, sections)
        fault = _fault(section, found, module, least_db)
        if fault:
            raise CertificateError(f"plan {name!r}, {section.component}: {fault}. Nothing was changed")


def warn_of_rounding(name: str, sections: Iterable[NetworkPlan], networks: Mapping[str, nn.Module]) -> None:
    """Tell what is to be expected of a certified plan on weights of another, coarser precision.

    Warns:
        PrecisionWarning: of the first section whose network has such weights.
    """
    sections = tuple(sections)
    for section in sections:
        found = valid_certificate(section, sections)
        stored = "" if found is None else _stored(networks[section.component])
        if found is None or stored == found.dtype or not is_rounded(stored):
            continue
        gain = noise_gain_db(section)
        expected = "how much is lost cannot be told beforehand" if gain is None else _expected(gain)
        warnings.warn(
            f"plan {name!r}, {section.component}: certified on weights in {found.dtype}, these are {stored}; "
            f"{expected}. {MEASURE[0].upper()}{MEASURE[1:]}, or search one with --precision",
            PrecisionWarning,
            stacklevel=2,
        )
        return


def _stored(module: nn.Module) -> str:
    """In which numbers the weights are; "" of weights that are elsewhere now."""
    try:
        return precision_of(module)
    except WorkloadError:
        return ""


def _expected(gain: float) -> str:
    """What noise that weighs so many dB more costs, in words."""
    return (
        f"expected loss: {max(0.0, gain):.1f} dB of the agreement that these weights reach on their own, as rounding "
        f"noise weighs {gain:+.1f} dB under the plan against a run that computes every step"
    )


def _fault(section: NetworkPlan, found: Certificate | None, module: nn.Module, least_db: float) -> str:
    """Why a certificate does not suffice, "" if it does."""
    expected = f"expected a certificate of at least {least_db:g} dB at {100 * REQUIRED_LEVEL:g} %"
    if found is None:
        lacks = "none" if section.certificate is None else "one of other content, for the plan was changed since"
        return f"{expected}, got {lacks}; {MEASURE}"
    if found.lower_db is None or found.level < REQUIRED_LEVEL:
        bound = "no bound" if found.lower_db is None else f"a bound at {100 * found.level:g} %"
        return f"{expected}, got {bound}, of {found.num_samples} samples; measure it on more prompts"
    if found.lower_db < least_db:
        return f"{expected}, got {found.lower_db:.2f} dB; search a plan with a larger budget, or require less"
    if (stored := precision_of(module)) != found.dtype:
        return f"expected weights in {found.dtype}, as it was certified, got {stored}; load it so, or {MEASURE}"
    if found.signature and found.signature != signature_of(found, module):
        return f"expected the weights and the certificate that were signed, got others; load those, or {MEASURE}"
    return ""
