"""The whole of ``hyca_calib search`` for one budget: rollouts, refinement, the plan and its account."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from hyca_calib.costs.budget import Budget
from hyca_calib.search.assemble import build_section, provenance
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.closed_loop import FULL_RUNS, KEPT, InTheLoop
from hyca_calib.search.damping_sweep import sweep_damping
from hyca_calib.search.evolve import refine_somehow
from hyca_calib.search.fewer_steps import fewer_steps
from hyca_calib.search.fresh_runs import FRESH_RUNS, FreshRuns
from hyca_calib.search.kept_keys import told_past
from hyca_calib.search.options import RolloutLimits, SearchOptions
from hyca_calib.search.outcome import NOT_SEARCHED, agreeing, judged, write_outcome
from hyca_calib.search.presets import PRESETS, preset_section
from hyca_calib.search.problem import Problem, Samples
from hyca_calib.search.refined_points import NEAR_DB, refined_shortly, task_of
from hyca_calib.search.replay import Multistep
from hyca_calib.search.rollout_error import raced_psnr
from hyca_calib.search.rollout_search import search_by_rollouts
from hyca_calib.search.rows import with_taps
from hyca_calib.search.shared_rollouts import SharedRollouts
from hyca_calib.search.smaller import smaller
from hyca_calib.search.solver_table import solver_label
from hyca_calib.search.study import StudyFolder
from hyca_calib.trace.store import Trace
from hyca_runtime.errors import BudgetError
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan import Plan, load_plan
from hyca_runtime.solvers import ClosedFormSolver

Stage = Literal["confirm", "fresh", "refine"]
Progress = Callable[[Stage, float, str], None]
"""Told the stage, the share of it that is done, and a line of news."""
Tried = dict[str, list[dict[str, Any]]]
"""What was rolled out at each cache point, with each way to keep keys."""


@dataclass(frozen=True)
class _Run:
    """What all stages of one search are told.

    Attributes:
        contenders: how many there are.
    """

    pipe: Any
    budget: Budget
    study: StudyFolder
    options: SearchOptions
    on_progress: Progress
    contenders: int = 1

    @property
    def heat(self) -> RolloutLimits:
        """What rollouts may spend on one of several contenders before one goes on: half of the limits is all theirs."""
        limits, num = self.options.confirmation, self.contenders
        if num == 1:
            return limits
        rollouts = None if limits.rollouts is None else max(1, limits.rollouts // (2 * num))
        return replace(limits, minutes=limits.minutes / 2 / num, rollouts=rollouts)

    @property
    def shared(self) -> Path:
        """The folder of what serves all budgets."""
        return self.options.shared or self.study.folder

    def in_loop(self, problem: Problem) -> InTheLoop:
        """What makes sections of a problem's candidates, alike in all stages."""
        minutes = None if self.heat.rollouts is not None else self.heat.minutes
        return InTheLoop.within(minutes, self.pipe, problem, self.shared / FULL_RUNS)

    def section(self, winner: Candidate, folder: Path) -> NetworkPlan:
        """The section of a candidate that rollouts chose, whose rows are kept in a folder."""
        return self.in_loop(winner.problem).settled(winner, folder / KEPT)


def search(
    pipe: Any,
    contenders: Sequence[Sequence[Candidate]],
    budget: Budget,
    study: StudyFolder,
    options: SearchOptions,
    on_progress: Progress = lambda stage, share, news: None,
) -> Plan:
    """Find the best plan among the candidates and their neighbours, and write it with its account into `study`.

    Args:
        pipe: the pipeline that was traced; None skips rollouts and refinement.
        contenders: what `tune` found on traces of the same workload at different cache points, perhaps with different
            keys kept, best first; rollouts decide between these.
    """
    run, begun = _Run(pipe, budget, study, options, on_progress, len(contenders)), time.monotonic()
    on_progress("confirm", 0.0, "")
    chosen, winner, tried = _confirmed(run, contenders)
    on_progress("confirm", 1.0, f"{sum(map(len, tried.values()))} rollouts")
    confirmed = time.monotonic()
    with study.last_word():
        if study.complete:  # another worker was faster
            return load_plan(study.plan)
        on_progress("refine", 0.0, "")
        section, refinement = _refined(run, winner)
        on_progress("refine", 1.0, _told(section.quality.psnr_db) if section.quality else "")
        account = {
            **winner.choices,
            **_chosen(winner),
            "candidates": [_summary(candidate) for candidate in chosen[:20]],
            "rollouts": tried[winner.problem.label],
            "points": {point: max((r["psnr_db"] for r in rolled), default=None) for point, rolled in tried.items()},
            "refinement": refinement,
            "seconds": {"confirm": round(confirmed - begun, 1), "refine": round(time.monotonic() - confirmed, 1)},
        }
        beside = fewer_steps(pipe, winner.problem, section, budget)
        told = provenance(winner) | told_past([winner.problem], [section]) | ({} if beside is None else beside.told)
        return write_outcome(pipe, study, winner.problem, section, budget, "", told, account)


def confirmed(
    pipe: Any,
    contenders: Sequence[Sequence[Candidate]],
    budget: Budget,
    study: StudyFolder,
    options: SearchOptions,
    on_progress: Progress,
) -> Candidate:
    """The best candidate by rollouts, unrefined; see `search`."""
    return _confirmed(_Run(pipe, budget, study, options, on_progress, len(contenders)), contenders)[1]


def refined(
    pipe: Any, winner: Candidate, budget: Budget, study: StudyFolder, options: SearchOptions, on_progress: Progress
) -> tuple[NetworkPlan, dict[str, Any]]:
    """The winner as a section with refined taps, and an account of that; see `search`."""
    return _refined(_Run(pipe, budget, study, options, on_progress), winner)


def _confirmed(run: _Run, contenders: Sequence[Sequence[Candidate]]) -> tuple[Sequence[Candidate], Candidate, Tried]:
    """The candidates of the best cache point, the winner among them and their neighbours, and what was rolled out.

    Of several contenders each gets a share of half of the limits, the one that is ahead then the other half. If others
    are near, that is who is ahead after a short refinement.
    """
    limits, num, tried = run.options.confirmation, run.contenders, Tried()
    chosen, begin = contenders[0], 0.0
    if num > 1:
        heats = [_heat(run, c, run.heat, tried, i / 2 / num, (i + 1) / 2 / num) for i, c in enumerate(contenders)]
        chosen = contenders[_ahead(run, heats)]
        others = 0 if run.heat.rollouts is None else (num - 1) * run.heat.rollouts
        rollouts = None if limits.rollouts is None else max(1, limits.rollouts - others)
        limits, begin = replace(limits, minutes=limits.minutes / 2, rollouts=rollouts), 0.5
    return chosen, _heat(run, chosen, limits, tried, begin, 1.0)[1], tried


def _ahead(run: _Run, heats: Sequence[tuple[float, Candidate]]) -> int:
    """The number of the contender that goes on."""
    first, refinement = min(range(len(heats)), key=lambda i: heats[i][0]), run.options.refinement
    near = [i for i, (score, _) in enumerate(heats) if score <= heats[first][0] + NEAR_DB]
    winners = [heats[i][1] for i in near]
    refines = refinement.minutes > 0 and refinement.iterations != 0
    if run.pipe is None or len(near) < 2 or not (refines and all(w.schedule.predicted_steps for w in winners)):
        return first

    def tell(psnr: float) -> None:
        run.on_progress("confirm", 0.5, f"shortly refined, {_told(psnr)}")

    found = refined_shortly(run.pipe, winners, run.section, refinement, run.study, run.options.seed, tell)
    return max(near, key=lambda i: (found.get(heats[i][1].problem.label, -heats[i][0]), -heats[i][0]))


def _heat(
    run: _Run, candidates: Sequence[Candidate], limits: RolloutLimits, tried: Tried, begin: float, end: float
) -> tuple[float, Candidate]:
    """The winner of one contender after a part of the stage, and what it is judged by: the less, the better."""
    first = candidates[0]
    problem, point = first.problem, first.problem.label
    tried[point] = []
    if run.pipe is None or not first.schedule.predicted_steps or not limits.minutes:
        return first.cost, first
    samples, seed, in_loop = problem.samples("select"), run.options.seed, run.in_loop(problem)
    rollouts = SharedRollouts(
        run.options.storage or run.study.journal,
        f"rollouts {problem.identity}{_told_variants(problem)} {run.budget.text} seed {seed} {in_loop}",
        lambda candidate, beat: raced_psnr(run.pipe, in_loop.section(candidate), samples, beat),
    )

    def tell(done: float, psnr: float) -> None:
        run.on_progress("confirm", begin + (end - begin) * done, _told(psnr))

    sweep = partial(sweep_damping, first, run.budget)
    fitting = in_loop if run.options.in_loop else None
    winner, psnr = search_by_rollouts(candidates, limits, rollouts, seed, tell, sweep, fitting)
    tried[point] = rollouts.history()
    return -psnr, winner


def _told_variants(problem: Problem) -> str:
    return "".join(f", {spec}" for spec in problem.variants.specs.values()) if problem.variants else ""


def search_preset(
    pipe: Any, problems: Sequence[Problem], budget: Budget, study: StudyFolder, preset: str, multistep: Multistep
) -> Plan:
    """The plan of a published recipe, written with its account into `study`.

    Args:
        problems: of one workload at different cache points: that with the best agreement on the select split is taken,
            of those whose steps are cheap enough.

    Raises:
        BudgetError: no point meets the budget.
    """
    made, refused = list[tuple[Candidate, NetworkPlan]](), list[BudgetError]()
    for problem in problems:
        try:
            made.append(preset_section(problem, PRESETS[preset], budget, 0, multistep))
        except BudgetError as error:
            refused.append(error)
    if not made:
        raise refused[0]
    candidate, section, points = (*made[0], {}) if pipe is None else _best_point(pipe, made)
    account = {
        **NOT_SEARCHED,
        "preset": preset,
        "source": PRESETS[preset].source,
        "multistep": multistep,
        **candidate.choices,
        "groups": [
            {"size": len(channels), "solver": solver_label(closed)}
            for channels, closed in section.forecast.fallbacks()
            if isinstance(closed, ClosedFormSolver)
        ],
        "candidates": [_summary(candidate)],
        "points": points,
    }
    return write_outcome(pipe, study, candidate.problem, section, budget, preset, provenance(candidate), account)


def _best_point(
    pipe: Any, made: Sequence[tuple[Candidate, NetworkPlan]]
) -> tuple[Candidate, NetworkPlan, dict[str, float]]:
    """The one that agrees best on the select split, with its agreement, and that of each, as far as it was run."""
    best, ahead, points = made[0], list[float](), dict[str, float]()
    for candidate, section in made:
        each = raced_psnr(pipe, section, candidate.problem.samples("select"), ahead)
        points[str(candidate.problem.trace.point)] = psnr = statistics.fmean(each)
        if not ahead or (len(each) == len(ahead) and psnr > statistics.fmean(ahead)):
            best, ahead = (candidate, section), each
    return best[0], agreeing(best[1], statistics.fmean(ahead), len(ahead)), points


def _refined(run: _Run, winner: Candidate) -> tuple[NetworkPlan, dict[str, Any]]:
    """The winner as a section with refined taps and its agreement on the select split, and an account of that."""
    pipe, problem, options = run.pipe, winner.problem, run.options
    section = build_section(winner) if pipe is None else run.section(winner, run.study.folder)
    account = dict[str, Any]()
    if pipe is not None and winner.schedule.predicted_steps and options.refinement.minutes > 0:
        task = task_of(pipe, winner, section, partial(_fresh, run, problem.trace))

        def tell(share: float, psnr: float) -> None:
            run.on_progress("refine", share, _told(psnr))

        told = dict[str, Any]()
        if options.refinement.size:
            task, told = smaller(task, options.refinement, options.seed)
        theta, account = refine_somehow(task, options.refinement, run.study, options.seed, tell)
        account = {**told, **account}
        section = with_taps(section, task.expand(theta).double().numpy())
    return judged(pipe, problem, section), account


def _fresh(run: _Run, trace: Trace) -> Samples | None:
    """Full runs beyond the trace, if any are wanted."""
    if not run.options.fresh:
        return None
    runs = FreshRuns(run.options.fresh, run.shared / FRESH_RUNS)
    return runs.drawn(run.pipe, trace, lambda share: run.on_progress("fresh", share, ""))


def _chosen(winner: Candidate) -> dict[str, Any]:
    """The solver of each group, point by point, and what each would cost."""
    parts = [found for found in winner.parts.values() if found.costs] or list(winner.parts.values())
    chosen = [pair for found in parts for pair in zip(found.groups, found.solvers, strict=True)]
    groups = [{"size": len(channels), "solver": solver.name} for channels, solver in chosen]
    return {"groups": groups, "solver_costs": winner.solver_costs}


def _summary(candidate: Candidate) -> dict[str, Any]:
    return candidate.choices | {"cost": candidate.cost}


def _told(latent_psnr: float) -> str:
    return f"latent PSNR {latent_psnr:.2f} dB"
