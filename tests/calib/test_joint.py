"""Rows over all guidance branches, from the trace to the run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Workload
from hyca_calib.report.steps import told_sources
from hyca_calib.search.assemble import build_section
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.lineage import misfit_of
from hyca_calib.search.options import Refinement, Sources
from hyca_calib.search.preconditioner import coordinates
from hyca_calib.search.problem import Problem
from hyca_calib.search.refine import refine_taps
from hyca_calib.search.refinement_task import RefinementTask
from hyca_calib.search.retimed import retime, retimed_cost
from hyca_calib.search.rollout_error import rollout_psnr
from hyca_calib.search.rows import plan_taps, rows_of, with_taps
from hyca_calib.search.settings import Settings
from hyca_calib.search.tap_rollout import TapRollout
from hyca_calib.trace.run import trace
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan, PlanMismatchError, apply_plan
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.point import CachePoint
from hyca_runtime.schedule import Schedule

STEPS, COMPUTED = 12, (0, 1, 4, 8)
GUIDED = tuple({"prompt": text, "true_cfg_scale": 3.0} for text in ("red cat", "blue dog", "green star", "red heart"))
STACKED = tuple({"class_labels": label, "guidance_scale": 2.0} for label in range(4))
KINDS: dict[str, tuple[Any, tuple[dict[str, Any], ...]]] = {
    "two calls": (tiny.pipeline, GUIDED),
    "one call": (tiny.glyphs, STACKED),
    "no guidance": (tiny.pipeline, tuple({"prompt": call["prompt"]} for call in GUIDED)),
}


@pytest.fixture(scope="module", params=KINDS)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Problem]:
    make, prompts = KINDS[request.param]
    path: Path = tmp_path_factory.mktemp("joint") / "t.zarr"
    trace(make(), Workload(prompts, 14, STEPS, 1), CachePoint(), path, model_name="t", batch=4, tokens=1000)
    return make(), Problem(Trace(path))


def section_of(problem: Problem, sources: Sources, **settings: Any) -> NetworkPlan:
    schedule = Schedule.from_steps(STEPS, COMPUTED)
    return build_section(Candidate(problem, Settings(groups=1, sources=sources, **settings), schedule))


def one_step_errors(problem: Problem, section: NetworkPlan) -> dict[tuple[str, int], float]:
    """Of each branch and step on the fit split, written out over joint regressors."""
    gram, found = problem.joint("fit"), {}
    for row, taps in zip(rows_of(section), plan_taps(section), strict=True):
        for number, branch in enumerate(problem.trace.branches):
            if row.branch in (branch, "*"):
                error = np.zeros(gram.shape[:2])
                for regressor, weights in zip(row.regressors, taps, strict=False):
                    owner = None if regressor is None else (branch if regressor[0] == "*" else regressor[0])
                    at = (
                        -1 if owner is None else problem.trace.branches.index(owner) * STEPS + (regressor or ("", 0))[1]
                    )
                    error[:, at] += weights
                error[:, number * STEPS + row.step] -= 1
                found[branch, row.step] = float(np.einsum("cr,crs,cs->", error, gram, error, optimize=True))
    return found


def test_more_regressors_err_less_on_every_branch_and_step(subject: tuple[Any, Problem]) -> None:
    _, problem = subject
    own = one_step_errors(problem, section_of(problem, "own", ridge=1e-7))
    for sources in problem.sources:
        found = one_step_errors(problem, section_of(problem, sources, ridge=1e-7))
        assert found.keys() == own.keys()
        assert all(found[key] < own[key] for key in own), sources
        assert sum(found.values()) < 0.98 * sum(own.values())


def test_the_offline_rollout_is_the_run(subject: tuple[Any, Problem]) -> None:
    pipe, problem = subject
    samples = problem.samples("select")
    for sources in problem.sources:
        section = section_of(problem, sources, repay=0.5)
        with TapRollout(pipe, section, checkpointed=False), torch.no_grad():
            offline = sample_latents(pipe, samples.jobs, STEPS, 4)
        with apply_plan(pipe, Plan(name="joint", sections=(section,)), "error") as session:
            found = sample_latents(pipe, samples.jobs, STEPS, 4)
            assert session.report().computed == len(COMPUTED)
            assert session.report().flops_ratio == pytest.approx(section.flops_ratio, rel=1e-6)
        torch.testing.assert_close(offline, found, rtol=1e-3, atol=1e-4)


def test_they_are_refined(subject: tuple[Any, Problem], tmp_path: Path) -> None:
    pipe, problem = subject
    section = section_of(problem, problem.sources[0])
    begin, expand = coordinates(problem, section, "channel")
    np.testing.assert_allclose(expand(begin).numpy(), plan_taps(section), rtol=1e-4, atol=1e-5)
    task = RefinementTask(pipe, section, begin, expand, problem.samples("fit"), problem.samples("select"))
    settings = Refinement(minutes=60, iterations=6, batch=6, evaluations=2)
    u, account = refine_taps(task, settings, tmp_path / "r.safetensors", seed=0)
    assert account["select_psnr_after_db"] > account["select_psnr_before_db"] + 0.1
    refined = with_taps(section, expand(u).double().numpy())
    assert rollout_psnr(pipe, refined, problem.samples("select")) == pytest.approx(
        account["select_psnr_after_db"], abs=0.05
    )


def test_replay_judges_the_guided_output(subject: tuple[Any, Problem]) -> None:
    """Rows of no weight on what is not their own cost what the shared rows cost."""
    _, problem = subject
    alike = retimed_cost(problem, retime(section_of(problem, "own", ridge=1e9), problem.trace))
    for sources in problem.sources:
        weightless = section_of(problem, sources, ridge=1e9)
        assert retimed_cost(problem, retime(weightless, problem.trace)) == pytest.approx(alike, rel=1e-3)


def test_a_plan_over_branches_is_not_judged_on_a_trace_without_them(
    subject: tuple[Any, Problem], recorded: Trace
) -> None:
    _, problem = subject
    plan = Plan(name="joint", sections=(section_of(problem, problem.sources[0]),))
    if problem.trace.branches == recorded.branches:
        assert misfit_of(plan, recorded) == ""
    elif problem.trace.stacked == 1:
        with pytest.raises(PlanMismatchError, match=r"has weights for the branches 'cond', 'uncond', .* has 'cond'"):
            misfit_of(plan, recorded)


def test_what_a_trace_does_not_replay_is_refused(subject: tuple[Any, Problem]) -> None:
    _, problem = subject
    if len(problem.trace.branches) == 1:
        return
    section, (first, second) = section_of(problem, "branches"), problem.trace.branches
    content = section.model_dump(mode="json", exclude_none=True)
    content["points"]["feature"]["sources"][first][0]["live"] = True
    live = NetworkPlan.model_validate_json(json.dumps(content))
    content["points"]["feature"]["sources"] = {}
    content["schedule"]["tables"][second] = content["schedule"]["tables"]["*"]
    apart = NetworkPlan.model_validate_json(json.dumps(content))
    for found in (live, apart):
        with pytest.raises(PlanMismatchError, match="treats guidance branches differently on a step"):
            misfit_of(Plan(name="p", sections=(found,)), problem.trace)


def test_guidance_that_is_not_known_leaves_each_branch_to_itself(subject: tuple[Any, Problem]) -> None:
    _, problem = subject
    unknown = Trace(problem.trace.where)
    unknown.attributes = unknown.attributes.model_copy(update={"guidance": []})
    found = replace(problem, trace=unknown)
    np.testing.assert_array_equal(found.guided("select"), found.gram("select"))
    assert found.sources == (("constant",) if len(unknown.branches) == 1 else ())


def test_what_forecasts_weigh_is_told(subject: tuple[Any, Problem]) -> None:
    _, problem = subject
    assert told_sources(section_of(problem, "own")) == ""
    first, *others = problem.trace.branches
    told = told_sources(section_of(problem, problem.sources[0])).split("; ")
    assert told[0] == f"{first}: {''.join(f'the past of {other}, ' for other in others)}a constant"
    assert len(told) == len(problem.trace.branches)
