"""QuantCache as a preset: counters, blocks that are passed by, bits by importance, plans and budgets."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from hyca_calib.commands.asked import Asked
from hyca_calib.commands.options import SearchLimits
from hyca_calib.commands.presets import OFFERS
from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Workload
from hyca_calib.search.problem import Problem
from hyca_calib.search.quantcache import calibration
from hyca_calib.search.quantcache.balance import exponents, measure_ranges
from hyca_calib.search.quantcache.bits import Importance, Schemes
from hyca_calib.search.quantcache.calibration import (
    OUTPUT,
    calibrate_importance,
    measure_cosines,
    parts_of_blocks,
)
from hyca_calib.search.quantcache.counters import Counters, computed_steps, gentlest, moving_distance
from hyca_calib.search.quantcache.passing import Passing, unrest_of
from hyca_calib.search.quantcache.search import REUSES, Calibrated, calibrated, reusing_section, with_balance_that_pays
from hyca_calib.search.quantcache.site import measure_site
from hyca_calib.search.smoothcache.calibration import distance
from hyca_calib.search.study import StudyFolder
from hyca_calib.trace.run import trace
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan, apply_plan, load_plan
from hyca_runtime.attach.balanced import balanced
from hyca_runtime.errors import AttachError, BudgetError
from hyca_runtime.feature import Feature
from hyca_runtime.point import CachePoint
from hyca_runtime.schedule import COMPUTE, Action
from hyca_runtime.variant import MOST_SHIFT, VariantSpec

pytest.importorskip("torchao")
STEPS = 12


def distances_of(places: list[float]) -> list[list[float]]:
    steps = len(places)
    return [[abs(places[t + j] - places[t]) for t in range(steps - j)] for j in range(1, steps)]


def test_counters_worked_by_hand() -> None:
    """A counter of 3 lets exactly two steps be reused; divergences are per step, and the thresholds are exclusive."""
    distances = distances_of([0, 4, 4, 4, 7, 7, 7, 7, 7, 7, 7])
    counters = Counters((1, 2, 3), (0.5, 2.0))
    #     1: 4 of a step: short; 2: 0: long; 5: 3 of 3 steps = 1: middle; 7: 0: long; 10: the same
    found = computed_steps(distances, counters, 11)
    assert list(found) == [0, 1, 2, 5, 7, 10]
    assert list(found.values())[1:] == [4, 0, 1, 0, 0]
    assert math.isinf(found[0])
    assert [counters.after(d) for d in (0.4, 0.5, 1.9, 2.0)] == [3, 2, 2, 1]
    assert list(computed_steps(distances, counters, 11, first=3)) == [0, 1, 2, 3, 6, 8]


def test_the_gentlest_counters_compute_every_step_and_each_further_fewer() -> None:
    rng = np.random.default_rng(0)
    distances = distances_of(rng.normal(size=40).cumsum().tolist())
    counts = [len(computed_steps(distances, counters, 40)) for counters in gentlest(distances)]
    assert counts[0] == 40
    assert min(counts) <= 1 + math.ceil(39 / 8)
    constant = next(iter(gentlest(distances_of([1.0] * 12))))
    assert list(computed_steps(distances_of([1.0] * 12), constant, 12)) == list(range(12))


def test_changes_count_motion() -> None:
    one, other = Feature((torch.zeros(1, 2, 3, 4, 4),)), Feature((torch.full((1, 2, 3, 4, 4), 2.0),))
    assert moving_distance(one, other) == 0, "no frame differs from the next"
    assert distance(one, other) == 2.0, "which unrest does not ask"
    moving = Feature((other[0] + torch.arange(3.0).view(1, 1, 3, 1, 1),))
    assert moving_distance(one, moving) == pytest.approx(3.0)
    assert moving_distance(Feature((torch.zeros(1, 3, 4, 4),)), Feature((torch.full((1, 3, 4, 4), 2.0),))) == 2.0


COSINES = {"a": [0.99, 0.5, 0.9, 0.9], "b": [0.2, 0.9, 0.99, 0.9]}


def test_blocks_are_passed_by_as_the_step_before_says() -> None:
    passing = Passing(low=0.8, high=0.95, calm=1.0, wild=2.0)
    never = Passing(low=2.0, high=2.0, calm=0.0, wild=0.0)
    sure = passing.passed(COSINES, [0.0] * 4, [0, 1, 3])
    assert sure[0] == (), "there is no step before"
    assert sure[1] == ("a",), "above the higher threshold at step 0, and b below the lower"
    assert never.passed(COSINES, [0.0] * 4, [0, 1, 3]) == {0: (), 1: (), 3: ()}
    assert [passing.chance(v) for v in (0.5, 1.5, 2.5)] == [0.75, 0.5, 0.25]


def test_draws_are_seeded_and_bend_with_unrest() -> None:
    steps = 4000
    cosines, computed = {"x": [0.9] * steps}, list(range(steps))
    shares = []
    for unrest in (0.0, 1.5, 3.0):
        passing = Passing(0.8, 0.95, 1.0, 2.0, seed=3)
        found = passing.passed(cosines, [unrest] * steps, computed)
        assert found == passing.passed(cosines, [unrest] * steps, computed)
        shares.append(sum(map(bool, found.values())) / steps)
    assert shares == pytest.approx([0.75, 0.5, 0.25], abs=0.03)
    other = Passing(0.8, 0.95, 1.0, 2.0, seed=4).passed(cosines, [1.5] * steps, computed)
    assert other != Passing(0.8, 0.95, 1.0, 2.0, seed=3).passed(cosines, [1.5] * steps, computed)


def test_unrest_is_the_sum_over_the_steps_before() -> None:
    assert unrest_of(distances_of([0, 1, 3, 6]), 4, 2) == [0, 1, 2 + 3, 3 + 5]


def importance(seed: int, groups: int = 5) -> Importance:
    rng = np.random.default_rng(seed)
    names = [f"g{i}" for i in range(groups)]
    eight = dict(zip(names, rng.gamma(1.0, 1e-4, groups).tolist(), strict=True))
    four = {name: 100 * error * float(rng.uniform(0.5, 2)) for name, error in eight.items()}
    sizes = dict(zip(names, rng.integers(10, 100, groups).tolist(), strict=True))
    return Importance(sizes, {"int8": eight, "int4_weights": four}, 16)


@pytest.mark.parametrize("mean", [4.0, 6.0, 8.0, 12.0, 16.0])
def test_bits_keep_their_mean_and_err_no_more_than_one_scheme_for_all(mean: float) -> None:
    for seed in range(8):
        known = importance(seed)
        found = known.allotted(mean)
        assert known.mean_bits(found) <= mean + 1e-9
        even: list[Schemes] = [dict.fromkeys(known.sizes, level) for level in known.levels]
        within = [schemes for schemes in even if known.mean_bits(schemes) <= mean + 1e-9]
        assert known.error(found) <= min(map(known.error, within)) + 1e-15
        for group, scheme in found.items():
            for more in known.levels[known.levels.index(scheme) + 1 :]:
                assert known.mean_bits({**found, group: more}) > mean, "bits that would help are not left over"
    assert set(importance(0).allotted(16.0).values()) == {None}
    assert set(importance(0).allotted(4.0).values()) == {"int4_weights"}


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    folder = tmp_path_factory.mktemp("quantcache")
    prompts = tuple({"class_labels": label, "guidance_scale": 2.0} for label in range(4))
    trace(
        tiny.glyphs(),
        Workload(prompts, 14, STEPS, 1),
        CachePoint(),
        folder / "t.zarr",
        model_name="t",
        batch=4,
        tokens=5,
    )
    return Problem(Trace(folder / "t.zarr"))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few runs: quick."""
    for name, count in (("SAMPLES", 2), ("PROBED", 1), ("PROBE_STEPS", 2)):
        monkeypatch.setattr(calibration, name, count)


def make(pipe: Any, problem: Problem, folder: Path, budget: str, **options: Any) -> Plan:
    """What ``hyca search`` does."""
    wanted, limits = Budget.parse(budget), SearchLimits(preset="quantcache", **options)
    maker = OFFERS["quantcache"].prepare(Asked(pipe, [problem], [wanted], limits, folder))
    return maker(wanted, StudyFolder.open(folder / "study", {}))


def draw(pipe: Any, problem: Problem) -> Tensor:
    return sample_latents(pipe, problem.workload.of("test")[:1], problem.workload.num_steps, 1)


def test_cosines_are_those_of_what_hooks_see(classes: Problem) -> None:
    pipe, job = tiny.glyphs(), classes.workload.of("fit")[0]
    found = measure_cosines(pipe, classes, job)
    seen: list[Tensor] = []
    block = pipe.transformer.transformer_blocks[2]
    block.register_forward_hook(lambda _, args, output: seen.extend((args[0], output)))
    sample_latents(pipe, [job], STEPS, 1)
    pairs = zip(seen[::2], seen[1::2], strict=True)
    expected = [torch.cosine_similarity(a, b, dim=-1).mean().item() for a, b in pairs]
    assert found.keys() == {"transformer_blocks.1", "transformer_blocks.2"}
    np.testing.assert_allclose(found["transformer_blocks.2"][0], expected, atol=1e-5)


def test_parts_are_the_children_of_blocks() -> None:
    parts = parts_of_blocks(tiny.pipeline().transformer)
    assert {"transformer_blocks.0.attn", "transformer_blocks.1.ff", "single_transformer_blocks.0.proj_mlp"} <= {*parts}
    assert parts["single_transformer_blocks.0.proj_mlp"] == ["single_transformer_blocks.0.proj_mlp"]
    assert all(path.startswith(part) for part, paths in parts.items() for path in paths)


def test_exponents_worked_by_hand() -> None:
    """Sixteen times the range of others, over a column of a fourth, is a factor of 8 = 2^3 on either side."""
    inputs, columns = np.array([1.0, 16.0, 1.0, 1.0, 0.0]), np.array([1.0, 0.25, 1.0, 1.0, 1.0])
    most = torch.finfo(torch.float32).max
    assert exponents(inputs, columns, most) == [0, 3, 0, 0, 0]
    assert exponents(8 * inputs, columns, most) == [0, 3, 0, 0, 0], "what all share is nothing"
    assert exponents(np.array([1e9, 1.0, 1.0]), np.array([1e-9, 1.0, 1.0]), most)[0] == MOST_SHIFT
    assert exponents(np.zeros(3), np.ones(3), most) == [0, 0, 0]


def test_what_is_balanced_stays_within_its_precision() -> None:
    """A weight of 100 times two to the tenth is more than float16 has, whose largest number is 65504."""
    inputs, columns = np.array([100.0, 1e-4, 1e-4, 1e-4]), np.full(4, 100.0)
    assert exponents(inputs, columns, torch.finfo(torch.bfloat16).max) == [10, 0, 0, 0]
    assert exponents(inputs, columns, torch.finfo(torch.float16).max) == [6, 0, 0, 0], (
        "and three bits for larger inputs"
    )
    assert exponents(columns, inputs, torch.finfo(torch.float16).max) == [-6, 0, 0, 0]


def test_a_balance_that_its_precision_does_not_hold_is_refused() -> None:
    layer = torch.nn.Linear(4, 4, dtype=torch.float16)
    torch.nn.init.constant_(layer.weight, 100.0)
    with pytest.raises(AttachError, match=r"to_q cannot be balanced in torch.float16, its weight overflows"):
        balanced(layer, [10, 0, 0, 0], 0.0, VariantSpec(scheme="int8", simulated=True), "to_q")


def test_ranges_are_those_of_what_layers_are_called_with(classes: Problem) -> None:
    pipe, job, path = tiny.glyphs(), classes.workload.of("fit")[0], "transformer_blocks.1.attn1.to_q"
    seen: list[Tensor] = []
    pipe.transformer.get_submodule(path).register_forward_hook(lambda _, args, __: seen.append(args[0].abs()))
    ranges = measure_ranges(pipe, pipe.transformer, job, 2)
    np.testing.assert_allclose(ranges[path][0], torch.cat([x.flatten(0, -2) for x in seen]).amax(0).tolist())
    assert ranges.keys() == {path for paths in parts_of_blocks(pipe.transformer).values() for path in paths}


@pytest.mark.usefixtures("few")
def test_a_part_with_large_channels_is_balanced_and_errs_less(classes: Problem, tmp_path: Path) -> None:
    """Some channels of values are 64 times as large, and the next layer weighs them as much less: the same function."""
    pipe = tiny.glyphs()
    attention = pipe.transformer.transformer_blocks[1].attn1
    with torch.no_grad():
        attention.to_v.weight[::8] *= 64
        attention.to_v.bias[::8] *= 64
        attention.to_out[0].weight[:, ::8] /= 64
    known = calibrate_importance(pipe, classes, ["int8"], False, tmp_path, lambda share: None)
    part, path = "transformer_blocks.1.attn1", "transformer_blocks.1.attn1.to_out.0"
    assert ("int8", part) in known.balanced
    assert set(known.balance[path][::8]) == {max(known.balance[path])}
    rows = json.loads((tmp_path / "importance.json").read_text())["samples"]
    plain = np.mean([row[f"int8 {part}"][0][0] for row in rows.values()])
    assert known.errors["int8"][part] < 0.5 * plain
    made = calibrated(pipe, classes, {}, {}, known, simulated=False)
    assert {path} <= {*made.balance} <= {*known.balance}
    assert all(spec.balance == made.balance for spec in made.specs.values())


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("text", "precision"), [("2x", None), ("12xbitops", None), ("3x", "int8:simulated,int4_weights:simulated")]
)
def test_a_budget_is_met_and_the_runtime_does_so(
    classes: Problem, tmp_path: Path, text: str, precision: str | None
) -> None:
    pipe = tiny.glyphs()
    plan = make(pipe, classes, tmp_path, text, precision=precision)
    section, account = plan.section, StudyFolder.open(tmp_path / "study", {}).read_result()
    ratio = section.bits_ratio if "bitops" in text else section.flops_ratio
    assert ratio is not None
    assert ratio >= 1 / Budget.parse(text).most_flops(1.0, 0.0, 1) - 1e-9
    assert section.quality is not None
    calls = [0, 0, 0]
    for block, module in enumerate(pipe.transformer.transformer_blocks):
        module.register_forward_pre_hook(lambda *_, block=block: calls.__setitem__(block, calls[block] + 1))
    with apply_plan(pipe, load_plan(tmp_path / "study" / "plan.json"), "error") as session:
        found = draw(pipe, classes)
        assert session.report().bits_ratio == pytest.approx(section.bits_ratio)
        first = [*calls]
        assert torch.equal(draw(pipe, classes), found)
    passed = account["passed"].values()
    expected = [len(account["computed"]) - sum(f"transformer_blocks.{b}" in of for of in passed) for b in range(3)]
    assert first == expected
    assert account["mean_bits"] <= 8
    reused = [step for step, action in enumerate(section.schedule.actions()) if action == REUSES]
    assert {*reused} == {*range(STEPS)} - {*account["computed"]}
    if precision is not None:
        assert set(account["bits"].values()) <= {4, 8, 32}
        assert all(spec.simulated for spec in (section.variants or {}).values())


def test_nothing_quantised_reused_or_passed_by_is_the_full_run(classes: Problem) -> None:
    pipe = tiny.glyphs()
    known = Calibrated({}, {}, importance(0), {}, simulated=False, balance={})
    section = reusing_section(classes, measure_site(pipe, classes), known, [COMPUTE] * STEPS)
    full = draw(pipe, classes)
    assert section.flops_ratio == section.bits_ratio == 1
    with apply_plan(pipe, Plan(name="neutral", sections=(section,)), "error"):
        assert torch.equal(draw(pipe, classes), full)


@pytest.mark.usefixtures("few")
def test_balance_stays_where_whole_runs_are_nearer_with_it(classes: Problem, tmp_path: Path) -> None:
    """Exponents as calibrated are kept on a network with large channels; hostile ones are not."""
    pipe, path = tiny.glyphs(), "transformer_blocks.1.attn1.to_out.0"
    attention = pipe.transformer.transformer_blocks[1].attn1
    with torch.no_grad():
        attention.to_v.weight[::8] *= 64
        attention.to_v.bias[::8] *= 64
        attention.to_out[0].weight[:, ::8] /= 64
    site, width = measure_site(pipe, classes), attention.to_out[0].in_features
    for shift, kept in ((6, True), (-6, False)):
        balance = {path: [shift if channel % 8 == 0 else 0 for channel in range(width)]}
        known = Calibrated({}, {}, importance(0), {}, simulated=False, balance=balance)
        told, folder = list[float](), tmp_path / str(shift)
        found = with_balance_that_pays(pipe, classes, site, known, folder, told.append)
        assert found.balance == (balance if kept else {})
        assert told[-1] == 1
        (folder / "balance.json").read_text()


@pytest.mark.usefixtures("few")
def test_costs_are_those_of_what_runs(classes: Problem) -> None:
    site = measure_site(tiny.glyphs(), classes)
    block, specs = "transformer_blocks.1", {"int8": VariantSpec(scheme="int8")}
    whole, low = Action(), Action(variant="int8")
    passed = Action(forecast=(block,), variant="int8")
    assert site.flops(whole) == pytest.approx(classes.trace.cost.full_flops)
    assert site.flops(REUSES) == 2 * site.layers.numel[OUTPUT]
    saved = 1 - 64 / 1024
    assert site.bits(whole, specs) - site.bits(low, specs) == pytest.approx(512 * saved * sum(site.linears.values()))
    inside = sum(flops for path, flops in site.linears.items() if path.startswith(f"{block}."))
    both = 512 * (site.flops(low) - site.flops(passed)) - 512 * saved * inside
    assert site.bits(low, specs) - site.bits(passed, specs) == pytest.approx(both)
    other = {"int8": VariantSpec(scheme="int8", schemes=dict.fromkeys(site.linears))}
    assert site.bits(low, other) == site.bits(whole, other)


def test_what_cannot_be_had_says_so(classes: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for precision in ("fp8", "int4_weights", "int8,int4_weights:simulated"):
        with pytest.raises(BudgetError, match="quantcache takes int8, perhaps with int4_weights"):
            make(tiny.glyphs(), classes, tmp_path, "2x", precision=precision)
    monkeypatch.setattr(calibration, "SAMPLES", 1)
    monkeypatch.setattr(calibration, "PROBED", 1)
    with monkeypatch.context() as patched:
        patched.setattr(calibration, "watch", None)  # refused before any full run
        with pytest.raises(AttachError, match=r"torchao .* has no int4_weights"):
            make(tiny.glyphs(), classes, tmp_path, "2x", precision="int8,int4_weights")
    with pytest.raises(BudgetError, match=r"cannot be met by quantcache: [0-9.]+x is the most; ask for less"):
        make(tiny.glyphs(), classes, tmp_path, "500x")
