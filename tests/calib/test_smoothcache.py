"""SmoothCache as a preset: changes of layers, the published rule, budgets, plans, and its own files."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from storage import record
from torch import Tensor, nn

from hyca_calib.costs.budget import Budget
from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.pipelines.outputs import tensors_of
from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Workload
from hyca_calib.report.steps import told_points, told_steps
from hyca_calib.search.lineage import misfit_of
from hyca_calib.search.problem import Problem
from hyca_calib.search.smoothcache import calibration
from hyca_calib.search.smoothcache.calibration import KEPT, calibrate, measure_changes
from hyca_calib.search.smoothcache.layers import Layers, kinds_of, subsets
from hyca_calib.search.smoothcache.rule import Reach, check_budget, choose_runs, run_flops, smooth_runs
from hyca_calib.search.smoothcache.schedule_file import read_schedule, schedule_of
from hyca_calib.search.smoothcache.search import (
    kind_layers,
    reach_of,
    scheduled_layers,
    search_smoothcache,
    write_scheduled,
)
from hyca_calib.search.smoothcache.section import layered_section
from hyca_calib.search.study import StudyFolder
from hyca_calib.trace.store import Trace
from hyca_runtime import AttachError, Plan, PlanError, PlanMismatchError, apply_plan, load_plan
from hyca_runtime.attach.layers import find_layers
from hyca_runtime.errors import BudgetError
from hyca_runtime.point import CachePoint, parse_point

STEPS = 12
KINDS = {"attention": parse_point("attention"), "mlp": parse_point("mlp")}


@pytest.fixture(scope="module")
def problem(recorded: Trace) -> Problem:
    return Problem(recorded)


@pytest.fixture(scope="module")
def layers(problem: Problem) -> Layers:
    return kind_layers(tiny.pipeline(), problem)


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    """A DiT with both guidance branches in one call, traced at another point."""
    where = tmp_path_factory.mktemp("classes") / "t.zarr"
    prompts = tuple({"class_labels": label} for label in range(7))
    record(where, Workload(prompts, num_samples=7, num_steps=6), tiny.glyphs(), batch=4)
    return Problem(Trace(where))


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    return StudyFolder.open(tmp_path / "study", {})


def modules_of(network: nn.Module, kind: str) -> list[nn.Module]:
    return [place.module for place in find_layers(network, kind, "*")]


def draw(pipe: Any, problem: Problem) -> Tensor:
    return sample_latents(pipe, problem.workload.of("test")[:1], problem.workload.num_steps, 1)


HAND = (
    (0.1, 0.1, 0.3, 0.1, 0.1, 0.3, 0.1),  # to the next step
    (0.2, 0.3, 0.4, 0.9, 0.3, 0.5),  # to the one after
    (0.5, 0.2, 0.6, 0.1, 0.9),
)


@pytest.mark.parametrize(
    ("threshold", "lookahead", "first", "runs"),
    [
        (0.0, 3, 1, "11111111"),
        (0.1, 3, 1, "10110001"),  # 0 allows one; 2 none; 3 three, whatever lies between
        (0.25, 3, 1, "10010001"),  # 0 allows two, so 3 is next
        (1.0, 3, 1, "10001001"),  # the last would repeat, and runs
        (0.25, 1, 1, "10110111"),
        (0.25, 3, 2, "11000111"),  # the rule begins where steps may repeat: 1 allows three
    ],
)
def test_a_schedule_worked_by_hand(threshold: float, lookahead: int, first: int, runs: str) -> None:
    found = smooth_runs(HAND[:lookahead], threshold, Reach(8, lookahead, first))
    assert "".join(str(int(run)) for run in found) == runs


def test_the_published_rule_on_random_tables() -> None:
    """The largest allowed j first, only its own change looked at; first and last run: derived again from the paper."""
    rng = np.random.default_rng(0)

    def onwards(changes: dict[tuple[int, int], float], step: int, threshold: float, steps: int, most: int) -> list[int]:
        if step >= steps:
            return []
        allowed = [j for j in range(most, 0, -1) if changes.get((step, j), np.inf) <= threshold]
        reused = next(iter(allowed), 0)
        return [1, *[0] * reused, *onwards(changes, step + reused + 1, threshold, steps, most)]

    for _ in range(200):
        steps, most = int(rng.integers(4, 40)), int(rng.integers(1, 6))
        table = {(t, j): float(rng.gamma(2.0, 0.1 * j)) for j in range(1, most + 1) for t in range(steps - j)}
        rows = [[table[t, j] for t in range(steps - j)] for j in range(1, most + 1)]
        threshold = float(rng.uniform(0, 1))
        expected = onwards(table, 0, threshold, steps, most)
        expected[-1] = 1
        assert [int(run) for run in smooth_runs(rows, threshold, Reach(steps, most))] == expected


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_changes_are_those_of_the_outputs(problem: Problem, pipe: EmojiPipeline, guidance: float) -> None:
    job = problem.workload.of("fit")[0]
    job.call["true_cfg_scale"] = guidance
    try:
        held_against_hooks(pipe, problem, job, lookahead=2)
    finally:
        del job.call["true_cfg_scale"]


def test_changes_of_batched_guidance(classes: Problem) -> None:
    held_against_hooks(tiny.glyphs(), classes, classes.workload.of("fit")[0], lookahead=9)


def held_against_hooks(pipe: Any, problem: Problem, job: Any, lookahead: int) -> None:
    """Changes as the formula gives them for outputs that hooks saw, without our runtime."""
    found = measure_changes(pipe, problem, KINDS, job, lookahead)
    seen: dict[str, list[list[list[Tensor]]]] = {}
    for kind in KINDS:
        for module in modules_of(pipe.transformer, kind):
            outputs: list[list[Tensor]] = []
            seen.setdefault(kind, []).append(outputs)
            module.register_forward_hook(lambda _, __, output, kept=outputs: kept.append(tensors_of(output)))
    sample_latents(pipe, [job], problem.workload.num_steps, 1)
    steps = problem.trace.num_steps
    for kind, modules in seen.items():
        branches = len(modules[0]) // steps
        assert [len(row) for row in found[kind]] == [steps - j for j in range(1, min(lookahead, steps - 1) + 1)]
        for j, row in enumerate(found[kind], 1):
            for t, value in enumerate(row):
                ratios = []
                for outputs, branch in itertools.product(modules, range(branches)):
                    pair = outputs[t * branches + branch], outputs[(t + j) * branches + branch]
                    for a, b in zip(*pair, strict=True):
                        ratios.append(((a - b).abs().sum() / a.abs().sum()).item())
                assert value == pytest.approx(np.mean(ratios), rel=1e-4)


def test_a_killed_calibration_goes_on(
    problem: Problem, pipe: EmojiPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []

    def measure(pipe: Any, problem: Problem, points: Any, job: Any, lookahead: int) -> Any:
        if len(measured) == 2:
            measured.append(-1)
            raise KeyboardInterrupt
        measured.append(job.index)
        return measure_changes(pipe, problem, points, job, lookahead)

    monkeypatch.setattr(calibration, "measure_changes", measure)
    monkeypatch.setattr(calibration, "SAMPLES", 3)
    with pytest.raises(KeyboardInterrupt):
        calibrate(pipe, problem, KINDS, 2, tmp_path)
    found = calibrate(pipe, problem, KINDS, 2, tmp_path)
    fit = [job.index for job in problem.workload.of("fit")]
    assert measured == [*fit[:2], -1, fit[2]], "samples of the fit split, none twice"
    samples = json.loads((tmp_path / KEPT).read_text())["samples"].values()
    assert found["mlp"][1][3] == pytest.approx(np.mean([sample["mlp"][1][3] for sample in samples]))
    assert calibrate(pipe, problem, KINDS, 2, tmp_path) == found
    assert len(measured) == 4
    calibrate(pipe, problem, KINDS, 1, tmp_path)
    assert len(measured) == 7, "another lookahead is another calibration"


def random_changes(seed: int, steps: int, lookahead: int) -> dict[str, list[list[float]]]:
    rng = np.random.default_rng(seed)
    return {kind: [(rng.gamma(2.0, 0.1, steps - j) * j).tolist() for j in range(1, lookahead + 1)] for kind in KINDS}


COSTS = {(): 100.0, ("attention",): 70.0, ("mlp",): 50.0, ("attention", "mlp"): 20.0}
"""Of a step, by what it reuses."""


@pytest.mark.parametrize("text", ["1x", "1.3x", "2x", "60%", "9 steps"])
def test_a_threshold_spends_most_of_a_budget(text: str) -> None:
    layers, reach, budget = Layers(KINDS, {}, {}, COSTS), Reach(20, 3), Budget.parse(text)
    allowed = {"1x": 2000, "1.3x": 2000 / 1.3, "2x": 1000, "60%": 1200, "9 steps": 9 * 100 + 11 * 20}[text]
    for seed in range(5):
        changes = random_changes(seed, 20, 3)
        threshold, runs = choose_runs(changes, budget, layers, reach)
        spent = []
        for tried in np.linspace(0, 3, 3001):
            schedules = [smooth_runs(changes[kind], float(tried), reach) for kind in KINDS]
            kept = [
                tuple(k for k, run in zip(KINDS, of_step, strict=True) if not run)
                for of_step in zip(*schedules, strict=True)
            ]
            spent.append(sum(COSTS[reused] for reused in kept))
        assert max(total for total in spent if total <= allowed) <= run_flops(runs, layers, 20) <= allowed
        assert runs == {kind: smooth_runs(changes[kind], threshold, reach) for kind in KINDS}


def test_what_cannot_be_met_says_what_can() -> None:
    """Every fourth step and the last run: 6 of 20 at 100, 14 at 20, of 2000: 2.27x."""
    layers = Layers(KINDS, {}, {}, COSTS)
    with pytest.raises(BudgetError, match=r"attention and mlp .* at most 3 steps in a row, .* 2\.27x is the most"):
        check_budget(Budget.parse("2.28x"), layers, Reach(20, 3))
    check_budget(Budget.parse("2.27x"), layers, Reach(20, 3))
    check_budget(Budget.parse("2.28x"), layers, Reach(20, 4))
    with pytest.raises(BudgetError, match="only 20 steps"):
        check_budget(Budget.parse("21 steps"), layers, Reach(20, 3))


def test_kinds_that_a_network_has(pipe: EmojiPipeline) -> None:
    assert kinds_of(pipe.transformer) == KINDS
    bare = nn.Module()
    bare.blocks = nn.ModuleList([nn.Linear(2, 2)])
    with pytest.raises(AttachError, match=r"no layers that it could reuse: Module has no attention .* has no mlp"):
        kinds_of(bare)
    with pytest.raises(AttachError, match="Linear has no list of blocks"):
        kinds_of(nn.Linear(2, 2))


def test_a_threshold_of_zero_is_the_full_run(problem: Problem, pipe: EmojiPipeline, layers: Layers) -> None:
    changes = measure_changes(pipe, problem, layers.points, problem.workload.of("fit")[0], 3)
    runs = {kind: smooth_runs(rows, 0.0, reach_of(problem, 3)) for kind, rows in changes.items()}
    section = layered_section(problem, layers, runs)
    assert section.flops_ratio == 1
    full = draw(pipe, problem)
    with apply_plan(pipe, Plan(name="neutral", sections=(section,)), "error") as session:
        assert torch.equal(draw(pipe, problem), full)
        assert session.report().computed == STEPS


def test_a_plan_under_a_budget(problem: Problem, pipe: EmojiPipeline, layers: Layers, study: StudyFolder) -> None:
    """Layers run as often as announced, and the file does the same."""
    changes = measure_changes(pipe, problem, layers.points, problem.workload.of("fit")[0], 3)
    budget, reach = Budget.parse("1.5x"), reach_of(problem, 3)
    plan = search_smoothcache(pipe, problem, budget, study, layers, changes, reach)
    section = plan.section
    assert load_plan(study.plan) == plan
    assert section.quality is not None
    assert section.flops_ratio is not None
    assert 1.5 <= section.flops_ratio < 1.6
    with apply_plan(pipe, plan, "error"):
        found = draw(pipe, problem)
    calls = dict.fromkeys(KINDS, 0)
    for kind in KINDS:
        first = modules_of(pipe.transformer, kind)[0]
        first.register_forward_pre_hook(lambda *_, kind=kind: calls.__setitem__(kind, calls[kind] + 1))
    with apply_plan(pipe, load_plan(study.plan), "error"):
        assert torch.equal(draw(pipe, problem), found)
    actions = section.schedule.actions()
    assert calls == {kind: sum(kind not in action.forecast for action in actions) for kind in KINDS}
    assert min(calls.values()) < STEPS
    assert study.read_result()["settings"]["lookahead"] == 3
    with pytest.raises(PlanMismatchError, match=r"caches at 2 points, attention, mlp; .* measure it"):
        misfit_of(plan, problem.trace)


def test_costs_of_actions_are_counted(layers: Layers, problem: Problem) -> None:
    assert set(layers.flops) == set(subsets(list(KINDS)))
    assert layers.full_flops == pytest.approx(problem.trace.cost.full_flops)
    live = [layers.flops[reused] - 2 * sum(layers.numel[name] for name in reused) for reused in COSTS]
    assert live[0] - live[3] == pytest.approx((live[0] - live[1]) + (live[0] - live[2]))


def test_batched_guidance_under_a_schedule(classes: Problem, study: StudyFolder, tmp_path: Path) -> None:
    """A file with a list for one block of a kind, as those learnt by block; and back again."""
    pipe = tiny.glyphs()
    written = {"attn1": [1, 0, 1, 0, 0, 1], "attn1-1": [1, 1, 1, 1, 0, 1], "ff": [1, 0, 0, 0, 1, 1]}
    file = tmp_path / "own.json"
    file.write_text(json.dumps(written))
    layers, runs = scheduled_layers(pipe, classes, file)
    plan = write_scheduled(pipe, classes, Budget(file.stem), study, layers, runs, {"schedule": file.name})
    whole = {f"attn1-{block}": written["attn1-1" if block == 1 else "attn1"] for block in range(3)}
    assert schedule_of(plan.section) == {**whole, "ff": written["ff"]}
    assert set(schedule_of(plan.section, "dit")) == {"attn-0", "attn-1", "attn-2", "mlp"}
    calls = dict.fromkeys([*whole, "ff"], 0)
    for kind, name in (("attention", "attn1"), ("mlp", "ff")):
        for block, module in enumerate(modules_of(pipe.transformer, kind)):
            key = f"{name}-{block}" if name == "attn1" else name
            module.register_forward_pre_hook(lambda *_, key=key: calls.__setitem__(key, calls[key] + 1))
    with apply_plan(pipe, load_plan(study.plan), "error"):
        draw(pipe, classes)
    assert calls == {**{name: sum(steps) for name, steps in whole.items()}, "ff": 3 * sum(written["ff"])}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not valid JSON"),
        ("[1]", "expected an object with a list for each kind"),
        ("{}", "expected an object"),
        ('{"atn1": [1, 0, 1]}', "unknown kind of layer 'atn1'; did you mean \"attn1\""),
        ('{"norm7-3": [1, 0, 1]}', r"unknown kind of layer 'norm7'\. Known: attn1, attn2, ff"),
        ('{"attn1-a": [1, 0, 1]}', "perhaps with the number of a block"),
        ('{"attn": [1, 0, 1], "attn1": [1, 1, 1]}', "'attn1': a second list for layers of attention"),
        ('{"ff": [1, 0]}', "'ff': expected 3 numbers, one for each step of the trace, got 2"),
        ('{"ff": [1, 2, 0]}', "expected a list of ones"),
        ('{"ff": [true, false, true]}', "expected a list of ones"),
        ('{"ff": [0, 1, 1]}', "step 0 must run"),
    ],
)
def test_a_file_that_is_no_schedule(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(PlanError, match=reason):
        read_schedule(tmp_path / "s.json", 3)


def test_names_of_layers(tmp_path: Path) -> None:
    names: Sequence[Sequence[str]] = [("attn1", "attn2", "ff"), ("attn", "cross_attn", "mlp"), ("self_attn", "ffn-07")]
    found = []
    for some in names:
        (tmp_path / "s.json").write_text(json.dumps({name: [1, 0, 1] for name in some}))
        found.append(list(read_schedule(tmp_path / "s.json", 3)))
    assert found == [["attention", "cross_attention", "mlp"]] * 2 + [["attention", "mlp-7"]]
    with pytest.raises(PlanError, match="cannot read the schedule"):
        read_schedule(tmp_path / "none.json", 3)


def test_words_for_many_points(problem: Problem) -> None:
    """A plan with a schedule for each of eight blocks is told in a line."""
    names = [f"mlp-{block}" for block in range(8)]
    points = {name: parse_point(f"mlp:*.{name[-1]}") for name in names}
    points |= {f"mlp:transformer_blocks.{name}": point for name, point in points.items()}
    sizes = dict.fromkeys(points, 4)
    runs = {name: [step % (1 + int(name[-1])) == 0 for step in range(STEPS)] for name in names}
    layers = Layers(points, sizes, sizes, defaultdict(lambda: 1.0))
    section = layered_section(problem, layers, runs)
    assert "mlp-0" not in section.points, "it runs on every step"
    assert told_steps(section) == "7 points on 2 to 6 of 12 steps"
    assert told_points(section) == "mlp:*.1, mlp:*.2, mlp:*.3, mlp:*.4, mlp:*.5, mlp:*.6 and 1 more"
    few = layered_section(problem, layers, {name: runs[name] for name in names[5:]})
    assert told_steps(few) == "mlp-5 on 2, mlp-6 on 2, mlp-7 on 2 of 12 steps"
    long = layered_section(problem, layers, {f"mlp:transformer_blocks.{name}": runs[name] for name in names[5:]})
    assert told_steps(long) == "3 points on 2 to 2 of 12 steps"


def test_only_plans_of_held_layers_are_exported(plan: Plan, problem: Problem, layers: Layers) -> None:
    with pytest.raises(PlanError, match="point 'feature' at 'trunk': a schedule of SmoothCache only says"):
        schedule_of(plan.section)
    section = layered_section(problem, layers, {"mlp": [True, False] * 6})
    assert schedule_of(section, "dit") == {"mlp": [1, 0] * 6}
    assert section.places == {"mlp": CachePoint(kind="mlp")}
    newton = json.loads(section.model_dump_json())
    newton["points"]["mlp"]["groups"]["*"][0]["solver"] = {"name": "newton", "configuration": {"order": 1}}
    with pytest.raises(PlanError, match="repeat their output"):
        schedule_of(type(section).model_validate_json(json.dumps(newton)))
