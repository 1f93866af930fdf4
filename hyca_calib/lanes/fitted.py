"""Plans for lanes whose rows are fitted: to the steps that each lane computes, not to those of a plan alone."""

from __future__ import annotations

from dataclasses import replace

from hyca_calib.lanes.joint import DEPTH, Joint
from hyca_calib.search.assemble import build_section
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.problem import Problem
from hyca_calib.search.settings import Settings
from hyca_runtime import Plan
from hyca_runtime.schedule import FEATURE, Schedule

USUAL = Settings(depth=DEPTH, axis="step")
"""How rows are fitted unless told."""


def fitted_plans(problem: Problem, joint: Joint, settings: Settings = USUAL) -> tuple[Plan, ...]:
    """For each lane a plan that computes on the passes on which all do, with rows that are fitted for its steps.

    Rows weigh what the lane itself has computed: no more than there is before its first forecast, so that none waits
    for a feature from before its beginning.
    """
    return tuple(_fitted(problem, joint, lane, settings) for lane in range(len(joint.lanes)))


def _fitted(problem: Problem, joint: Joint, lane: int, settings: Settings) -> Plan:
    steps, start = joint.steps(lane), joint.lanes.starts[lane]
    own = next((number for number, step in enumerate(steps) if step != start + number), len(steps))
    schedule = Schedule.from_steps(joint.lanes.num_steps, {0, *steps}, FEATURE)
    candidate = Candidate(problem, replace(settings, depth=max(1, min(settings.depth, own))), schedule)
    return Plan(name=f"lane {lane} of {len(joint.lanes)}", sections=(build_section(candidate),))
