"""Which of several cache points refinement gains most at: not always the one that is ahead before it.

At the output a row has a weight for each of a few channels, at the trunk for hundreds, of which gradients make more.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hyca_calib.records.atomic import write_json
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.evolve import refine_somehow
from hyca_calib.search.options import Refinement
from hyca_calib.search.preconditioner import coordinates
from hyca_calib.search.problem import Samples
from hyca_calib.search.refinement_task import RefinementTask
from hyca_calib.search.study import StudyFolder
from hyca_runtime.network_plan import NetworkPlan

NEAR_DB = 2.0
"""Who is further behind before refinement is not refined for this."""
SHARE = 1 / 8
"""Of the iterations, or the minutes, that each is refined for."""
KEPT, FOLDER = "refined_points.json", "points"


def task_of(
    pipe: Any, winner: Candidate, section: NetworkPlan, more: Callable[[], Samples | None] = lambda: None
) -> RefinementTask:
    """The refinement of a candidate's taps.

    Args:
        section: the candidate's, with the taps to begin with.
        more: see `RefinementTask`.
    """
    problem = winner.problem
    start, expand = coordinates(problem, section, winner.settings.taps)
    fit, select = problem.samples("fit"), problem.samples("select")
    return RefinementTask(pipe, section, start, expand, fit, select, more=more, of=winner.of)


def shortly(settings: Refinement) -> Refinement:
    """A small share of a refinement."""
    iterations = None if settings.iterations is None else math.ceil(SHARE * settings.iterations)
    return replace(settings, minutes=SHARE * settings.minutes, iterations=iterations, evaluations=2)


def refined_shortly(
    pipe: Any,
    winners: Sequence[Candidate],
    section_of: Callable[[Candidate, Path], NetworkPlan],
    settings: Refinement,
    study: StudyFolder,
    seed: int,
    on_news: Callable[[float], None],
) -> dict[str, float]:
    """Agreement with full runs of the select split in dB after a short refinement, by the label of each one's problem;
    nothing of those that there were no minutes for.

    Of several workers one refines, the others read what it found.

    Args:
        winners: the best candidates of different problems.
        section_of: makes the section of each, whose taps are refined, and keeps what that takes in a folder.
        study: where it is kept; a second call goes on from it.
        on_news: told the agreement of each.
    """
    kept, found = study.folder / KEPT, dict[str, float]()
    with study.last_word():
        if kept.exists():
            found = {of: float(psnr) for of, psnr in json.loads(kept.read_text()).items()}
        for winner in winners:
            of, own = winner.of, StudyFolder(study.folder / FOLDER / winner.of)
            if of not in found:
                own.folder.mkdir(parents=True, exist_ok=True)
                task = task_of(pipe, winner, section_of(winner, own.folder))
                _, account = refine_somehow(task, shortly(settings), own, seed)
                if "select_psnr_after_db" not in account:  # the minutes were over before
                    continue
                found[of] = account["select_psnr_after_db"]
                write_json(kept, found)
            on_news(found[of])
    return {winner.problem.label: found[winner.of] for winner in winners if winner.of in found}
