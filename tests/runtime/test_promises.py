"""What documents promise, at the edges: bounds, digests, precision, and what other hosts are told."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from plans import STEPS, changed, make_plan

from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_runtime import AttachError, Plan, PlanError, apply_plan, load_plan, save_plan
from hyca_runtime.chunking import Chunking
from hyca_runtime.fingerprint import weights_digest
from hyca_runtime.integrations import cache_dit, cache_dit_taps
from hyca_runtime.integrations.vllm_omni import HycaBackend
from hyca_runtime.moment import Moment
from hyca_runtime.plan_cache import PlanCache
from hyca_runtime.policies import ChangeSinceComputed, FilteredChange, MagnitudeRatio, PacedBySurprise
from hyca_runtime.probes import ProbeMemory
from hyca_runtime.schedule import COMPUTE, EVERY, FEATURE, Action, Schedule
from hyca_runtime.solvers import Hold
from hyca_runtime.streaming.retention import Important
from hyca_runtime.variant import VariantSpec


@pytest.mark.parametrize(
    ("scheduler", "steps", "allowed"),
    [
        ({}, STEPS, 3),
        ({"use_karras_sigmas": True}, STEPS, 3),
        ({"shift": 0.2}, STEPS, 3),
        ({"use_karras_sigmas": True}, 2 * STEPS, 6),
        ({"shift": 3.0}, 4 * STEPS, 12),
        ({}, STEPS // 2, 3),
    ],
)
@pytest.mark.parametrize("policy", [MagnitudeRatio(0.0, {"*": (1.0,) * STEPS}), PacedBySurprise(0.0, (1.0,) * STEPS)])
def test_max_computed_bounds_adapted_runs(
    pipe: EmojiPipeline, policy: Any, scheduler: dict[str, Any], steps: int, allowed: int
) -> None:
    """Both policies would compute every step; of more steps than the plan's, as large a share may be."""
    plan = changed(make_plan(pipe.transformer), policy=policy.spec(3))
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(**scheduler)
    with apply_plan(pipe, plan, "adapt") as session:
        pipe("red heart", num_inference_steps=steps, output_type="latent")
    assert session.report().computed == min(allowed, steps)


@pytest.mark.parametrize(("steps", "allowed"), [(STEPS, 3), (2 * STEPS, 6)])
@pytest.mark.parametrize("of", [1.0, 0.5])
def test_max_computed_is_of_the_steps_that_the_network_runs(
    pipe: EmojiPipeline, of: float, steps: int, allowed: int
) -> None:
    """Of an image-to-image run the last of its scheduler, and in the plan they are all there is."""
    policy = MagnitudeRatio(0.0, {"*": (1.0,) * STEPS})
    whole = FlowMatchEulerDiscreteScheduler()
    whole.set_timesteps(sigmas=np.linspace(1, of / STEPS, round(STEPS / of)))
    grid = make_plan(pipe.transformer).section.grid
    times = tuple(whole.timesteps[-STEPS:].tolist())
    told = {"timesteps": tuple(time / 1000 for time in times), "scheduler_timesteps": times}
    plan = changed(make_plan(pipe.transformer), policy=policy.spec(3), grid=grid.model_copy(update=told))
    scheduler, condition = FlowMatchEulerDiscreteScheduler(), pipe._condition(["red heart"], 4, 4)
    pipe.scheduler = scheduler
    scheduler.set_timesteps(sigmas=np.linspace(1, of / steps, round(steps / of)))
    scheduler.set_begin_index(len(scheduler.timesteps) - steps)
    latents = torch.randn(1, 16, 48, generator=torch.Generator().manual_seed(0))
    with apply_plan(pipe, plan, "adapt") as session, torch.no_grad():
        for time in scheduler.timesteps[-steps:]:
            velocity = pipe.transformer(latents, timestep=time.expand(1) / 1000, **condition, return_dict=False)[0]
            latents = scheduler.step(velocity, time, latents, return_dict=False)[0]
        report = session.report()
    assert (report.computed, report.steps) == (allowed, steps)


def test_a_step_is_as_surprising_as_its_most_surprised_branch() -> None:
    schedule = Schedule.from_steps(STEPS, [0, 1, 4, 8])
    policy = PacedBySurprise(1.0, (1.0,) * STEPS, response=1.0)

    def mood(*surprises: float) -> float:
        state = policy.begin()
        for position in range(3):
            for number, off in enumerate(surprises):
                moment = Moment(0, float(position), position - 1.0, STEPS, f"#{number}", 0)
                action, state = policy.decide(state, moment, schedule)
                if action.computes:
                    state = policy.learn(state, moment, {FEATURE: (off,)})
        return float(state.mood)

    assert mood(math.e) == mood(math.e, math.e) == mood(1.0, math.e) == mood(math.e, 1.0) != mood(1.0, 1.0)


@pytest.mark.parametrize("told", [(2.0, math.nan), (math.nan, 2.0), (math.nan,), (math.inf,)])
def test_what_is_not_a_number_surprises_most(told: tuple[float, ...]) -> None:
    policy = PacedBySurprise(1.0, (1.0,) * STEPS, response=1.0)
    state = policy.begin()._replace(before=9, gap=1.0)
    moods = [policy.learn(state, Moment(0, 5.0, 4.0, STEPS, "", 0), {FEATURE: of}).mood for of in ((2.0,), told)]
    assert moods[0] < moods[1] < math.inf


def test_filtered_tokens_of_float16_stay_numbers() -> None:
    policy = FilteredChange(0.1, levels=(0.99,) * STEPS, grid=(32, 32))
    tokens = torch.randn(1, 1024, 4, generator=torch.Generator().manual_seed(0)) + 80
    found = {}
    for dtype in (torch.float32, torch.float16):
        memory = ProbeMemory()
        memory.measure(policy, tokens.to(dtype), tokens.to(dtype), 0.0)
        memory.keep(tokens.to(dtype))
        (found[dtype],) = memory.measure(policy, (tokens + 0.5).to(dtype), tokens.to(dtype), 1.0) or (math.nan,)
    assert found[torch.float16] == pytest.approx(found[torch.float32], rel=0.05)


def test_buffers_that_come_with_the_weights_count() -> None:
    network = SD3Transformer2DModel(
        sample_size=8, num_layers=1, attention_head_dim=8, num_attention_heads=2, in_channels=4, out_channels=4,
        joint_attention_dim=8, caption_projection_dim=16, pooled_projection_dim=8, pos_embed_max_size=8,
    )  # fmt: skip
    before = weights_digest(network), weights_digest(network, None)
    network.pos_embed.pos_embed.mul_(3)
    assert weights_digest(network) != before[0]
    assert weights_digest(network, None) != before[1]


def damaged(plan: Plan, folder: Path, solver: dict[str, Any], **section: Any) -> Path:
    content = plan.model_dump(mode="json", exclude_none=True)
    content["sections"][0] |= section
    content["sections"][0]["points"][FEATURE]["groups"][EVERY][0]["solver"] = solver
    path = folder / "plan.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("solver", "reason"),
    [
        ({"name": "newton", "configuration": {"order": 1.0}}, "order"),
        ({"name": "bdf2", "configuration": {"slope": "false"}}, "slope"),
        ({"name": "exponential", "configuration": {"rate": 10**400}}, "rate"),
        ({"name": "fitted", "configuration": {"steps": [2], "weights": [[[10**400]]]}}, "table"),
        ({"name": "increment", "configuration": {"moves": [[1, 2]]}}, "moves"),
    ],
)
def test_hostile_settings_of_solvers_are_told(plan: Plan, tmp_path: Path, solver: dict[str, Any], reason: str) -> None:
    with pytest.raises(PlanError, match=reason):
        load_plan(damaged(plan, tmp_path, solver))


def test_a_small_file_does_not_take_all_memory(plan: Plan, tmp_path: Path) -> None:
    path = damaged(plan, tmp_path, {"name": "newton", "configuration": {"order": 4}})
    content = json.loads(path.read_text())
    section = content["sections"][0]
    forecast = section["points"][FEATURE]
    forecast["num_channels"], forecast["groups"][EVERY][0]["channels"] = 1 << 20, f"0-{(1 << 20) - 1}"
    table = section["schedule"]["tables"][EVERY]
    section["schedule"]["tables"] |= {f"branch {i}": table for i in range(300)}
    path.write_text(json.dumps(content))
    with pytest.raises(PlanError, match="expected at most"):
        load_plan(path)


def test_what_another_cache_cannot_be_told_is_refused(pipe: EmojiPipeline) -> None:
    plan = make_plan(pipe.transformer, solvers=(Hold(),))
    cut = changed(plan, chunks=Chunking(frames=3, lag=2, keys=Important(1).spec()))
    palette = (COMPUTE, Action(forecast=(FEATURE,)), Action(variant="low"))
    low = changed(
        plan,
        schedule=Schedule(palette=palette, tables={EVERY: (0, 1, 2) * (STEPS // 3)}),
        variants={"low": VariantSpec(scheme="int8")},
        action_flops=None,
    )
    for odd, reason in ((cut, "chunks"), (low, "variants")):
        for told in (cache_dit.options, cache_dit.steps_mask, cache_dit_taps.configs):
            with pytest.raises(PlanError, match=f"the plan's {reason} cannot be said to another cache"):
                told(odd.section)
    plan = make_plan(pipe.transformer, solvers=(Hold(),), point="trunk:residual")
    probing = changed(plan, policy=ChangeSinceComputed(0.1, blocks=3).spec())
    assert cache_dit.options(probing.section)["cache_config"]["Fn_compute_blocks"] == 3


def test_a_plan_of_the_same_size_and_time_is_seen(pipe: EmojiPipeline, tmp_path: Path) -> None:
    file, other, plans = tmp_path / "live.json", tmp_path / "next.json", PlanCache()
    for path, computed in ((file, (0, 1, 4, 8)), (other, (0, 1, 5, 9))):
        save_plan(make_plan(pipe.transformer, computed=computed), path)
        os.utime(path, (1e9, 1e9))
    before = plans.get(file)
    digest = hashlib.sha256(other.read_bytes()).hexdigest()
    other.replace(file)
    found = plans.get(file, digest=digest)
    assert found.section.schedule.computed_steps == (0, 1, 5, 9) != before.section.schedule.computed_steps


def test_a_plan_that_cannot_be_enabled_leaves_the_one_before(pipe: EmojiPipeline, tmp_path: Path) -> None:
    plan = make_plan(pipe.transformer)
    save_plan(plan, tmp_path / "a.json")
    backend = HycaBackend({"plan": str(tmp_path / "a.json")})
    backend.enable(pipe)
    content = plan.model_dump(mode="json", exclude_none=True)
    content["sections"][0]["points"][FEATURE]["at"] = {"kind": "span", "path": "nope.0..nope.3"}
    (tmp_path / "b.json").write_text(json.dumps(content))
    backend.config = {"plan": str(tmp_path / "b.json")}
    with pytest.raises(AttachError):
        backend.enable(pipe)
    assert backend.is_enabled()
    pipe("red heart", num_inference_steps=STEPS, output_type="latent")
    assert backend.report().startswith("4 of 12 steps computed")
    backend.disable(pipe)


@pytest.fixture
def plan(pipe: EmojiPipeline) -> Plan:
    return make_plan(pipe.transformer, solvers=(Hold(),))


@pytest.fixture
def pipe() -> EmojiPipeline:
    return tiny.pipeline()
