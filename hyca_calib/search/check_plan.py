r"""Does a plan hold on another trace? A verdict from its statistics; nothing is sampled.

Three ways compete on the traced steps, each with as many computed steps: the plan, adapted as the
runtime does if the steps are not its own; *refit*, its schedule with taps fitted here; and *redo*, the
best schedule here with fitted taps. From their replayed costs J (see `hyca_calib.search.replay`) follows what
either remedy is expected to gain, in dB of the final latent's error:

.. math:: \Delta_{taps} = 10 \log_{10}\Big(1 + \frac{J_{plan} - r\, J_{refit}}{q\, J_{refit}}\Big), \qquad
          \Delta_{schedule} = 10 \log_{10} \frac{J_{refit}}{J_{redo}} - 10 \log_{10} \frac{J'_{refit}}{J'_{redo}}.

Refined taps and schedules that were confirmed by rollouts give up replayed cost on purpose. So all is
held against the plan's own trace, primed: :math:`r = J'_{plan} / J'_{refit}` is what the taps cost there
beyond fitted ones, and q is the plan's real error in units of the fitted taps': below 1 by the gain of
its refinement, which makes the same loss of cost weigh more; without refinement q = r. Where the own
trace cannot be read, both ratios are taken to be 1.
"""

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

from hyca_calib.costs.budget import Budget
from hyca_calib.search.assemble import build_section
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.lineage import changes_of, misfit_of, refinement_gain, section_for, settings_of
from hyca_calib.search.point_solvers import FITTED
from hyca_calib.search.problem import Problem
from hyca_calib.search.retimed import BROKEN, Retimed, retime, retimed_cost
from hyca_calib.search.tune import solve
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan import Plan

Verdict = Literal["holds", "refit", "redo", "other model"]

TAPS_DB, SCHEDULE_DB = 1.0, 1.2
"""Gains above which a remedy is worth its work; chosen on rollouts of both embedded models at 3x to 8x, and
held to account by the chapter on transfer."""
TINY = 1e-30


@dataclass(frozen=True)
class Remade:
    """A plan on a trace, and its remedies there, unrefined.

    Attributes:
        section: the plan's that a run of the trace follows.
        retimed: what that section does there.
        redo: the best schedule of as many computed steps, with fitted taps.
    """

    section: NetworkPlan
    retimed: Retimed
    refit: Candidate
    redo: Candidate


class Costs(BaseModel, frozen=True):
    """Replayed costs on the select split of one trace; `closed` is the best closed form, named `closed_form`."""

    plan: float
    refit: float
    redo: float
    hold: float
    closed: float
    closed_form: str


class Check(BaseModel, frozen=True):
    """What a check of a plan on a trace found.

    Attributes:
        adapted: whether the traced steps are not the plan's own.
        computed, redo_computed: computed steps of the plan and of the schedule searched here.
        here, home: costs on the trace and on the plan's own; None where there is nothing to replay.
        taps_db, schedule_db: expected gains of fitting the taps again, and of a new schedule beyond that.
    """

    verdict: Verdict
    reason: str
    changes: tuple[str, ...] = ()
    adapted: bool = False
    num_steps: int = 0
    computed: tuple[int, ...] = ()
    redo_computed: tuple[int, ...] = ()
    here: Costs | None = None
    home: Costs | None = None
    taps_db: float = 0.0
    schedule_db: float = 0.0


def check_plan(plan: Plan, problem: Problem, own: Problem | None = None, seed: int = 0) -> Check:
    """Whether `plan` holds on the trace of `problem`.

    Args:
        own: the trace the plan was made on, if it can be read.

    Raises:
        PlanMismatchError: the trace was recorded at another cache point, so it says nothing about the plan.
    """
    if misfit := misfit_of(plan, problem.trace):
        return Check(verdict="other model", reason=misfit)
    remade = remake(plan, problem, seed)
    found = Check(
        verdict="redo",
        reason="it computes every step here and saves nothing",
        changes=changes_of(plan, remade.section, problem.trace, own.trace if own else None),
        adapted=remade.retimed.adapted,
        num_steps=problem.trace.num_steps,
        computed=remade.retimed.schedule.computed_steps,
        redo_computed=remade.redo.schedule.computed_steps,
    )
    if not remade.retimed.schedule.predicted_steps:
        return found
    here = _costs(problem, remade)
    home = _costs(own, remake(plan, own, seed)) if own is not None else None
    taps_db, schedule_db = _expected_gains(here, home, refinement_gain(plan))
    guided_anew = own is not None and len(own.trace.branches) != len(problem.trace.branches)
    verdict = decide(taps_db, 0.0 if guided_anew else schedule_db)
    reason = f"taps made here are expected to gain {taps_db:.1f} dB, a schedule made here {schedule_db:+.1f} dB more"
    if here.plan == BROKEN:
        reason = "its closed forms break down on these steps: their weights are not finite"
    elif guided_anew:
        reason += " (not counted: how guidance weighs the errors of its branches is not in the statistics)"
    reason += overfitted(here)
    gains = {"taps_db": taps_db, "schedule_db": schedule_db}
    return found.model_copy(update={"verdict": verdict, "reason": reason, "here": here, "home": home, **gains})


def overfitted(costs: Costs) -> str:
    """What to add to a verdict on a trace of so few samples that rows fitted there are worse than a closed form."""
    if costs.closed >= costs.refit:
        return ""
    return f"; rows fitted here are worse than {costs.closed_form}, so it has too few samples to judge by: trace more"


def decide(taps_db: float, schedule_db: float) -> Verdict:
    """The verdict for gains, expected or measured, of new taps and of a new schedule beyond them."""
    if schedule_db > SCHEDULE_DB and taps_db + schedule_db > TAPS_DB:
        return "redo"
    return "refit" if taps_db > TAPS_DB else "holds"


def remake(plan: Plan, problem: Problem, seed: int) -> Remade:
    """The plan and its remedies on the traced steps."""
    section = section_for(plan, problem.trace)
    retimed, settings = retime(section, problem.trace), settings_of(plan, section)
    budget = Budget.parse(f"{len(retimed.schedule.computed_steps)} steps")
    refit = Candidate(problem, settings, retimed.schedule, seed)
    return Remade(section, retimed, refit, solve(problem, settings, [budget], seed)[0])


def _expected_gains(here: Costs, home: Costs | None, refined_db: float) -> tuple[float, float]:
    usual = home.plan / max(home.refit, TINY) if home else 1.0
    error = 10 ** (-refined_db / 10) if refined_db else usual
    excess = max(0.0, here.plan - usual * here.refit) / max(error * here.refit, TINY)
    given_up = _db(home.refit / max(home.redo, TINY)) if home else 0.0
    return _db(1 + excess), _db(here.refit / max(here.redo, TINY)) - given_up


def _db(ratio: float) -> float:
    return 10 * math.log10(max(ratio, TINY))


def _costs(problem: Problem, remade: Remade) -> Costs:
    refit, redo = (
        retimed_cost(problem, retime(build_section(candidate), problem.trace))
        for candidate in (remade.refit, remade.redo)
    )
    forms = {name: sum(costs) for name, costs in remade.refit.solver_costs.items() if name != FITTED}
    best = min(forms, key=lambda name: forms[name])
    return Costs(
        plan=retimed_cost(problem, remade.retimed),
        refit=refit,
        redo=redo,
        hold=forms["hold"],
        closed=forms[best],
        closed_form=best,
    )
