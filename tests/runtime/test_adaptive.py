"""Groups whose weights depend on the features, against the same mathematics written out in float64."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plans import STEPS, make_plan
from spies import overhear
from torch import Tensor

from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.pipelines.by_hand import hand_plan
from hyca_calib.search.assemble import with_groups
from hyca_runtime import Plan, PlanError, adaptive, apply_plan, load_plan, save_plan
from hyca_runtime.adaptive import AdaptiveGroups, adaptive_groups
from hyca_runtime.combine import forecast, split_weights
from hyca_runtime.feature import Feature, widths
from hyca_runtime.group import DimensionGroup, encode_channels
from hyca_runtime.history import History
from hyca_runtime.point import parse_point
from hyca_runtime.solvers import DynamicMode, Fitted, Hold, Newton

Times = Sequence[float] | np.ndarray

FALLING, RISING = np.array([0.55, 0.61, 0.8]), np.array([7.0, 4.0, 3.0])


def gain(ratio: float, times: Times, target: float, limit: float = 2.0) -> float:
    """Factor of the last difference, by bisection of the formula in the solver's docstring."""
    last, older, ahead = times[0] - times[1], times[1] - times[2], target - times[0]
    if not 0 < ratio < math.inf:
        return 0.0
    low, high = -16.0, 16.0
    for _ in range(80):
        middle = (low + high) / 2
        grown = math.expm1(middle) / -math.expm1(-middle * older / last) if middle else last / older
        low, high = (middle, high) if grown < ratio else (low, middle)
    rate = min(low, limit / max(1.0, ahead / last))
    return math.expm1(rate * ahead / last) / -math.expm1(-rate)


def expected(
    features: Sequence[Feature], times: Times, target: float, groups: Sequence[np.ndarray], axis: int
) -> list[Tensor]:
    """The forecast of adaptive `groups`, the newest feature elsewhere; one sample after the other."""
    parts = [[part.double().movedim(axis, -1) for part in feature] for feature in features[:3]]
    out = [part.clone() for part in parts[0]]
    labels = torch.full((sum(widths(features[0], axis)),), -1)
    for number, channels in enumerate(groups):
        labels[channels] = number
    split = torch.split(labels, list(widths(features[0], axis)))
    for b in range(len(out[0])):
        for number in range(len(groups)):
            vectors = [
                torch.cat([x[b][..., s == number].ravel() for x, s in zip(f, split, strict=True)]) for f in parts
            ]
            newer, older = vectors[0] - vectors[1], vectors[1] - vectors[2]
            factor = gain(float(newer @ older / (older @ older)), times, target)
            for i, s in enumerate(split):
                change = parts[0][i][b] - parts[1][i][b]
                out[i][b][..., s == number] += factor * change[..., s == number]
    return [part.movedim(-1, axis) for part in out]


def solve(features: np.ndarray, times: np.ndarray, target: float, solver: DynamicMode | None = None) -> np.ndarray:
    """The solver alone on the vectors ``(tap, channel)`` of one group."""
    solver, differences = solver or DynamicMode(), torch.from_numpy(features[:-1] - features[1:])
    learnt = solver.learn((differences @ differences.T)[..., None], times)
    return np.asarray(solver.adapted(learnt, times, target)[:, 0].numpy() @ features)


def remember(features: Sequence[Feature], depth: int = 3) -> History:
    """A history of `features`, oldest first."""
    history = History(depth)
    for step, feature in enumerate(features):
        history.push(step, feature)
    return history


def adapt(
    history: History, groups: Sequence[AdaptiveGroups], times: np.ndarray, target: float, axis: int
) -> list[Tensor]:
    """The forecast over a history whose other channels are held."""
    parts = tuple(buffer[0].shape[axis] for buffer in history.buffers)
    rows = torch.zeros(len(times), sum(parts))
    rows[0] = 1
    weights = split_weights(rows, parts, [buffer.ndim - 1 for buffer in history.buffers], axis)
    for group in groups:
        weights = group.adapt(weights, history, times, target)
    return list(forecast(history, weights))


class TestDynamicMode:
    @pytest.mark.parametrize("rate", [-4.0, -0.7, -1e-4, 0.0, 1e-4, 0.7, 4.0])
    @pytest.mark.parametrize(("times", "target"), [(FALLING, 0.37), (RISING / 10, 0.83), (RISING / 10, 0.71)])
    def test_exact_on_one_mode_of_unknown_rate(self, rate: float, times: np.ndarray, target: float) -> None:
        rng = np.random.default_rng(0)
        start, mode = rng.normal(size=(2, 24))
        shape = np.exp(rate * times) if rate else times
        features = start + np.outer(shape, mode)
        true = start + mode * (np.exp(rate * target) if rate else target)
        np.testing.assert_allclose(solve(features, times, target), true, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("ratio", [1e-3, 0.2, 0.999, 1.0, 3.0, 1e4])
    def test_the_rate_is_that_of_the_formula(self, ratio: float) -> None:
        features = np.array([[1.0 + ratio], [1.0], [0.0]])
        found = solve(features, FALLING, 0.37)[0]
        assert found == pytest.approx(1 + ratio + ratio * gain(ratio, FALLING, 0.37), rel=1e-6)

    def test_swinging_resting_and_broken_groups_are_held(self) -> None:
        gram = torch.zeros(2, 2, 5)
        gram[0, 1] = torch.tensor([-1.0, 0.0, 1.0, math.nan, math.inf])
        gram[1, 1] = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0])
        solver = DynamicMode()
        rows = solver.adapted(solver.learn(gram, FALLING), FALLING, 0.37)
        assert rows.T.tolist() == [[1, 0, 0]] * 5

    def test_continuous_towards_hold_and_damped_growth(self) -> None:
        def of(ratio: float, **settings: float) -> float:
            features = np.array([[1.0 + ratio], [1.0], [0.0]])
            return float(solve(features, RISING, 19.0, DynamicMode(**settings))[0] - 1 - ratio) / ratio

        assert 0 <= of(1e-6) < 1e-5
        assert of(1e2) == pytest.approx(of(1e6)) == pytest.approx(math.expm1(2) / -math.expm1(-0.5))
        assert of(1e6, limit=0.5) == pytest.approx(math.expm1(0.5) / -math.expm1(-0.125))

    def test_without_features_it_is_linear_extrapolation(self) -> None:
        assert DynamicMode().weights(FALLING[:1], 0.37).tolist() == [1]
        assert DynamicMode().weights(FALLING[:2], 0.37).tolist() == pytest.approx([4, -3])
        assert DynamicMode().weights(FALLING, 0.37).tolist() == pytest.approx([4, -3, 0])

    @pytest.mark.parametrize(("times", "target"), [([1.0, 2.0, 0.0], 3.0), ([2.0, 1.0], 1.5), ([1.0, 2.0], 3.0)])
    def test_times_that_turn_are_refused(self, times: list[float], target: float) -> None:
        with pytest.raises(ValueError, match="must all rise or all fall"):
            DynamicMode().weights(np.array(times), target)


PARTS: dict[str, tuple[list[tuple[int, ...]], int]] = {
    "trunk": ([(2, 9, 12)], -1),
    "streams": ([(2, 9, 8), (2, 5, 8), (2, 3, 8)], -1),
    "image": ([(2, 12, 3, 4)], 1),
    "frames as a batch": ([(2, 5, 8), (6, 4, 4)], -1),
    "vector": ([(3, 12)], -1),
    "no batch": ([(12, 5)], 0),
}


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("slice_numbers", [1 << 24, 7])
def test_every_kind_of_feature(name: str, slice_numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes, axis = PARTS[name]
    generator = torch.Generator().manual_seed(3)
    features = [Feature(torch.randn(s, generator=generator) / 3 for s in shapes) for _ in range(3)]
    for older, newer in ((0, 1), (1, 2)):
        features[newer] = Feature(a + 0.4 * b + 0.8 for a, b in zip(features[older], features[newer], strict=True))
    channels = sum(widths(features[0], axis))
    groups = [np.arange(0, channels, 3), np.arange(1, channels, 3)]
    monkeypatch.setattr(adaptive, "SLICE", slice_numbers)
    found = adaptive_groups([*((g, DynamicMode()) for g in groups), (np.arange(2, channels, 3), Hold())], axis)
    assert len(found) == 1
    forecasts = adapt(remember(features), found, FALLING, 0.37, axis)
    newest = [Feature(_by_sample(part, name) for part in feature) for feature in reversed(features)]
    wanted = expected(newest, FALLING, 0.37, groups, -1 if name == "no batch" else axis)
    for part, want in zip(forecasts, wanted, strict=True):
        torch.testing.assert_close(_by_sample(part, name).double(), want, rtol=1e-5, atol=1e-5)


def _by_sample(part: Tensor, name: str) -> Tensor:
    if name == "no batch":
        return part.T[None]
    return torch.unflatten(part, 0, (2, -1)).flatten(1, 2) if name == "frames as a batch" else part


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_forecast_does_not_depend_on_the_rest_of_the_batch(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    features = [Feature([torch.randn(5, 33, 24, generator=generator).to(dtype)]) for _ in range(3)]
    features[2][0][1] = math.nan
    features[2][0][3] = features[1][0][3]
    groups = adaptive_groups([(np.arange(10), DynamicMode()), (np.arange(10, 24), DynamicMode())], -1)
    (together,) = adapt(remember(features), groups, FALLING, 0.37, -1)
    for b in (0, 2, 3, 4):
        (alone,) = adapt(remember([Feature([f[0][b : b + 1]]) for f in features]), groups, FALLING, 0.37, -1)
        assert torch.equal(alone, together[b : b + 1])


def test_nothing_depends_on_values_on_the_host() -> None:
    """On the meta device there are no values: reading one to decide, which waits for a GPU, would fail."""
    history = remember([Feature([torch.empty(2, 9, 12, device="meta", dtype=torch.bfloat16)])] * 3)
    groups = AdaptiveGroups(DynamicMode(), [np.arange(0, 8), np.arange(8, 11)], -1)
    (weights,) = groups.adapt((torch.empty(3, 1, 1, 12, device="meta"),), history, FALLING, 0.37)
    assert (weights.shape, weights.device.type) == ((3, 2, 1, 12), "meta")


def test_too_few_features_leave_the_closed_form() -> None:
    history = remember([Feature([torch.ones(1, 2, 4)])] * 2)
    weights = (torch.ones(2, 1, 1, 4),)
    assert AdaptiveGroups(DynamicMode(), [np.arange(4)], -1).adapt(weights, history, FALLING[:2], 0.3) is weights


def test_what_was_learnt_is_kept_until_the_history_changes() -> None:
    features = [Feature([torch.randn(1, 6, 4)]) for _ in range(4)]
    history, groups = remember(features[:3]), (AdaptiveGroups(DynamicMode(), [np.arange(4)], -1),)
    adapt(history, groups, FALLING, 0.37, -1)
    (learnt,) = history.learnt.values()
    assert learnt.shape == (1, 1)
    adapt(history, groups, FALLING, 0.3, -1)
    assert history.learnt[groups[0]] is learnt
    history.push(3, features[3])
    assert not history.learnt
    adapt(history, groups, FALLING, 0.3, -1)
    history.clear()
    assert not history.learnt


def draw(pipe: EmojiPipeline, seed: int = 1, **kwargs: Any) -> Tensor:
    options = {"num_inference_steps": STEPS, "output_type": "latent", **kwargs}
    generator = torch.Generator().manual_seed(seed)
    latents: Tensor = pipe(["red heart", "blue cat"], generator=generator, return_dict=False, **options)[0]
    return latents


def mixed_plan(pipe: EmojiPipeline, **options: Any) -> Plan:
    """Half of the channels by dynamic modes in one group, half by taps of two features."""
    steps = (2, 3, 5, 6, 7, 9, 10, 11)
    taps = np.random.default_rng(0).normal(size=(len(steps), 2, 16))
    taps[:, 0] = 1 - taps[:, 1]
    return make_plan(pipe.transformer, solvers=(DynamicMode(), Fitted(steps, taps)), **options)


def test_a_plan_with_dynamic_modes_and_fitted_taps(pipe: EmojiPipeline) -> None:
    plan, full = mixed_plan(pipe), draw(pipe)
    section, seen = plan.section, overhear(pipe.transformer.norm_out)
    times = section.grid.axis_times
    with apply_plan(pipe, plan) as session:
        first = draw(pipe)
        assert session.report().computed == 4
        for step, taps in section.taps().items():
            past = [Feature([seen[s]]) for s in taps.history]
            by_row = sum(w * f[0].double() for w, f in zip(torch.from_numpy(taps.weights).double(), past, strict=True))
            if len(past) == 3:
                own = [times[s] for s in taps.history]
                modes = expected(past, own, times[step], [np.arange(16)], -1)[0][..., :16]
                assert not torch.allclose(by_row[..., :16], modes, rtol=1e-3, atol=1e-3)  # no linear extrapolation
                by_row[..., :16] = modes
            torch.testing.assert_close(seen[step].double(), by_row, rtol=1e-5, atol=1e-5)
        draw(pipe, seed=5, true_cfg_scale=2.0)
        assert torch.equal(draw(pipe), first)
    assert torch.equal(draw(pipe), full)


@pytest.mark.parametrize("text", ["trunk", "output", "blocks", "modules:transformer_blocks.*.attn"])
def test_at_every_kind_of_point(pipe: EmojiPipeline, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guided, so with two streams; on the step axis; the groups interleave and cross the parts."""
    plan = hand_plan(pipe, parse_point(text), lambda: draw(pipe), lambda steps: (0, 2, 3, 7))
    channels = plan.section.forecast.num_channels
    members = [np.arange(0, channels, 2), np.arange(1, channels, 4), np.arange(3, channels, 4)]
    solvers = (DynamicMode(), DynamicMode(), Hold())
    groups = [
        DimensionGroup(name=str(i), channels=encode_channels(m.tolist()), solver=s.spec())
        for i, (m, s) in enumerate(zip(members, solvers, strict=True))
    ]
    plan = Plan(name="modes", sections=(with_groups(plan.section, groups),))
    checked = [0]

    def spy(history: History, weights: Sequence[Tensor]) -> Feature:
        found = forecast(history, weights)
        if len(history.positions) == 3:
            step = 4 + checked[0] // 2 + (history.positions[0] == 7)
            wanted = expected(history.features, history.positions, float(step), members[:2], -1)
            for part, want in zip(found, wanted, strict=True):
                torch.testing.assert_close(part.double(), want, rtol=1e-4, atol=1e-5)
            checked[0] += 1
        return found

    monkeypatch.setattr("hyca_runtime.forecasting.forecast", spy)
    with apply_plan(pipe, plan):
        draw(pipe, true_cfg_scale=2.0)
    assert checked == [2 * (3 + 4)]


def test_adapted_runs_use_the_closed_form(pipe: EmojiPipeline) -> None:
    found = []
    for solver in (DynamicMode(), Newton(1)):
        with apply_plan(pipe, make_plan(pipe.transformer, solvers=(solver,)), "adapt"):
            found.append(draw(pipe, num_inference_steps=20))
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)


def test_plans_without_such_groups_have_none_at_hand(pipe: EmojiPipeline) -> None:
    section = make_plan(pipe.transformer).section
    assert adaptive_groups(section.forecast.solvers(), -1) == ()


def test_round_trip_and_faults(pipe: EmojiPipeline, tmp_path: Path) -> None:
    plan, path = mixed_plan(pipe), tmp_path / "plan.json"
    save_plan(plan, path)
    again = load_plan(path)
    assert again == plan
    assert again.section.forecast.solvers()[0][1] == DynamicMode()
    for settings, reason in (({"limit": 0}, "above 0"), ({"limit": 11}, "at most 10"), ({"rate": 1}, "does not take")):
        content = plan.model_dump(mode="json")
        content["sections"][0]["points"]["feature"]["groups"]["*"][0]["solver"]["configuration"] = settings
        path.write_text(json.dumps(content))
        with pytest.raises(PlanError, match=reason):
            load_plan(path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_compiled(pipe: EmojiPipeline) -> None:
    torch._dynamo.reset()
    plan = mixed_plan(pipe)
    with apply_plan(pipe, plan):
        eager = draw(pipe)
    with apply_plan(pipe, plan):
        pipe.transformer = torch.compile(pipe.transformer, backend="aot_eager")
        torch.testing.assert_close(draw(pipe), eager, rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_no_wait_for_the_gpu() -> None:
    features = [Feature([torch.randn(2, 33, 24, device="cuda").bfloat16()]) for _ in range(3)]
    groups = adaptive_groups([(np.arange(24), DynamicMode())], -1)
    weights = (torch.ones(3, 1, 1, 24, device="cuda"),)
    history = remember(features)
    groups[0].adapt(weights, history, FALLING, 0.37)
    history.learnt.clear()
    torch.cuda.set_sync_debug_mode("error")
    try:
        (rows,) = groups[0].adapt(weights, history, FALLING, 0.37)
        (found,) = forecast(history, (rows,))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    wanted = expected(history.features, FALLING, 0.37, [np.arange(24)], -1)[0]
    torch.testing.assert_close(found.double().cpu(), wanted.cpu(), rtol=2**-7, atol=2**-4)
