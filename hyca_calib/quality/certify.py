"""What a plan reached on the test split, written into the plan itself."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hyca_calib.pipelines.attention import attention_of
from hyca_calib.pipelines.rollout import runs_on
from hyca_calib.pipelines.workload import Job, Workload
from hyca_calib.quality.evaluate import Evaluation
from hyca_calib.quality.metrics import interval, prompt_groups
from hyca_calib.records.provenance import machine, provenance
from hyca_runtime import Plan, PlanError, RunReport, load_plan, save_plan
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.certified import REQUIRED_LEVEL, content_digest, signature_of
from hyca_runtime.errors import CertificateWarning
from hyca_runtime.fingerprint import weights_digest
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan_facts import Certificate, NewPromptBound
from hyca_runtime.precision import precision_of

LEAST_PROMPTS = 5
"""With fewer, means over prompts that are drawn again do not reach as far down as the interval should."""


def certified(
    plan: Plan,
    pipe: Any,
    found: Evaluation,
    report: RunReport,
    jobs: Sequence[Job],
    workload: Workload,
    sign: bool = False,
) -> Plan:
    """The plan with a certificate for every section that the run was held against.

    Args:
        report: of the run.
        workload: whose test split `jobs` are of.
        sign: with all weights, see `signature_of`.

    Raises:
        PlanError: samples hold NaN.
    """
    if not all(map(math.isfinite, found.agreement_db_each)):
        raise PlanError("samples hold NaN or infinity")
    followed = {id(section) for section in report.followed}

    def signed(section: NetworkPlan) -> NetworkPlan:
        if id(section) not in followed:
            return section
        made = _certificate(section, plan, pipe, found, jobs, workload)
        if sign:
            made = made.model_copy(update={"signature": signature_of(made, find_transformer(pipe, section.component))})
        return section.model_copy(update={"certificate": made})

    return plan.model_copy(update={"sections": tuple(map(signed, plan.sections))})


def write_certified(path: Path, measured: Plan, signed: Plan) -> None:
    """Replace the file of the plan that was measured by the one with certificates, all or nothing.

    Raises:
        PlanError: the file holds another plan by now, or cannot be written.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CertificateWarning)  # it is about to be made true
        unchanged = load_plan(path) == measured
    if not unchanged:
        raise PlanError("the file was changed meanwhile")
    try:
        save_plan(signed, path)
    except OSError as error:
        raise PlanError(f"cannot write it: {error.strerror}") from error


def _certificate(
    section: NetworkPlan, plan: Plan, pipe: Any, found: Evaluation, jobs: Sequence[Job], workload: Workload
) -> Certificate:
    module, device, prompts = find_transformer(pipe, section.component), str(runs_on(pipe)), prompt_groups(jobs)
    level = 2 * REQUIRED_LEVEL - 1  # of the interval whose lower end is a bound of REQUIRED_LEVEL
    mean, low, _ = interval(found.agreement_db_each, groups=prompts, level=level)
    made = provenance(device)
    return Certificate(
        content=content_digest(section, plan.sections),
        workload=workload.digest,
        num_samples=len(jobs),
        metric=found.measure,
        mean_db=mean,
        worst_db=found.agreement_db_worst,
        lower_db=low if len(set(prompts)) >= LEAST_PROMPTS else None,
        level=REQUIRED_LEVEL,
        sided=1,
        new_prompt=_new_prompt_bound(found),
        flops_ratio=found.flops_ratio,
        wall_ratio=found.wall_ratio,
        weights=weights_digest(module),
        device=machine(device),
        dtype=precision_of(module),
        attention=attention_of(module),
        versions=made.versions,
        commit=made.commit,
        date=made.date,
    )


def _new_prompt_bound(found: Evaluation) -> NewPromptBound | None:
    if found.new_prompt_db is None or found.new_prompt_level is None or found.num_prompts is None:
        return None
    return NewPromptBound(least_db=found.new_prompt_db, level=found.new_prompt_level, num_prompts=found.num_prompts)
