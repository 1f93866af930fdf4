"""Learning-to-Cache as a preset: the published rule, gradients of gates, training, plans, and released routers."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from storage import record
from torch import Tensor, nn

from hyca_calib.commands.plans import export_schedule
from hyca_calib.costs.budget import Budget
from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Workload
from hyca_calib.search.learning_to_cache.gates import GatedLayer, GatedRun, squared_difference
from hyca_calib.search.learning_to_cache.layers import covering, shared_points, single_layers
from hyca_calib.search.learning_to_cache.router_file import read_router
from hyca_calib.search.learning_to_cache.rule import Gated, check_budget, gated_steps, least_threshold, runs_of
from hyca_calib.search.learning_to_cache.search import (
    ROUTER,
    routed_layers,
    search_learning_to_cache,
    site_of,
    write_routed,
)
from hyca_calib.search.learning_to_cache.training import Training, gradient, next_price
from hyca_calib.search.options import Refinement
from hyca_calib.search.problem import Problem
from hyca_calib.search.smoothcache.layers import Layers
from hyca_calib.search.smoothcache.schedule_file import schedule_of
from hyca_calib.search.smoothcache.section import layered_section
from hyca_calib.search.study import StudyFolder
from hyca_calib.trace.store import Trace
from hyca_runtime import AttachError, PlanError, apply_plan, load_plan
from hyca_runtime.attach.layers import find_layers
from hyca_runtime.errors import BudgetError
from hyca_runtime.point import parse_point

STEPS = 6


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    """A DiT with both guidance branches in one call, traced at another point."""
    where = tmp_path_factory.mktemp("classes") / "t.zarr"
    prompts = tuple({"class_labels": label} for label in range(7))
    record(where, Workload(prompts, num_samples=7, num_steps=STEPS), tiny.glyphs(), batch=4)
    return Problem(Trace(where))


@pytest.fixture(scope="module")
def layers(problem: Problem) -> Layers:
    return routed_layers(tiny.glyphs(), problem)


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    return StudyFolder.open(tmp_path / "study", {})


def training_of(problem: Problem, layers: Layers, budget: str, iterations: int, free: bool = False) -> Training:
    limits = Refinement(minutes=60, iterations=iterations)
    return Training(tiny.glyphs(), problem, layers, site_of(problem, layers, free), Budget.parse(budget), limits)


def draw(pipe: Any, problem: Problem) -> Tensor:
    return sample_latents(pipe, problem.workload.of("test")[:1], problem.workload.num_steps, 1)


def site(num_steps: int, saved: list[float], free: bool = False) -> Gated:
    names = tuple(f"attention:blocks.{number}" for number in range(len(saved)))
    return Gated(names, gated_steps(num_steps, 1, free), num_steps, 100.0, np.array(saved))


def test_the_published_rule_worked_by_hand() -> None:
    """Even steps compute all; on odd ones a layer runs if the sigmoid of its number is above 0.1."""
    numbers = np.array([[-2.0, -2.5], [0.0, -5.0], [-2.3, 5.0]])  # 0.119, 0.076; 0.5, 0.007; 0.091, 0.993
    runs = runs_of(1 / (1 + np.exp(-numbers)), 0.1, site(6, [30.0, 40.0]))
    assert {name: "".join(str(int(run)) for run in steps) for name, steps in runs.items()} == {
        "attention:blocks.0": "111110",
        "attention:blocks.1": "101011",
    }
    assert gated_steps(7, 1, free=True) == (1, 2, 3, 4, 5, 6)
    assert gated_steps(7, 2, free=False) == (2, 4, 6)


def test_layers_are_drawn_towards_their_past() -> None:
    """beta f(h) + (1 - beta) c in float64 of numpy; streams that are not there stay so."""
    rng = np.random.default_rng(0)
    past, given = rng.normal(size=(2, 3)), rng.normal(size=(2, 3))

    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, None]:
            return 2 * x, None

    for beta, runs in ((0.3, False), (0.8, True)):
        layer = GatedLayer(Two(), [(torch.tensor(past), None)], torch.tensor(beta), runs)
        drawn, nothing = layer(torch.tensor(given))
        np.testing.assert_allclose(drawn.numpy(), beta * 2 * given + (1 - beta) * past, rtol=1e-6)
        assert nothing is None
        np.testing.assert_array_equal(np.asarray(layer.put_out[0][0]), 2 * given if runs else past)
    other = GatedLayer(Two(), [(torch.zeros(1), None)], torch.tensor(0.5), runs=True)
    with pytest.raises(AttachError, match="Two puts out changes its shape"):
        other(torch.tensor(given))


def test_the_loss_and_its_regulariser_against_numpy() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=(2, 4)), rng.normal(size=(2, 4))
    found = squared_difference((torch.tensor(one),), {"sample": torch.tensor(other)})
    assert found.item() == pytest.approx(((one - other) ** 2).mean())
    numbers, quadratic, price = rng.normal(size=(2, 3)), rng.uniform(1, 2, size=(2, 3)), 0.7

    def loss(at: np.ndarray) -> float:
        beta = 1 / (1 + np.exp(-at))
        return float((quadratic * (1 - beta) ** 2).sum() + price * beta.sum())

    beta = 1 / (1 + np.exp(-numbers))
    got = gradient(torch.tensor(-2 * quadratic * (1 - beta)), price, torch.tensor(beta)).numpy()
    for at in np.ndindex(numbers.shape):
        nudge = np.zeros_like(numbers)
        nudge[at] = 1e-6
        assert got[at] == pytest.approx((loss(numbers + nudge) - loss(numbers - nudge)) / 2e-6, rel=1e-6)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_slopes_are_those_of_finite_differences(recorded: Trace, pipe: EmojiPipeline, guidance: float) -> None:
    """Along a random direction in all gates; of a FLUX, whose branches are calls and whose layers have streams."""
    problem = Problem(recorded)
    points = single_layers(pipe.transformer)
    steps = gated_steps(problem.trace.num_steps, 1, free=False)
    run, job = GatedRun(pipe, problem, points, steps), problem.workload.of("fit")[0]
    torch.manual_seed(0)
    router, direction = torch.rand(len(steps), len(points)), torch.rand(len(steps), len(points)) - 0.5
    job.call["true_cfg_scale"] = guidance
    try:
        slopes, loss = run.slopes([job], router)
        high, low = (run.slopes([job], router + way * direction)[1] for way in (0.1, -0.1))
        open_, nothing = run.slopes([job], torch.ones_like(router))
    finally:
        del job.call["true_cfg_scale"]
    assert (slopes * direction).sum().item() == pytest.approx((high - low) / 0.2, rel=0.01)
    assert loss > nothing == 0
    assert not open_.any()
    assert all(parameter.requires_grad for parameter in pipe.transformer.parameters())


def test_prices_follow_the_budget(problem: Problem, layers: Layers) -> None:
    training = training_of(problem, layers, "1.3x", 1)
    every = torch.ones(len(training.site.steps), len(layers.points))
    assert next_price(1.0, every, training) > 1 > next_price(1.0, 0.1 * every, training)


def test_a_threshold_meets_a_budget() -> None:
    """The least one, of all values, by trying every one of them."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        at = site(10, rng.uniform(5, 30, size=4).tolist(), free=bool(seed % 2))
        values = rng.integers(0, 12, size=(len(at.steps), 4)) / 12  # with ties
        for text in ("1.02x", "1.2x", "80%", "9 steps"):
            budget = Budget.parse(text)
            allowed = {"1.02x": 1000 / 1.02, "1.2x": 1000 / 1.2, "80%": 800, "9 steps": 1000 - at.saved.sum()}[text]
            spent = {v: 1000 - ((values <= v) * at.saved).sum() for v in np.unique(values)}
            if min(spent.values()) > allowed:
                with pytest.raises(BudgetError, match="cannot be met by learning-to-cache"):
                    least_threshold(values, budget, at)
            else:
                expected = min(v for v, cost in spent.items() if cost <= allowed * (1 + 1e-9))
                assert least_threshold(values, budget, at) == expected
        assert least_threshold(values, Budget.parse("1x"), at) < 0


def test_what_cannot_be_met_says_what_can() -> None:
    """Layers save 80 of 100 on 5 of 10 steps: 1000 / 600."""
    with pytest.raises(BudgetError, match=r"repeated on 5 of 10 steps, .* 1\.66x is the most; .* --free"):
        check_budget(Budget.parse("1.67x"), site(10, [40.0, 40.0]))
    check_budget(Budget.parse("1.66x"), site(10, [40.0, 40.0]))
    check_budget(Budget.parse("3x"), site(10, [40.0, 40.0], free=True))


def test_layers_that_a_network_has(pipe: EmojiPipeline) -> None:
    blocks = [f"transformer_blocks.{number}" for number in range(2)]
    pairs = [f"{kind}:{block}" for block in blocks for kind in ("attention", "mlp")]
    assert list(single_layers(pipe.transformer)) == [*pairs, *(f"attention:single_{block}" for block in blocks)]
    bare = nn.Module()
    bare.blocks = nn.ModuleList([nn.Linear(2, 2)])
    with pytest.raises(AttachError, match=r"finds no layers that it could reuse: Module has no attention"):
        single_layers(bare)


def test_patterns_match_their_blocks_alone() -> None:
    rng = np.random.default_rng(0)
    paths = [*(f"blocks.{number}" for number in range(113)), *(f"single_blocks.{number}" for number in range(12))]
    for _ in range(100):
        chosen = [path for path in paths if rng.random() < 0.4]
        patterns = covering(chosen)
        assert [path for path in paths if any(fnmatchcase(path, pattern) for pattern in patterns)] == chosen
        assert len(patterns) <= 12 + 2


def test_layers_with_the_same_steps_share_a_point(layers: Layers) -> None:
    one, other, always = (True, False) * 3, (True, True, False) * 2, (True,) * 6
    names = list(layers.points)  # attention and MLP of three blocks
    runs = dict(zip(names, (one, one, always, one, one, other), strict=True))
    points, steps = shared_points(runs, layers.points)
    assert [*map(str, points.values())] == [*points]
    assert dict(steps) == {
        "attention:transformer_blocks.[02]": one,
        "mlp:transformer_blocks.[01]": one,
        "mlp:transformer_blocks.2": other,
    }
    points, _ = shared_points(dict.fromkeys(names, one), layers.points)
    assert [*points] == ["attention", "mlp"]
    points, _ = shared_points(dict.fromkeys(names, always), layers.points)
    assert [*points] == ["attention", "mlp"]


def test_a_router_that_is_all_on_is_the_full_run(problem: Problem, layers: Layers, study: StudyFolder) -> None:
    pipe, at = tiny.glyphs(), site_of(problem, layers, free=False)
    runs = runs_of(np.ones((len(at.steps), len(at.names))), 0.1, at)
    plan = write_routed(pipe, problem, Budget("all"), study, layers, runs, {"threshold": 0.1})
    assert plan.section.flops_ratio == 1
    full = draw(pipe, problem)
    with apply_plan(pipe, plan, "error") as session:
        assert torch.equal(draw(pipe, problem), full)
        assert session.report().computed == STEPS


@pytest.mark.parametrize("free", [False, True])
def test_a_plan_under_a_budget(problem: Problem, layers: Layers, study: StudyFolder, free: bool) -> None:
    """Layers run as often as the router says, and FLOPs are what the budget allows."""
    training = training_of(problem, layers, "1.4x", 2, free)
    plan = search_learning_to_cache(training, study)
    section, pipe = plan.section, training.pipe
    assert load_plan(study.plan) == plan
    assert section.quality is not None
    assert section.flops_ratio is not None
    assert 1.4 <= section.flops_ratio < 1.6
    actions = section.schedule.actions()
    assert free or all(action.computes for action in actions[::2])
    announced = dict.fromkeys(layers.points, 0)
    calls = dict.fromkeys(layers.points, 0)
    for name, point in layers.points.items():
        (place,) = find_layers(pipe.transformer, point.kind, point.path)
        place.module.register_forward_pre_hook(lambda *_, name=name: calls.__setitem__(name, calls[name] + 1))
        for action in actions:
            held = [section.points[of].at for of in action.forecast if section.points[of].at.kind == point.kind]
            announced[name] += not any(fnmatchcase(point.path, at.path or "*") for at in held)
    with apply_plan(pipe, plan, "error"):
        draw(pipe, problem)
    assert calls == announced
    assert min(calls.values()) < STEPS
    settings = study.read_result()["settings"]
    assert settings["iterations"] == 2
    assert settings["threshold"] > 0 < settings["regulariser"]
    assert plan.provenance["settings"] == settings


def test_an_interrupted_training_goes_on(problem: Problem, layers: Layers, tmp_path: Path) -> None:
    class Interrupted(Exception):  # noqa: N818
        pass

    def stop(share: float, loss: float) -> None:
        del loss
        if share >= 0.5:
            raise Interrupted

    whole, broken = (StudyFolder.open(tmp_path / name, {}) for name in ("whole", "broken"))
    expected = search_learning_to_cache(training_of(problem, layers, "1.3x", 4), whole)
    with pytest.raises(Interrupted):
        search_learning_to_cache(training_of(problem, layers, "1.3x", 4), broken, stop)
    assert not broken.complete
    heard: list[float] = []
    resumed = search_learning_to_cache(
        training_of(problem, layers, "1.3x", 4), broken, lambda share, loss: heard.append(share)
    )
    assert heard == [0.5, 0.75, 1.0]
    assert resumed == expected
    assert [path.name for path in broken.folder.iterdir() if path.suffix == ".safetensors"] == [ROUTER]


def test_a_network_without_gradients_is_refused(problem: Problem, layers: Layers, tmp_path: Path) -> None:
    training = training_of(problem, layers, "1.3x", 1)
    network, forward = training.pipe.transformer, training.pipe.transformer.forward
    network.forward = torch.no_grad()(forward)
    with pytest.raises(AttachError, match="no gradient gets through DiTTransformer2DModel"):
        search_learning_to_cache(training, StudyFolder.open(tmp_path / "s", {}))
    network.forward = forward
    draw(training.pipe, problem)


def written(path: Path, numbers: dict[int, Any]) -> Path:
    content = {f"{index}.prob": row for index, row in numbers.items()}
    args = argparse.Namespace(lr=0.01, model="DiT-XL/2")
    torch.save({"routers": content, "optimizer": {"state": {0: torch.ones(2)}}, "args": args}, path)
    return path


def test_a_released_router(problem: Problem, layers: Layers, study: StudyFolder, tmp_path: Path) -> None:
    """Indices count from the last step, those that are even are used; attention and MLP of a block in turn."""
    numbers = {index: torch.full((6,), 9.0) for index in range(STEPS)}
    numbers[0] = torch.tensor([9.0, 9, 9, 9, 9, -9])
    numbers[4] = torch.tensor([-9.0, 9, 9, 9, -9, 9])
    numbers[5] = numbers[1] = torch.full((6,), -9.0)
    at = site_of(problem, layers, free=False)
    runs = runs_of(read_router(written(tmp_path / "r.pt", numbers), at), 0.1, at)
    plan = write_routed(tiny.glyphs(), problem, Budget("r"), study, layers, runs, {"router": "r.pt"})
    held = [action.forecast for action in plan.section.schedule.actions()]
    assert held == [(), ("attention:transformer_blocks.[02]",), (), (), (), ("mlp:transformer_blocks.2",)]
    attention, mlp = [1, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]
    assert schedule_of(plan.section) == {"attn1-0": attention, "attn1-2": attention, "ff-2": mlp}


def test_blocks_of_two_lists_are_not_exported(recorded: Trace) -> None:
    points = {name: parse_point(name) for name in ("attention:transformer_blocks.0", "attention:single_blocks.[01]")}
    flops: dict[tuple[str, ...], float] = defaultdict(lambda: 1.0)
    section = layered_section(
        Problem(recorded),
        Layers(points, dict.fromkeys(points, 4), dict.fromkeys(points, 4), flops),
        dict.fromkeys(points, (True, False) * 6),
    )
    with pytest.raises(PlanError, match="attn1-0 is there twice"):
        schedule_of(section)


def test_blocks_of_one_of_two_lists_are_not_exported(pipe: EmojiPipeline, recorded: Trace, tmp_path: Path) -> None:
    problem = Problem(recorded)
    layers = routed_layers(pipe, problem)

    def exported(paused: str) -> Any:
        runs = {name: (True, name != paused) * 6 for name in layers.points}
        study = StudyFolder.open(tmp_path / paused, {})
        write_routed(pipe, problem, Budget("r"), study, layers, runs, {})
        return json.loads(export_schedule(study.plan, tmp_path / "schedule.json", "diffusers").read_text())

    with pytest.raises(PlanError, match=r"it is attn1 of single_transformer_blocks\.1, too; .* not tell lists apart"):
        exported("attention:transformer_blocks.1")
    assert exported("mlp:transformer_blocks.1") == {"ff-1": [1, 0] * 6}, "the other list has none"


def test_a_file_that_is_no_router(problem: Problem, layers: Layers, tmp_path: Path) -> None:
    at = site_of(problem, layers, free=False)
    good = {index: torch.zeros(6) for index in range(STEPS)}
    torch.save({"1": torch.zeros(58)}, tmp_path / "uvit.pt")
    torch.save({"routers": nn.Linear(2, 2)}, tmp_path / "code.pt")
    (tmp_path / "text.pt").write_text("hello")
    for path, reason in (
        (tmp_path / "none.pt", "cannot read the router: No such file"),
        (tmp_path / "text.pt", "not a checkpoint of torch"),
        (tmp_path / "code.pt", "not a checkpoint of torch"),
        (tmp_path / "uvit.pt", "a checkpoint with 'routers'"),
        (written(tmp_path / "few.pt", {0: torch.zeros(6)}), "routers of 6 steps, as the trace has, got 1"),
        (written(tmp_path / "wide.pt", good | {2: torch.zeros(56)}), r"'2\.prob': expected 6 finite .* got \(56,\)"),
        (written(tmp_path / "nan.pt", good | {4: torch.full((6,), torch.nan)}), r"'4\.prob': expected 6 finite"),
        (written(tmp_path / "str.pt", good | {0: "x"}), r"'0\.prob': .* got str"),
    ):
        with pytest.raises(PlanError, match=reason):
            read_router(path, at)
    with pytest.raises(PlanError, match="even number of steps, the trace has 5"):
        read_router(tmp_path / "wide.pt", site(5, [1.0] * 6))
    with pytest.raises(PlanError, match="reuses on the second step, and this model computes its first 2"):
        read_router(tmp_path / "wide.pt", replace(at, steps=gated_steps(STEPS, 2, False)))
    assert isinstance(read_router(written(tmp_path / "good.pt", good), at), np.ndarray)
