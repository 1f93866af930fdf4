"""Plans of their own for the first chunk of a video and for those behind it, under one budget.

The first looks at no other and all look at it, so that what is lost there is lost everywhere. How the budget is shared
is decided by rollouts; then the later chunks are searched and refined beside the first, and the first beside them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hyca_calib.costs.budget import Budget
from hyca_calib.search.assemble import build_section, provenance
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.options import SearchOptions
from hyca_calib.search.outcome import NOT_SEARCHED, write_outcome
from hyca_calib.search.problem import Problem
from hyca_calib.search.rollout_error import log_errors
from hyca_calib.search.run import Progress, confirmed, refined
from hyca_calib.search.study import StudyFolder
from hyca_runtime.errors import BudgetError, TraceError
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan import Plan

FAVOURS = (1.0, 1.5, 2.0, 3.0)
"""How many times as much of the first chunk is computed as the budget's mean."""

Found = Mapping[Budget, Sequence[Candidate]]
"""Candidates on statistics, best first."""
Settled = tuple[Candidate, NetworkPlan]
"""A winner, and its section."""


def parted(problems: Sequence[Problem]) -> tuple[Problem, Problem] | None:
    """The problems of the first chunk and of the later ones, if these are the two."""
    by = {chunks.which: p for p in problems if (chunks := p.trace.attributes.chunks) is not None}
    if len(problems) == 2 and by.keys() == {"first", "later"}:
        return by["first"], by["later"]
    if by.keys() & {"first", "later"}:
        told = ", ".join(str(problem.trace.name) for problem in problems)
        raise TraceError(f"expected two traces, of --chunks first and of --chunks later, got {told}; give both")
    return None


def shared(budget: Budget, first: Problem) -> list[tuple[Budget, Budget]]:
    """Budgets of the first chunk and of the others under which a clip as traced meets the whole.

    Raises:
        BudgetError: it is one of a time.
    """
    trace, found = first.trace, list[tuple[Budget, Budget]]()
    cost, clip = trace.cost, 1 if trace.attributes.chunks is None else trace.attributes.chunks.clip
    light = cost.predicted_flops(3)
    whole = budget.most_flops(cost.full_flops, light, trace.num_steps) / (cost.full_flops * trace.num_steps)
    least = cost.run_flops(trace.num_steps, 1, 3) / (cost.full_flops * trace.num_steps)
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
    both: tuple[Problem, Problem],
    budget: Budget,
    study: StudyFolder,
    options: SearchOptions,
    candidates: Callable[[Problem, Sequence[Budget]], Found],
    on_progress: Progress,
) -> Plan:
    """The plan of two sections, written with its account into `study`.

    Args:
        both: of the first chunk, and of those behind it.
        candidates: gives those of a problem for some budgets.
    """
    ways = shared(budget, both[0])
    leads, rests = (candidates(problem, [*dict.fromkeys(way[i] for way in ways)]) for i, problem in enumerate(both))
    on_progress("confirm", 0.0, "")
    tried = {way: _error(pipe, leads[way[0]][0], rests[way[1]][0]) for way in ways}
    lead, rest = min(tried, key=lambda way: tried[way])
    beginning, accounts = build_section(leads[lead][0]), dict[str, Any]()

    def settled(of: str, found: Sequence[Candidate], wanted: Budget, other: NetworkPlan) -> Settled:
        """The best of the candidates beside a section for the other chunks, refined."""
        part = StudyFolder(study.folder / of)
        part.folder.mkdir(exist_ok=True)
        winner = confirmed(pipe, [[_beside(one, other) for one in found]], wanted, part, options, on_progress)
        section, accounts[of] = refined(pipe, winner, wanted, part, options, on_progress)
        return winner, section

    _, behind = settled("later", rests[rest], rest, beginning)
    winner, section = settled("first", leads[lead], lead, behind)
    behind = behind.model_copy(update={"quality": section.quality})
    account = {
        **NOT_SEARCHED,
        **winner.choices,
        "groups": [],
        "chunks": {"first": lead.text, "later": rest.text, "refinement": accounts},
        "ways": [{"first": a.text, "later": b.text, "log_error": error} for (a, b), error in tried.items()],
    }
    problem = replace(winner.problem, other_chunks=(behind,))
    return write_outcome(pipe, study, problem, section, budget, "", provenance(winner), account)


def _beside(candidate: Candidate, other: NetworkPlan) -> Candidate:
    """A candidate whose runs follow another section in the other chunks."""
    problem = replace(candidate.problem, other_chunks=(other,))
    return replace(candidate, problem=problem).knowing(groups=candidate.groups)


def _error(pipe: Any, lead: Candidate, rest: Candidate) -> float:
    """Mean log squared error on the select split of what two candidates make together."""
    one = _beside(lead, build_section(rest))
    return float(log_errors(pipe, build_section(one), one.problem.samples("select")).mean())
