"""An effort in place of limits: the same options of a search, in counts and without a clock."""

import math
from dataclasses import fields, replace
from typing import Any

from hyca_calib.commands.options import SearchLimits
from hyca_calib.search.effort import Effort
from hyca_runtime.errors import StudyError

CLOCKS = ("timeout", "confirm", "refine")
"""Limits that are times."""
COUNTS = ("probes", "trials", "rollouts", "iterations", "fresh")
"""Limits that an effort has, too."""


def counted(limits: SearchLimits, effort: Effort) -> SearchLimits:
    """The limits with the counts of an effort, and all the time in the world for them.

    Raises:
        StudyError: a limit was given that the effort decides.
    """
    defaults = {field.name: field.default for field in fields(limits)}
    if given := [f"--{name}" for name in (*CLOCKS, *COUNTS) if getattr(limits, name) != defaults[name]]:
        raise StudyError(
            f"--effort {effort.name} decides how much is done, without a clock; got {', '.join(given)}, too: "
            "leave out either"
        )
    times: dict[str, Any] = dict.fromkeys(CLOCKS, math.inf)
    counts = {name: getattr(effort, name) for name in COUNTS}
    return replace(limits, **times, **counts)
