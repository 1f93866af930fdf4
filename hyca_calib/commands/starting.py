"""From an earlier plan to a new one: what is refused, what still holds, what a search begins with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from hyca_calib.commands.asked import Asked
from hyca_calib.commands.calibrate_options import CalibrateOptions
from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.load import TracedModel
from hyca_calib.records.console import say
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.check_plan import check_plan
from hyca_calib.search.held import held, write_held
from hyca_calib.search.lineage import check_replayed, foreign, own_problem, part_for, section_for
from hyca_calib.search.options import SearchOptions
from hyca_calib.search.start import kept_candidate, with_start
from hyca_calib.search.study import StudyFolder
from hyca_runtime.certified import content_digest, valid_certificate
from hyca_runtime.errors import PlanMismatchError
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan import Plan
from hyca_runtime.schedule import FEATURE


@dataclass(frozen=True)
class Start:
    """An earlier plan that a calibration begins with.

    Attributes:
        section: what it has for the network that is calibrated.
    """

    plan: Plan
    section: NetworkPlan

    @classmethod
    def of(cls, plan: Plan, model: TracedModel, point: str) -> Self:
        """The plan for a model that it was perhaps not made on.

        Args:
            point: that is asked for; the default is whichever the plan has.

        Raises:
            PlanMismatchError: it is for another architecture, of a kind that a trace does not replay, of chunks apart,
                or cached elsewhere than asked.
        """
        if fault := foreign(plan, model):
            raise PlanMismatchError(f"--from {plan.name!r}: {fault}; calibrate without it")
        section, *later = [section for section in plan.sections if section.component == model.component]
        if any(other.from_chunk is not None for other in later):
            raise PlanMismatchError(
                f"--from {plan.name!r} does otherwise in later chunks than in the first, a calibration alike in all; "
                "calibrate without it, or trace both --chunks and search them together"
            )
        check_replayed(plan, section)
        others = [at for name, at in section.places.items() if name != FEATURE]
        if FEATURE not in section.places or any(at.kind != "behind" for at in others):
            raise PlanMismatchError(f"--from {plan.name!r} caches at {', '.join(section.points)}; calibrate without it")
        found = cls(plan, section)
        if point not in (CalibrateOptions.point, found.point):
            raise PlanMismatchError(
                f"--from {plan.name!r} caches at {found.point!r}, got --point {point}; leave it out"
            )
        return found

    @property
    def point(self) -> str:
        """Where it caches; several with commas, that of whole steps first."""
        return ",".join(str(at) for _, at in sorted(self.section.places.items(), key=lambda of: of[0] != FEATURE))

    @property
    def palette(self) -> str | None:
        """The points, if there are several."""
        return self.point if len(self.section.places) > 1 else None

    @property
    def probed(self) -> bool:
        """Whether the plan tells how errors are damped."""
        return bool(self.plan.provenance.get("healing"))

    def may_hold(self, steps: int) -> bool:
        """Whether a run of so many steps may be one that it was made for."""
        return self.section.schedule.num_steps == steps

    @property
    def signed(self) -> bool:
        return self.section.certificate is not None and self.section.certificate.signature is not None

    @property
    def lineage(self) -> dict[str, Any]:
        """What the new plan says of the one that it comes from."""
        content = content_digest(self.section, self.plan.sections)
        return {"plan": self.plan.name, "content": content, "trace": self.plan.provenance.get("trace")}


def still_held(asked: Asked, budget: Budget, study: StudyFolder) -> Plan | None:
    """The earlier plan, written for this budget, where its own steps are still run and it does what its certificate
    says; else None, and why is told.

    Raises:
        PlanMismatchError: it does not fit what was traced.
    """
    if asked.start is None:
        return None
    (problem,) = asked.problems
    plan = part_for(asked.start, problem.trace)
    if not problem.partial:
        check = check_plan(plan, problem, own_problem(plan)[0])
        if check.verdict == "other model":
            raise PlanMismatchError(f"--from {plan.name!r}: {check.reason}; calibrate without it")
        say(f"{plan.name} by the statistics here: {check.verdict}, {check.reason}")
    kept = kept_candidate(problem, plan, budget, asked.limits.seed)
    if kept is None:
        say("other steps than its own, or another budget: its schedule is a first candidate, its rows are none")
        return None
    certificate = valid_certificate(section_for(plan, problem.trace), plan.sections)
    found = held(asked.pipe, kept, certificate)
    if found is None:
        say("without the bound of a certificate to hold it against, it is a first candidate")
        return None
    say(f"{plan.name} {'holds' if found.holds else 'does not hold'}: {found}")
    return write_held(asked.pipe, kept, found, budget, study) if found.holds else None


def begun(
    asked: Asked, budget: Budget, contenders: Sequence[Sequence[Candidate]], options: SearchOptions
) -> tuple[Sequence[Sequence[Candidate]], SearchOptions]:
    """Contenders with what an earlier plan is good for, which is rolled out in any case."""
    if asked.start is None:
        return contenders, options
    (candidates,), (problem,) = contenders, asked.problems
    plan = part_for(asked.start, problem.trace)
    found, first = with_start(candidates, plan, budget, asked.limits.seed)
    return [found], replace(options, confirmation=replace(options.confirmation, finalists=first))
