"""Plans for lanes whose rows are fitted: to the steps that each lane computes, not to those of a plan alone."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hyca_calib.lanes.joint import DEPTH, Joint
from hyca_calib.search.assemble import assemble_section, channel_taps
from hyca_calib.search.candidate import partition
from hyca_calib.search.problem import Problem
from hyca_calib.search.replay import grouped
from hyca_calib.search.rows import with_taps
from hyca_calib.search.settings import Settings
from hyca_calib.search.taps import fit_solver
from hyca_runtime import Plan
from hyca_runtime.schedule import EVERY, FEATURE, Schedule
from hyca_runtime.solvers import Newton

USUAL = Settings(depth=DEPTH, axis="step")
"""How rows are fitted unless told."""


def fitted_plans(problem: Problem, joint: Joint, settings: Settings = USUAL, seed: int = 0) -> tuple[Plan, ...]:
    """For each lane a plan that computes on the passes on which all do, with rows that are fitted for its steps.

    Apply them with ``on_mismatch="adapt"``: where a lane that began late has fewer features than a row weighs, a closed
    form forecasts.

    Args:
        seed: of the clusterer of channels.
    """
    groups = partition(problem, settings, seed)
    return tuple(_fitted(problem, joint, lane, settings, groups) for lane in range(len(joint.lanes)))


def _fitted(problem: Problem, joint: Joint, lane: int, settings: Settings, groups: Sequence[NDArray[np.int64]]) -> Plan:
    schedule = Schedule.from_steps(joint.lanes.num_steps, {0, *joint.steps(lane)}, FEATURE)
    times = problem.times(settings.axis)
    fit = grouped(problem.fit, problem.channel_gain, groups)
    rows = [fit_solver(gram[None], schedule, times, settings.depth, settings.ridge) for gram in fit]
    parts = [(channels, solver, Newton(1)) for channels, solver in zip(groups, rows, strict=True)]
    section = assemble_section(problem, schedule, settings.axis, {(FEATURE, EVERY): parts})
    section = with_taps(section, channel_taps(problem, settings, section))
    return Plan(name=f"lane {lane} of {len(joint.lanes)}", sections=(section,))
