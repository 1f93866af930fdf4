"""Policies of published step caches, against their rules worked out again here, and by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from plans import alike, changed, make_plan
from spies import Witness
from torch import Tensor

from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_runtime import Plan, apply_plan
from hyca_runtime.errors import PlanMismatchError
from hyca_runtime.moment import Moment
from hyca_runtime.policies import ChangeSinceComputed, FilteredChange, MagnitudeRatio, Policy, RescaledChange
from hyca_runtime.policies.filtered_change import wiener_gain
from hyca_runtime.schedule import FEATURE, Schedule
from hyca_runtime.solvers import Hold, Newton, Solver, Taylor

STEPS = 12
Array = NDArray[np.float64]


def draw(pipe: EmojiPipeline, guidance: float = 1.0, prompts: Sequence[str] = ("red heart",)) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    call: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "latent", "return_dict": False}
    latents: Tensor = pipe(list(prompts), generator=generator, true_cfg_scale=guidance, **call)[0]
    return latents


def deciding_plan(pipe: EmojiPipeline, policy: Policy, point: str, solver: Solver) -> Plan:
    points = {FEATURE: alike(point, pipe.transformer.inner_dim, solver)}
    plan = make_plan(pipe.transformer, computed=[0], steps=STEPS)
    return changed(plan, points=points, policy=policy.spec())


def decided(policy: Policy, evidence: Sequence[float | None]) -> list[int]:
    """The calls that compute, of one sample on which a probe measures so much."""
    schedule, state, found = Schedule.from_steps(len(evidence), [0]), policy.begin(), list[int]()
    for step, measured in enumerate(evidence):
        moment = Moment(0, step, step - 1, len(evidence))
        action, state = policy.decide(state, moment, schedule, None if measured is None else (measured,))
        found += [step] if action.computes else []
    return found


def relative(now: Array, before: Array) -> float:
    return float(np.abs(now - before).mean() / np.abs(before).mean())


@dataclass
class Run:
    """One run of one sample: what comes into the first block, out of the leading ones, and to the final norm."""

    entered: list[Array]
    reached: list[Array]
    ended: list[Array]

    @classmethod
    def of(cls, seen: Witness) -> Run:
        return cls(*([t.double().numpy() for t in of] for of in (seen.entered, seen.reached, seen.ended)))


Followed = tuple[list[int], list[Array]]
"""The computed steps, and what reaches the final norm on every step."""


def teacache(run: Run, policy: RescaledChange) -> Followed:
    """Accumulated polynomial of the change of what the first block makes; the residual of all blocks is reused."""
    computed, ended, total = list[int](), list[Array](), 0.0
    for step, (x, y) in enumerate(zip(run.entered, run.reached, strict=True)):
        total += float(np.poly1d(policy.coefficients)(relative(y, run.reached[step - 1]))) if step else 0.0
        if step in (0, STEPS - 1) or total >= policy.threshold:
            computed.append(step)
            total, residual = 0.0, run.ended[step] - x
        ended.append(x + residual)
    return computed, ended


def magcache(run: Run, policy: MagnitudeRatio) -> Followed:
    """Accumulated error of the magnitude, at most K steps in a row; the residual of all blocks is reused."""
    computed, ended = list[int](), list[Array]()
    ratio, error, steps = 1.0, 0.0, 0
    for step, x in enumerate(run.entered):
        if step >= int(policy.retained * STEPS + 0.5):
            ratio *= policy.ratios["*"][step]
            steps += 1
            error += abs(1 - ratio)
        if step < int(policy.retained * STEPS + 0.5) or error > policy.threshold or steps > policy.consecutive:
            computed.append(step)
            ratio, error, steps, residual = 1.0, 0.0, 0, run.ended[step] - x
        ended.append(x + residual)
    return computed, ended


def dbcache(run: Run, policy: ChangeSinceComputed, order: int = 0) -> Followed:
    """The change of what the first block adds decides; the residual behind is reused or extrapolated."""
    computed, ended, residuals = list[int](), list[Array](), list[Array]()
    added = [y - x for x, y in zip(run.entered, run.reached, strict=True)]
    for step, y in enumerate(run.reached):
        change = relative(added[step], added[computed[-1]]) if computed else 0.0
        if step < policy.warmup or change >= policy.threshold or step - computed[-1] > (policy.consecutive or STEPS):
            computed.append(step)
            residuals.append(run.ended[step] - y)
        slope = (residuals[-1] - residuals[-2]) / (computed[-1] - computed[-2]) if len(computed) > 1 else 0.0
        ended.append(y + residuals[-1] + order * (step - computed[-1]) * slope)
    return computed, ended


def without_noise(tokens: Array, policy: FilteredChange, level: float) -> Array:
    """Of one sample on a square, by the Wiener filter as published."""
    noise = min(max(level, 1e-6), 1 - 1e-6)
    clean, gain = 1 - noise, np.ones(())
    for size in policy.grid:
        power = 1 / (np.abs(np.fft.fftfreq(size)) ** policy.power + 1e-16)
        gain = gain[..., None] * (clean * power / (clean**2 * power + noise**2))
    spectrum = np.fft.fftn(tokens.reshape(*policy.grid, -1), axes=(0, 1))
    filtered: Array = np.fft.ifftn(spectrum * (gain / gain.mean())[..., None], axes=(0, 1)).real
    return filtered


def seacache(run: Run, policy: FilteredChange) -> Followed:
    """Accumulated change of the filtered tokens; the residual of all blocks is extrapolated with its true steps."""
    computed, ended, residuals, total = list[int](), list[Array](), list[Array](), 0.0
    seen = [without_noise(y, policy, level) for y, level in zip(run.reached, policy.levels, strict=True)]
    for step, x in enumerate(run.entered):
        total += relative(seen[step], seen[step - 1]) if step else 0.0
        often = computed and step - computed[-1] > (policy.consecutive or STEPS)
        if step in (0, STEPS - 1) or often or total >= policy.threshold:
            computed.append(step)
            residuals.append(run.ended[step] - x)
            total = 0.0
        slope = (residuals[-1] - residuals[-2]) / (computed[-1] - computed[-2]) if len(computed) > 1 else 0.0
        ended.append(x + residuals[-1] + (step - computed[-1]) * slope)
    return computed, ended


TEA = RescaledChange(0.3, (20.0, -1.0, 0.5, 0.02))

MAG = MagnitudeRatio(
    0.1, {"*": (1.0, 1.3, 1.2, 1.05, 1.02, 1.01, 1.01, 1.01, 1.0, 0.99, 0.9, 0.8), "uncond": (0.97,) * STEPS}, 3, 0.1
)

SEA = FilteredChange(0.2, tuple(np.linspace(1.0, 1.0 / STEPS, STEPS).tolist()), (4, 4), 2.0, 1, 3)
DB = ChangeSinceComputed(0.5, 1, 2, 3)

CASES: dict[str, tuple[Policy, str, Solver, Callable[..., Followed]]] = {
    "dbcache": (DB, "behind:1", Hold(), dbcache),
    "dbcache with taylorseer": (DB, "behind:1", Taylor(1), partial(dbcache, order=1)),
    "magcache": (MAG, "trunk:residual", Hold(), magcache),
    "seacache": (SEA, "trunk:residual", Newton(1), seacache),
    "teacache": (TEA, "trunk:residual", Hold(), teacache),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_published_rule(pipe: EmojiPipeline, name: str) -> None:
    policy, point, solver, published = CASES[name]
    with apply_plan(pipe, deciding_plan(pipe, policy, point, solver), "error") as session:
        probes = getattr(policy, "blocks", 0)
        seen = Witness(pipe.transformer, 1)
        draw(pipe)
        report = session.report()
    computed, ended = published(Run.of(seen), policy)
    assert 2 < len(computed) < STEPS - 2, "neither all nor only what is forced"
    assert list(report.computed_at) == computed
    for got, expected in zip(seen.ended, ended, strict=True):
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-5)
    assert seen.calls == [STEPS] * probes + [len(computed)] * (len(seen.calls) - probes)


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_threshold_of_nothing_changes_no_bit(pipe: EmojiPipeline, name: str) -> None:
    policy, point, solver, _ = CASES[name]
    neutral = type(policy)(**{**policy.spec().configuration, "threshold": 0.0})
    full = draw(pipe, 3.0, ("red heart", "blue cat"))
    with apply_plan(pipe, deciding_plan(pipe, neutral, point, solver), "error") as session:
        assert torch.equal(draw(pipe, 3.0, ("red heart", "blue cat")), full)
        assert session.report().computed == STEPS


@pytest.mark.parametrize("name", sorted(CASES))
def test_branches_and_runs_do_not_see_each_other(pipe: EmojiPipeline, name: str) -> None:
    policy, point, solver, _ = CASES[name]
    plan = deciding_plan(pipe, policy, point, solver)
    with apply_plan(pipe, plan, "error") as session:
        guided = draw(pipe, 3.0)
        assert set(session.report().streams) == {("", "cond", 0, 0), ("", "uncond", 0, 0)}
        draw(pipe, 1.0, ("blue cat",))
        assert torch.equal(draw(pipe, 3.0), guided)
    with apply_plan(pipe, Plan.model_validate_json(plan.model_dump_json()), "error"):
        assert torch.equal(draw(pipe, 3.0), guided), "saved and loaded it does the same"


def test_teacache_by_hand() -> None:
    policy = RescaledChange(0.75, (2.0, 0.1), (0.05, 0.3))
    # 2x + 0.1:     0.3, 0.5: 0.8!  0.3, 0.3: 0.6 (0.0 counts as 0.05: 0.2)  0.8!   last
    assert decided(policy, [None, 0.1, 0.2, 0.1, 0.1, 0.0, 0.0]) == [0, 2, 5, 6]
    assert decided(policy, [None, 9.0, 9.0, 9.0]) == [0, 2, 3], "0.3 is the most that the polynomial knows: 0.7"
    assert decided(RescaledChange(0.0, (-1.0,)), [None, 0.1, 0.1]) == [0, 1, 2], "a change is never below nothing"
    assert decided(policy, [None, 0.1, float("nan"), 0.0]) == [0, 2, 3]


def test_magcache_by_hand() -> None:
    ratios = (1.0, 1.25, 1.25, 0.75, 1.0, 1.0, 1.0)
    none = [None] * 7
    # after step 0: 0.25, then |1 - 1.5625|: 0.8125!  after step 2: 0.25, 0.5, 0.75, then a fourth in a row!
    assert decided(MagnitudeRatio(0.75, {"*": ratios}, 3, 0.0), none) == [0, 2, 6]
    assert decided(MagnitudeRatio(0.8125, {"*": ratios}, 3, 0.0), none) == [0, 3], "a sum of the threshold is allowed"
    assert decided(MagnitudeRatio(9.0, {"*": ratios}, 2, 0.0), none) == [0, 3, 6]
    assert decided(MagnitudeRatio(9.0, {"*": ratios}, 9, 0.5), none) == [0, 1, 2, 3]
    assert decided(MagnitudeRatio(0.0, {"*": [1.0]}, 9, 0.0), none) == [0, 1, 2, 3, 4, 5, 6], (
        "nothing is off by nothing"
    )
    two = MagnitudeRatio(0.3, {"*": [1.0], "uncond": ratios}, 9, 0.0)
    calls = [Moment(0, 1, 0, 7, branch) for branch in ("cond", "uncond")] + [Moment(0, 2, 0, 7, "uncond")]
    schedule = Schedule.from_steps(7, [0])
    errors = [two.decide(two.begin(), moment, schedule)[1].error for moment in calls]
    assert errors == [0.0, 0.25, 0.0], "by branch; two steps on it is too much: 0.5625"


def test_dbcache_by_hand() -> None:
    evidence = [None, 0.1, 0.2, 0.5, 0.4, 0.4, 0.4, 0.4]
    assert decided(ChangeSinceComputed(0.5, warmup=0), evidence) == [0, 3], "no sum, and what reaches it computes"
    assert decided(ChangeSinceComputed(0.5, warmup=2), evidence) == [0, 1, 3]
    assert decided(ChangeSinceComputed(0.5, consecutive=1), evidence) == [0, 2, 3, 5, 7]
    assert decided(ChangeSinceComputed(9.0), [None, float("nan"), 1.0]) == [0, 1]


def test_dbcache_holds_a_batch_against_its_most_demanding_sample() -> None:
    policy, schedule, moment = ChangeSinceComputed(0.5), Schedule.from_steps(4, [0]), Moment(0, 1, 0, 4)
    assert policy.decide(0, moment, schedule, (0.1, 0.6))[0].computes
    assert not policy.decide(0, moment, schedule, (0.1, 0.4))[0].computes


def test_seacache_by_hand() -> None:
    """Of two tokens: their mean has the frequency 0, half their difference 1/2, whose gain is (1 + 1/4)^-1 of that."""
    gain = wiener_gain((2,), 0.5, 2.0)
    assert gain.tolist() == pytest.approx([2 / 1.8, 1.6 / 1.8])
    seen = FilteredChange(0.1, (0.5,), (2,)).look(torch.tensor([[[3.0], [1.0]]]), torch.zeros(1, 2, 1), 0.0)
    assert seen.flatten().tolist() == pytest.approx([(2 * 2 + 1.6) / 1.8, (2 * 2 - 1.6) / 1.8])
    assert wiener_gain((3, 1, 4), 0.0, 3.0) == pytest.approx(torch.ones(3, 1, 4)), "without noise nothing is filtered"
    policy = FilteredChange(0.5, (0.5,), (2,))
    assert decided(policy, [None, 0.1, 0.2, 0.1, 0.25, 0.25, 0.1, 0.1]) == [0, 3, 5, 7], (
        "two in a row, the sum, the last"
    )
    assert decided(replace(policy, consecutive=None, retained=2, last=2), [None, *[0.0] * 7]) == [0, 1, 6, 7]
    assert decided(policy, [None, float("nan"), 0.1, 0.1]) == [0, 1, 3]


def test_a_filter_for_other_tokens_is_told(pipe: EmojiPipeline) -> None:
    plan = deciding_plan(pipe, replace(SEA, grid=(4, 5)), "trunk:residual", Hold())
    with (
        apply_plan(pipe, plan),
        pytest.raises(PlanMismatchError, match=r"for 4 x 5 tokens, got \(1, 16, 32\); search again"),
    ):
        draw(pipe)


@pytest.mark.parametrize(
    ("kind", "settings", "reason"),
    [
        (RescaledChange, {"threshold": -1.0, "coefficients": (1.0,)}, "threshold must be 0 or more, got -1.0"),
        (RescaledChange, {"threshold": 1.0, "coefficients": ()}, "expected coefficients"),
        (RescaledChange, {"threshold": 1.0, "coefficients": (1.0,), "within": (2.0, 1.0)}, "two ends of a range"),
        (ChangeSinceComputed, {"threshold": -1.0}, "threshold must be 0 or more, got -1.0"),
        (ChangeSinceComputed, {"threshold": 1.0, "warmup": -1}, "got -1 and None"),
        (FilteredChange, {"threshold": 1.0, "levels": (2.0,), "grid": (2,)}, "shares of noise from 0 to 1"),
        (FilteredChange, {"threshold": 1.0, "levels": (0.5,), "grid": ()}, "grid must be numbers of tokens"),
        (FilteredChange, {"threshold": 1.0, "levels": (0.5,), "grid": (2,), "power": 0.0}, "power must be positive"),
        (FilteredChange, {"threshold": 1.0, "levels": (0.5,), "grid": (2,), "last": -1}, "0 or more"),
        (MagnitudeRatio, {"threshold": -1.0, "ratios": {"*": [1.0]}}, "threshold must be 0 or more, got -1.0"),
        (MagnitudeRatio, {"threshold": 1.0, "ratios": {"cond": [1.0]}}, "expected ratios for"),
        (MagnitudeRatio, {"threshold": 1.0, "ratios": {"*": [1.0]}, "consecutive": 0}, "1 or more, got 0"),
        (MagnitudeRatio, {"threshold": 1.0, "ratios": {"*": [1.0]}, "retained": 2.0}, "share from 0 to 1, got 2.0"),
        (RescaledChange, {"threshold": 1.0, "coefficients": (1.0,), "blocks": 0}, "whole number, 1 or more, got 0"),
    ],
)
def test_settings_that_make_no_sense(kind: type[Policy], settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        kind(**settings)
