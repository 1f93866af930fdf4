"""CacheQuant as a preset: groups of steps, corrections by channel and step, the layers that read, plans and budgets."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from diffusers.models.transformers.transformer_flux import FluxTransformerBlock
from guided import KINDS
from plans import changed
from torch import Tensor, nn

from hyca_calib.commands.asked import Asked
from hyca_calib.commands.options import SearchLimits
from hyca_calib.commands.presets import OFFERS
from hyca_calib.commands.quantised_presets import INT8
from hyca_calib.costs.budget import Budget, Measure
from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Workload
from hyca_calib.search.cachequant import drift as drifting
from hyca_calib.search.cachequant.drift import drift
from hyca_calib.search.cachequant.groups import Grouping, best_groups, total_cost
from hyca_calib.search.cachequant.moments import Moments, moments_of
from hyca_calib.search.cachequant.outputs import output_errors
from hyca_calib.search.cachequant.search import grouping_of
from hyca_calib.search.cachequant.section import cached_section
from hyca_calib.search.cachequant.site import DEVIATION, Site, measure_site
from hyca_calib.search.precision.variants import parse_variants
from hyca_calib.search.problem import Problem
from hyca_calib.search.smoothcache.calibration import distance
from hyca_calib.search.study import StudyFolder
from hyca_calib.trace.run import trace
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan, apply_plan, load_plan
from hyca_runtime.attach.corrected import Corrected
from hyca_runtime.attach.quantised import quantised
from hyca_runtime.errors import AttachError, BudgetError
from hyca_runtime.feature import Feature
from hyca_runtime.point import CachePoint
from hyca_runtime.schedule import COMPUTE, DEFAULT, EVERY, Action, Schedule
from hyca_runtime.solvers import Fitted
from hyca_runtime.variant import VariantSpec

pytest.importorskip("torchao")
STEPS = 12
RNG = np.random.default_rng


def distances_of(steps: int, seed: int) -> list[list[float]]:
    """Between all pairs of steps of a random walk."""
    walk = RNG(seed).normal(size=(steps, 6)).cumsum(0)
    return [[float(np.abs(walk[t + j] - walk[t]).sum()) for t in range(steps - j)] for j in range(1, steps)]


@pytest.mark.parametrize(("steps", "interval", "first"), [(9, 3, 1), (10, 4, 1), (8, 2, 3), (7, 1, 1), (6, 6, 1)])
def test_the_program_finds_what_brute_force_does(steps: int, interval: int, first: int) -> None:
    grouping = Grouping(steps, interval, first)
    for seed in range(4):
        distances = distances_of(steps, seed)
        found = best_groups(distances, grouping)
        ways = [
            (*range(first), *rest)
            for rest in itertools.combinations(range(first, steps), grouping.count - first)
            if all(b - a in grouping.lengths for a, b in zip((first - 1, *rest), (*rest, steps), strict=True))
        ]
        assert found in ways
        least = min(total_cost(distances, way, steps) for way in ways)
        assert total_cost(distances, found, steps) == pytest.approx(least)
        if grouping.even in ways:
            assert least <= total_cost(distances, grouping.even, steps) + 1e-12


def test_groups_worked_by_hand() -> None:
    """Six steps at 0, 0, 5, 5, 5, 9 in two groups of 2 to 6 steps: 0 0 | 5 5 5 9 costs 4, any other more."""
    places = (0, 0, 5, 5, 5, 9)
    distances = [[float(abs(places[t + j] - places[t])) for t in range(6 - j)] for j in range(1, 6)]
    grouping = Grouping(6, 3)
    assert (grouping.count, [*grouping.lengths]) == (2, [2, 3, 4, 5, 6])
    assert best_groups(distances, grouping) == (0, 2)
    assert total_cost(distances, (0, 2), 6) == 4
    assert total_cost(distances, grouping.even, 6) == 5 + 4
    assert grouping.even == (0, 3)
    assert Grouping(6, 1).even == best_groups(distances, Grouping(6, 1)) == tuple(range(6))


def test_every_mean_length_has_groups() -> None:
    for steps, first in itertools.product(range(1, 40), (1, 2)):
        for interval in range(1, steps - first + 2):
            grouping = Grouping(steps, interval, first)
            begins = best_groups(distances_of(steps, 0), grouping)
            lengths = np.diff([*begins[first - 1 :], steps])
            assert begins[0] == 0
            assert len(begins) == grouping.count
            assert set(lengths.tolist()) <= {*grouping.lengths}


def features(seed: int, samples: int, steps: int = 4, channels: int = 5) -> Tensor:
    """``(step, sample, token, channel)``: each step drifts from the one before, by channel, with noise of its own."""
    rng = RNG(seed)
    made = [rng.normal(2.0, 3.0, (samples, 16, channels))]
    for step in range(1, steps):
        gain, shift = (RNG(100 + step).normal(m, 0.2, channels) for m in (0.8, 0.5))
        made.append(gain * made[0] + shift + 0.5 * rng.normal(size=made[0].shape))
    return torch.from_numpy(np.stack(made))


def moments(of: Tensor) -> Moments:
    return Moments(np.stack([moments_of([of[0]], [part], -1) for part in of], axis=1))


def test_a_planted_drift_is_recovered() -> None:
    x = torch.randn(3, 40, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scale, shift = torch.linspace(0.5, 1.4, 6).double(), torch.linspace(-1, 1, 6).double()
    rows = Moments(moments_of([x], [scale * x + shift], -1)[:, None]).affine()
    np.testing.assert_allclose(rows[0], np.stack([scale, shift]), atol=1e-12)


def test_calibration_error_is_never_larger_and_that_of_others_falls_with_enough_samples() -> None:
    known, others = moments(features(0, 32)), moments(features(1, 8))
    rows = known.affine()
    assert (known.error(rows) <= known.error() + 1e-9).all(), "in every channel on every step"
    assert others.left(rows) < 0.8
    np.testing.assert_allclose(rows[0], [[1] * 5, [0] * 5], atol=1e-9)
    n, x, y, *_ = known.sums
    np.testing.assert_allclose(rows[:, 0] * x / n + rows[:, 1], y / n, atol=1e-9, err_msg="means are met")


def test_the_closed_form_is_least_squares() -> None:
    """Against a solver of general systems, and the squared error against the numbers themselves."""
    of = features(2, 6)
    rows, errors = moments(of).affine(), moments(of).error(moments(of).affine())
    for step, channel in itertools.product(range(4), range(5)):
        x, y = (of[s, ..., channel].flatten().numpy() for s in (0, step))
        (a, b), *_ = np.linalg.lstsq(np.stack([x, np.ones_like(x)], axis=1), y, rcond=None)
        np.testing.assert_allclose(rows[step, :, channel], (a, b), atol=1e-9)
        assert errors[step, channel] == pytest.approx(np.square(y - a * x - b).sum(), abs=1e-7)


def test_constant_and_absent_channels_are_held() -> None:
    x = torch.full((2, 8, 1), 3.0)
    assert Moments(moments_of([x], [x + 1], -1)[:, None]).affine()[0].tolist() == [[1.0], [1.0]]
    assert Moments(np.zeros((6, 1, 2))).affine()[0].tolist() == [[1, 1], [0, 0]]


def test_distances_are_of_all_parts() -> None:
    one, other = Feature((torch.zeros(2, 3), torch.zeros(4))), Feature((torch.ones(2, 3), -2 * torch.ones(4)))
    assert distance(one, other) == (6 + 8) / 10


@pytest.fixture(scope="module", params=KINDS)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Problem]:
    make, prompts = KINDS[request.param]
    folder = tmp_path_factory.mktemp("cachequant")
    trace(make(), Workload(prompts, 14, STEPS, 1), CachePoint(), folder / "t.zarr", model_name="t", batch=4, tokens=5)
    return make(), Problem(Trace(folder / "t.zarr"))


@pytest.fixture(scope="module")
def site(subject: tuple[Any, Problem]) -> Site:
    return measure_site(*subject, parse_variants(INT8))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few runs: quick."""
    for name, count in (("DISTANCE_SAMPLES", 2), ("SAMPLES", 3), ("HELD_OUT", 1)):
        monkeypatch.setattr(drifting, name, count)


def draw(pipe: Any, problem: Problem) -> Tensor:
    return sample_latents(pipe, problem.workload.of("test")[:1], problem.workload.num_steps, 1)


def make(pipe: Any, problem: Problem, folder: Path, budget: str, **options: Any) -> Plan:
    """What ``hyca search`` does."""
    wanted, limits = Budget.parse(budget), SearchLimits(preset="cachequant", **options)
    maker = OFFERS["cachequant"].prepare(Asked(pipe, [problem], [wanted], limits, folder))
    return maker(wanted, StudyFolder.open(folder / "study", {}))


def test_readers_read_the_span_and_nothing_else(subject: tuple[Any, Problem], site: Site) -> None:
    """Behind the span of the FLUX are single blocks; of the three blocks of the DiT the last is in the span."""
    span, paths = str(site.layers.points[DEVIATION]), [place.path for place in site.readers]
    if "transformer_blocks.1..transformer_blocks.1" in span:
        block = "single_transformer_blocks.0"
        assert sorted(paths) == [f"{block}.{name}" for name in ("attn.to_k", "attn.to_q", "attn.to_v", "proj_mlp")]
    else:
        assert span == "span:transformer_blocks.1..transformer_blocks.2:residual"
        assert paths == []


def test_a_block_behind_has_readers_before_its_second_norm() -> None:
    """In a DiT of four blocks: queries, keys and values of the last, neither its MLP nor what modulates it."""
    from diffusers import DiTTransformer2DModel

    from hyca_calib.search.cachequant.readers import find_readers
    from hyca_calib.search.watched_run import WatchedCall
    from hyca_runtime.attach.attachment import Attachment
    from hyca_runtime.point import parse_point

    torch.manual_seed(0)
    network = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=3, num_layers=4, sample_size=16, patch_size=4
    ).eval()
    attachment = Attachment(network, {"x": parse_point("span:transformer_blocks.1..transformer_blocks.2:residual")})
    args, kwargs = (torch.randn(1, 3, 16, 16),), {"timestep": torch.tensor([5]), "class_labels": torch.tensor([1])}
    with torch.no_grad():
        output, found = attachment.run(args, kwargs, ("x",), {})
    call = WatchedCall(args, kwargs, True, ("", 0), 0, {"x": found["x"] or Feature(())}, output)
    paths = sorted(place.path for place in find_readers(attachment, call, "x", "*"))
    assert paths == [f"transformer_blocks.3.attn1.{name}" for name in ("to_k", "to_q", "to_v")]


def test_costs_are_of_the_parts_that_run(site: Site) -> None:
    full, computed, reused = site.costs("bitops")
    assert site.flops[0] == site.flops[1] > site.flops[2]
    assert full > computed > reused
    assert site.variants.bits(site.flops[2], site.palette[2]) == reused
    lighter = 1 - 8 * 8 / 32**2
    quantised = site.layers.quantised[site.variant]
    assert full - computed == pytest.approx(lighter * 512 * quantised[()])
    assert 0 < quantised[DEVIATION,] < quantised[()]


def test_all_steps_computed_is_the_quantised_network(subject: tuple[Any, Problem], site: Site) -> None:
    """The neutral schedule with the network's own weights is the full run; in int8 it is int8 throughout."""
    pipe, problem = subject
    problem = replace(problem, variants=site.variants)
    section = cached_section(problem, site, range(STEPS))
    own = section.model_copy(update={"schedule": section.schedule.model_copy(update={"tables": {EVERY: (0,) * STEPS}})})
    full = draw(pipe, problem)
    with apply_plan(pipe, Plan(name="own", sections=(own,)), "error"):
        assert torch.equal(draw(pipe, problem), full)
    with apply_plan(pipe, Plan(name="low", sections=(section,)), "error") as session:
        found = draw(pipe, problem)
        assert session.report().computed == STEPS
    assert 0 < (found - full).norm() < 0.1 * full.norm()


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("measure", ["flops", "bitops"])
def test_a_budget_is_met_and_the_runtime_does_so(
    subject: tuple[Any, Problem], site: Site, tmp_path: Path, measure: Measure
) -> None:
    """One halfway between what is least, all steps computed in int8, and what is most."""
    pipe, problem = subject
    full, computed, reused = site.costs(measure)
    text = f"{50 * (computed + reused) / full:.2f}%" + ("bitops" if measure == "bitops" else "")
    plan = make(pipe, problem, tmp_path, text)
    section, account = plan.section, StudyFolder.open(tmp_path / "study", {}).read_result()
    ratio = section.bits_ratio if measure == "bitops" else section.flops_ratio
    assert ratio is not None
    assert ratio >= Budget.parse(text).most_flops(1.0, 0.0, 1) ** -1 - 1e-9
    assert section.quality is not None
    with apply_plan(pipe, load_plan(tmp_path / "study" / "plan.json"), "error") as session:
        draw(pipe, problem)
        report = session.report()
    assert report.bits_ratio == pytest.approx(section.bits_ratio)
    assert report.computed_at == tuple(account["computed"]) == section.schedule.computed_steps
    assert not any(
        action.variant == DEFAULT for of in report.streams.values() for action in of.actions if of.actions[action]
    )
    assert all(share <= 1 + 1e-9 for share in account["left"]["fit"].values())
    corrections = (section.variants or {})["int8"].corrections
    assert set(account["left"]["select"]) == {"reused", *(corrections or {})}
    assert account["settings"]["samples"] == 3


@pytest.mark.usefixtures("few")
def test_blocks_run_as_often_as_the_plan_says(subject: tuple[Any, Problem], tmp_path: Path) -> None:
    pipe, problem = subject
    plan, calls = make(pipe, problem, tmp_path, "1.2x"), {0: 0, 1: 0}
    hooks = [
        pipe.transformer.transformer_blocks[block].register_forward_pre_hook(
            lambda *_, block=block: calls.__setitem__(block, calls[block] + 1)
        )
        for block in calls
    ]
    with apply_plan(pipe, plan, "error"):
        draw(pipe, problem)
    for hook in hooks:
        hook.remove()
    assert calls[0] == problem.trace.calls * STEPS, "in front of the span"
    assert calls[1] == problem.trace.calls * len(plan.section.schedule.computed_steps)


def planted(
    self: nn.Module,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor,
    temb: Tensor,
    image_rotary_emb: Any = None,
    joint_attention_kwargs: Any = None,
) -> tuple[Tensor, Tensor]:
    """What a block does that adds the same to every sample, scaled and shifted by what the timestep says."""
    del self, image_rotary_emb, joint_attention_kwargs
    generator = torch.Generator().manual_seed(0)
    added = [torch.randn(x.shape[1:], generator=generator) for x in (encoder_hidden_states, hidden_states)]
    text, picture = ((1 + 0.5 * torch.sin(9 * temb[0, 0])) * of + temb[0, 1] for of in added)
    return encoder_hidden_states + text, hidden_states + picture


def test_a_drift_that_was_planted_in_a_network_is_undone(recorded: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sample, for the embedding has its prompt in it: the corrected plan is the full run, plain reuse is not."""
    pipe, problem, begins = tiny.pipeline(), Problem(recorded), (0, 5)
    monkeypatch.setattr(FluxTransformerBlock, "forward", planted)
    site = measure_site(pipe, problem, parse_variants("int8:simulated"))
    job = problem.workload.of("fit")[0]
    moments = Moments(drifting._measured(pipe, problem, site.layers.points, begins, job)[DEVIATION])
    sample = partial(sample_latents, pipe, [job], problem.workload.num_steps, 1)
    full, errors = sample(), list[float]()
    for rows in (moments.affine(), None):
        low = cached_section(replace(problem, variants=site.variants), site, begins, rows)
        palette = (COMPUTE, COMPUTE, Action(forecast=(DEVIATION,)))
        schedule = Schedule(palette=palette, tables=low.schedule.tables)
        plan = changed(Plan(name="own", sections=(low,)), schedule=schedule, variants=None, action_bits=None)
        with apply_plan(pipe, plan, "error"):
            errors.append(float((sample() - full).norm() / full.norm()))
    assert errors[0] < 1e-5 < 1e-2 < errors[1]


def test_rows_stand_in_the_plan_as_they_were_fitted(site: Site, subject: tuple[Any, Problem]) -> None:
    problem = replace(subject[1], variants=site.variants)
    rows = RNG(0).normal(1.0, 0.1, (STEPS, 2, site.layers.channels[DEVIATION]))
    section = cached_section(problem, site, (0, 5), rows)
    taps = section.taps(DEVIATION)
    ((source, shifts),) = section.sources(DEVIATION, EVERY)
    assert source.is_constant
    for step in (1, 4, 6, 11):
        assert taps[step].history == (0 if step < 5 else 5,)
        np.testing.assert_allclose(taps[step].weights[0], rows[step, 0], rtol=1e-6)
        np.testing.assert_allclose(shifts[step].weights[0], rows[step, 1], rtol=1e-6)
    assert Plan.model_validate_json(Plan(name="x", sections=(section,)).model_dump_json()).section == section


@pytest.mark.usefixtures("few")
def test_a_killed_calibration_goes_on(
    subject: tuple[Any, Problem], site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, problem = subject
    measured, real = list[int](), drifting._measured

    def measure(*arguments: Any) -> Any:
        measured.append(arguments[-1].index)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    told = (pipe, problem, site.layers.points, (0, 4, 8))
    whole = drift(*told, "fit", tmp_path / "whole")[DEVIATION].sums
    monkeypatch.setattr(drifting, "_measured", measure)
    with pytest.raises(KeyboardInterrupt):
        drift(*told, "fit", tmp_path)
    found = drift(*told, "fit", tmp_path)[DEVIATION].sums
    fit = [job.index for job in problem.workload.of("fit")[:3]]
    assert measured == [*fit[:2], *fit[1:]]
    np.testing.assert_array_equal(found, whole)
    drift(pipe, problem, site.layers.points, (0, 6), "fit", tmp_path)
    assert len(measured) == 7, "of other groups it is another calibration"


@pytest.mark.usefixtures("few")
def test_corrected_outputs_have_the_mean_of_the_networks_own(
    subject: tuple[Any, Problem], site: Site, tmp_path: Path
) -> None:
    pipe, problem = subject
    problem = replace(problem, variants=site.variants)
    section = cached_section(problem, site, (0, 6))
    found = output_errors(pipe, problem, section, site.readers, "fit", tmp_path)
    assert found.keys() == {place.path for place in site.readers}
    for of in found.values():
        assert (of.sums[0, [0, 6]] == 0).all(), "steps that reuse alone"
        n, x, y, *_ = (sums[1:6] for sums in of.sums)
        assert (n > 0).all()
        rows = of.affine()[1:6]
        np.testing.assert_allclose(rows[:, 0] * x / n + rows[:, 1], y / n, atol=1e-6)
        assert 0 < of.left(of.affine()) <= 1
    if found:
        tables = {path: of.affine() for path, of in found.items()}
        plan = Plan(name="corrected", sections=(cached_section(problem, site, (0, 6), None, tables),))
        with apply_plan(pipe, Plan(name="plain", sections=(section,)), "error"):
            plain = draw(pipe, problem)
        with apply_plan(pipe, plan, "error") as session:
            assert not torch.equal(draw(pipe, problem), plain)
            assert f"{len(tables)} layers corrected" in str(session.report())


def test_folding_a_correction_is_applying_it() -> None:
    """Into the quantised weights of a layer, row by row, and its bias: what a kernel would do."""
    torch.manual_seed(0)
    layer, x, rows = nn.Linear(24, 10), torch.randn(7, 24), torch.rand(1, 2, 10) + 0.5
    made = quantised(layer, VariantSpec(scheme="int8_weights", simulated=True))
    outside = Corrected(made, Fitted((3,), rows.numpy()), "layer", 10, torch.device("cpu"))
    folded = nn.Linear(24, 10)
    with torch.no_grad():
        assert torch.equal(outside(x), made(x)), "steps without a correction"
        folded.weight.copy_(rows[0, 0, :, None] * (made(torch.eye(24)) - layer.bias).T)
        folded.bias.copy_(rows[0, 0] * layer.bias + rows[0, 1])
        outside.come_to(3)
        torch.testing.assert_close(folded(x), outside(x), atol=1e-5, rtol=1e-5)
        outside.come_to(None)
        assert torch.equal(outside(x), made(x))


def test_what_cannot_be_had_says_so(subject: tuple[Any, Problem], site: Site, tmp_path: Path) -> None:
    pipe, problem = subject
    with pytest.raises(BudgetError, match=r"cannot be met by cachequant: .*x is the most of bit operations; ask"):
        grouping_of(problem, Budget.parse("1000xbitops"), site)
    with pytest.raises(BudgetError, match=r"cannot be met by cachequant: .* [0-9.]+x is the most; ask for less"):
        make(pipe, problem, tmp_path, "100x")
    with pytest.raises(BudgetError, match="--precision int8,int8_weights: cachequant takes one, got 2"):
        make(pipe, problem, tmp_path, "1.2x", precision="int8,int8_weights")
    with pytest.raises(AttachError, match=r"torchao .* has no fp8 for float32 weights on cpu"):
        make(pipe, problem, tmp_path, "1.2x", precision="fp8")
    assert not (tmp_path / "study").exists()


def test_a_network_without_a_span_is_refused() -> None:
    pipe = tiny.pipeline(blocks=1)
    work = Workload(tiny.prompts()[:4], 7, 4, 1)
    with pytest.raises(AttachError, match=r"FluxTransformer2DModel has no list of two or more; choose another preset"):
        measure_site(pipe, _Bare(work), parse_variants(INT8))  # type: ignore[arg-type]


class _Bare:
    """As much of a problem as is read before a network is refused."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload

    class trace:  # noqa: N801
        class attributes:  # noqa: N801
            class model:  # noqa: N801
                component = "transformer"
