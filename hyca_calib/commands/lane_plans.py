"""Lanes for a plan that was searched: where they begin, and a plan for each, written beside it."""

import copy
from pathlib import Path

from pydantic import BaseModel

from hyca_calib.bench.notebook import Notebook
from hyca_calib.commands.lane_search import WATCHED, LaneSearch
from hyca_calib.lanes.choosing import best_of
from hyca_calib.lanes.fitted import fitted_plans
from hyca_calib.lanes.joint import Wall
from hyca_calib.lanes.measure import Bench
from hyca_calib.pipelines.pipeline import Pipeline
from hyca_calib.pipelines.rollout import runs_on
from hyca_calib.records.atomic import write_text
from hyca_calib.records.console import say
from hyca_calib.records.provenance import Provenance, provenance, versions
from hyca_calib.search.problem import Problem
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan, save_plan
from hyca_runtime.errors import WorkloadError
from hyca_runtime.samplers.following import Histories
from hyca_runtime.samplers.single_step import single_step

FOLDER, LANES = "lanes", "lanes.json"


class LanePlans(BaseModel, frozen=True):
    """Lanes that wait for no more computed passes than a plan alone computes steps.

    Attributes:
        plans: files beside this one, for each lane.
        db, alone_db: mean agreement with the exact sampler on the select split, of the lanes and of the plan alone.
    """

    starts: tuple[int, ...]
    histories: Histories
    plans: tuple[str, ...]
    passes: int
    computed_passes: int
    db: float
    alone_db: float
    made: Provenance


def check_sampler(pipe: Pipeline, steps: int) -> None:
    """Refuses, before any work, a pipeline whose sampler cannot be run in lanes with so many steps.

    Raises:
        SamplerError: it cannot.
    """
    scheduler = copy.deepcopy(getattr(pipe, "scheduler", None))
    if scheduler is not None:
        shifts = scheduler.config.get("use_dynamic_shifting", False)
        scheduler.set_timesteps(steps, **({"mu": 1.0} if shifts else {}))
    single_step(scheduler)


def lanes_beside(pipe: Pipeline, trace: Trace, plan: Plan, devices: int, batch: int, folder: Path) -> LanePlans:
    """Search lanes for a plan's wall, on the select split, and write them below the folder of its study.

    Raises:
        SamplerError: the pipeline's sampler cannot be run in lanes.
        WorkloadError: fewer than two devices, or the plan computes too few steps for two lanes to begin.
    """
    if devices < 2:
        raise WorkloadError(f"--lanes: expected at least 2 devices, got {devices}")
    section, workload, out = plan.section, trace.workload(), folder / FOLDER
    wall = Wall(len(section.schedule.computed_steps))
    select = Bench.of(pipe, workload.of("select")[:WATCHED], workload.num_steps, batch)
    made = provenance(str(runs_on(pipe)))
    facts = {"weights": trace.attributes.model.weights_digest, "workload": workload.describe().model_dump()}
    told = {**facts, "batch": batch, "device": made.device, "versions": versions()}
    search = LaneSearch(Problem(trace), Notebook(out, told), select)
    best = best_of(list(search.confirmed(wall, range(2, devices + 1))), wall.evaluations, range(2, devices + 1))
    if best is None:
        raise WorkloadError(f"{plan.name} computes {wall.evaluations:g} steps, too few for several lanes to begin")
    names = []
    for lane, own in enumerate(fitted_plans(search.problem, best.proposed.joint)):
        names.append(f"lane-{lane}.plan.json")
        save_plan(own, out / names[-1])
    found = LanePlans(
        starts=best.proposed.starts,
        histories=best.histories,
        plans=tuple(names),
        passes=best.row.passes,
        computed_passes=best.row.computed_passes,
        db=best.row.mean_db,
        alone_db=select.plan_alone(plan, plan.name).mean_db,
        made=made,
    )
    write_text(out / LANES, found.model_dump_json(indent=1) + "\n")
    better = "lanes" if found.db > found.alone_db else "the plan alone, on one device"
    say(f"{len(names)} lanes: {found.db:.2f} dB, the plan alone {found.alone_db:.2f} dB; prefer {better}")
    return found
