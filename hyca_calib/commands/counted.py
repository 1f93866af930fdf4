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
OF_STAGE = {"confirm": ("rollouts",), "refine": ("iterations", "fresh", "refine_at")}
"""What counts for nothing where a stage has no time."""


def counted(limits: SearchLimits, effort: Effort | None) -> SearchLimits:
    """The limits with the counts of an effort, and all the time in the world for them; without one, as they are.

    Raises:
        StudyError: a limit was given that the effort decides, or for a stage that is left out.
    """
    defaults = {field.name: field.default for field in fields(limits)}
    if effort is None:
        for clock, names in OF_STAGE.items():
            given = [f"--{name.replace('_', '-')}" for name in names if getattr(limits, name) != defaults[name]]
            if given and not getattr(limits, clock):
                raise StudyError(f"--{clock} 0 leaves out what {', '.join(given)} is for; leave out either")
        return limits
    if given := [f"--{name}" for name in (*CLOCKS, *COUNTS) if getattr(limits, name) != defaults[name]]:
        raise StudyError(
            f"--effort {effort.name} decides how much is done, without a clock; got {', '.join(given)}, too: "
            "leave out either"
        )
    times: dict[str, Any] = dict.fromkeys(CLOCKS, math.inf)
    counts = {name: getattr(effort, name) for name in COUNTS}
    return replace(limits, **times, **counts)
