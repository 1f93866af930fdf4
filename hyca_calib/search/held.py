"""Whether an earlier plan still does on a trace what its certificate says; then nothing is searched."""

from dataclasses import asdict, dataclass
from typing import Any

from hyca_calib.costs.budget import Budget
from hyca_calib.quality.evaluate import evaluate_plan
from hyca_calib.quality.metrics import interval, prompt_groups
from hyca_calib.search.assemble import build_section, provenance
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.outcome import NOT_SEARCHED, judged, write_outcome
from hyca_calib.search.study import StudyFolder
from hyca_runtime.plan import Plan
from hyca_runtime.plan_facts import Certificate


@dataclass(frozen=True)
class Held:
    """What runs of a trace say of a plan that was certified elsewhere.

    Attributes:
        agreement_db: mean over the samples; they are those of the splits that a search may see.
        upper_db: upper bound of that mean over prompts, which few samples leave open.
        bound_db: what the certificate says it is at least.
    """

    agreement_db: float
    upper_db: float
    bound_db: float
    metric: str
    num_samples: int

    @property
    def holds(self) -> bool:
        """Whether these samples leave it possible that the mean of all is what the certificate says."""
        return self.upper_db >= self.bound_db

    def __str__(self) -> str:
        return (
            f"{self.metric} {self.agreement_db:.2f} dB on {self.num_samples} samples, so on all at most "
            f"{self.upper_db:.2f} dB; its certificate says at least {self.bound_db:.2f} dB"
        )


def held(pipe: Any, kept: Candidate, certificate: Certificate | None) -> Held | None:
    """How well the plan does that a candidate is, see `kept_candidate`; None where nothing is certified or comparable.

    Cost: a full run and one under the plan for each sample of the fit and select splits.
    """
    problem, section = kept.problem, build_section(kept)
    if certificate is None or certificate.lower_db is None:
        return None
    workload = problem.workload
    jobs = (*workload.of("fit"), *workload.of("select"))
    plan = Plan(name="held", sections=(section,))
    found, _, _ = evaluate_plan(pipe, plan, jobs, workload.num_steps, problem.trace.attributes.batch)
    if found.measure != certificate.metric:
        return None
    level = 2 * certificate.level - 1  # of the interval whose upper end is a bound of that level
    mean, _, high = interval(found.agreement_db_each, groups=prompt_groups(jobs), level=level)
    return Held(mean, high, certificate.lower_db, found.measure, len(jobs))


def write_held(pipe: Any, kept: Candidate, found: Held, budget: Budget, study: StudyFolder) -> Plan:
    """The plan as it was, for the steps and costs of this trace, written with an account into `study`."""
    section = judged(pipe, kept.problem, build_section(kept))
    account = {**NOT_SEARCHED, **kept.choices, "groups": [], "held": asdict(found)}
    told = provenance(kept) | {"held": asdict(found)}
    return write_outcome(pipe, study, kept.problem, section, budget, "", told, account)
