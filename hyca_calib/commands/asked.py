"""What a search is asked for, and what makes its plans."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyca_calib.commands.options import SearchLimits
from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.pipeline import Pipeline
from hyca_calib.search.effort import Effort
from hyca_calib.search.problem import Problem
from hyca_calib.search.study import StudyFolder
from hyca_runtime import Plan

Maker = Callable[[Budget, StudyFolder], Plan]
"""Makes the plan of a budget, and writes it with its account into its study."""


@dataclass(frozen=True)
class Asked:
    """What a search is to do.

    Attributes:
        problems: of each trace.
        folder: of all studies together.
        effort: where the limits are an effort's.
        start: an earlier plan that the search begins with, if any; of the problems' point.
    """

    pipe: Pipeline
    problems: Sequence[Problem]
    budgets: Sequence[Budget]
    limits: SearchLimits
    folder: Path
    effort: Effort | None = None
    start: Plan | None = None
