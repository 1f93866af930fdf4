"""Plans of their own for the first chunk of a video and for those behind it, under one budget.

The first looks at no other and all look at it, so that what is lost there is lost everywhere. How the budget is shared
is decided by rollouts; then the later chunks are searched and refined beside the first, and the first beside them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from hyca_calib.costs.budget import Budget
from hyca_calib.search.assemble import build_section, provenance
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.kept_keys import told_past
from hyca_calib.search.lineage import LATER
from hyca_calib.search.options import SearchOptions
from hyca_calib.search.outcome import NOT_SEARCHED, write_outcome
from hyca_calib.search.past_cost import PastCost, told_keys
from hyca_calib.search.problem import Problem
from hyca_calib.search.rollout_error import log_errors
from hyca_calib.search.run import Progress, confirmed, refined
from hyca_calib.search.study import StudyFolder
from hyca_runtime.errors import BudgetError, TraceError
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan import Plan, load_plan

FAVOURS = (1.0, 1.5, 2.0, 3.0)
"""How many times as much of the first chunk is computed as the budget's mean."""

Found = Mapping[Budget, Sequence[Candidate]]
"""Candidates on statistics, best first."""
Both = tuple[Problem, Problem]
"""Of the first chunk, and of those behind it."""
Settled = tuple[Candidate, NetworkPlan]
"""A winner, and its section."""


def parted(problems: Sequence[Problem]) -> Both | None:
    """The problems of the first chunk and of the later ones, if these are the two."""
    by = {chunks.which: p for p in problems if (chunks := p.trace.attributes.chunks) is not None}
    if len(problems) == 2 and by.keys() == {"first", "later"}:
        return by["first"], by["later"]
    if by.keys() & {"first", "later"}:
        told = ", ".join(str(problem.trace.name) for problem in problems)
        raise TraceError(f"expected two traces, of --chunks first and of --chunks later, got {told}; give both")
    return None


def shared(budget: Budget, both: Both) -> list[tuple[Budget, Budget]]:
    """Budgets of the first chunk and of the others under which a clip as traced meets the whole.

    Raises:
        BudgetError: it is one of a time.
    """
    (first, later), found = both, list[tuple[Budget, Budget]]()
    trace = first.trace
    cost, clip = trace.cost, 1 if trace.attributes.chunks is None else trace.attributes.chunks.clip
    light = cost.predicted_flops(3)
    whole = budget.most_flops(cost.full_flops, light, trace.num_steps) / (cost.full_flops * trace.num_steps)
    least = (later.past or PastCost()).least(cost, trace.num_steps)
    for favour in FAVOURS:
        lead = min(1.0, favour * whole)
        rest = (clip * whole - lead) / (clip - 1)
        if rest >= least:
            found.append((_of_share(lead), _of_share(rest)))
    if not found:
        raise BudgetError(f"budget {budget.text!r} cannot be met: {1 / least:.1f}x is the most; ask for less")
    return list(dict.fromkeys(found))


def _of_share(share: float) -> Budget:
    return Budget(f"{1 / share:.4g}x", share=share)


def search_by_chunk(
    pipe: Any,
    ways: Sequence[Both],
    budget: Budget,
    study: StudyFolder,
    options: SearchOptions,
    candidates: Callable[[Problem, Sequence[Budget]], Found],
    on_progress: Progress,
) -> Plan:
    """The plan of two sections, written with its account into `study`.

    Args:
        ways: the same problems, once for each way to keep keys.
        candidates: gives those of a problem for some budgets.
    """
    tried = [one for both in ways for one in _tried(pipe, both, budget, candidates, on_progress)]
    best = min(tried, key=lambda one: one.log_error)
    beginning, accounts = build_section(best.leads[0]), dict[str, Any]()

    def settled(of: str, found: Sequence[Candidate], wanted: Budget, other: NetworkPlan) -> Settled:
        """The best of the candidates beside a section for the other chunks, refined."""
        part = StudyFolder(study.folder / of)
        part.folder.mkdir(exist_ok=True)
        winner = confirmed(pipe, [[_beside(one, other) for one in found]], wanted, part, options, on_progress)
        with part.last_word():  # of several workers one refines, the others read what it found
            section, accounts[of] = refined(pipe, winner, wanted, part, options, on_progress)
        return winner, section

    later, behind = settled("later", best.rests, best.rest, beginning)
    winner, section = settled("first", best.leads, best.lead, behind)
    behind = behind.model_copy(update={"quality": section.quality})
    account = {
        **NOT_SEARCHED,
        **winner.choices,
        "groups": [],
        "chunks": {"first": best.lead.text, "later": best.rest.text, "refinement": accounts},
        "ways": [one.told for one in tried],
    }
    problem = replace(winner.problem, other_chunks=(behind,))
    told = provenance(winner) | told_past([winner.problem, later.problem], [section, behind])
    told[LATER] = later.problem.trace.where
    with study.last_word():
        if study.complete:  # another worker was faster
            return load_plan(study.plan)
        return write_outcome(pipe, study, problem, section, budget, "", told, account)


class _Tried(NamedTuple):
    """A way to share a budget, and to keep keys.

    Attributes:
        lead, rest: budgets of the first chunk and of the later ones.
        leads, rests: their candidates, best first.
        log_error: what the best of both make together.
    """

    lead: Budget
    rest: Budget
    leads: Sequence[Candidate]
    rests: Sequence[Candidate]
    log_error: float

    @property
    def told(self) -> dict[str, Any]:
        """For JSON."""
        told = {"first": self.lead.text, "later": self.rest.text, "log_error": self.log_error}
        problem = self.leads[0].problem
        return told if problem.past is None or not problem.keys else {"keys": told_keys(problem.keys), **told}


def _tried(
    pipe: Any,
    both: Both,
    budget: Budget,
    candidates: Callable[[Problem, Sequence[Budget]], Found],
    on_progress: Progress,
) -> list[_Tried]:
    """All ways to share the budget, with what was found for each."""
    shares = shared(budget, both)
    leads, rests = (candidates(problem, [*dict.fromkeys(of[i] for of in shares)]) for i, problem in enumerate(both))
    on_progress("confirm", 0.0, "")
    return [
        _Tried(lead, rest, leads[lead], rests[rest], _error(pipe, leads[lead][0], rests[rest][0]))
        for lead, rest in shares
    ]


def _beside(candidate: Candidate, other: NetworkPlan) -> Candidate:
    """A candidate whose runs follow another section in the other chunks."""
    problem = replace(candidate.problem, other_chunks=(other,))
    return replace(candidate, problem=problem).knowing(groups=candidate.groups)


def _error(pipe: Any, lead: Candidate, rest: Candidate) -> float:
    """Mean log squared error on the select split of what two candidates make together."""
    one = _beside(lead, build_section(rest))
    return float(log_errors(pipe, build_section(one), one.problem.samples("select")).mean())
