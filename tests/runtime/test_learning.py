"""Policies that are told how far forecasts of a computed call would have been off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from plans import alike, changed, make_plan
from torch import Tensor

from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_runtime import Plan, apply_plan
from hyca_runtime.feature import Feature
from hyca_runtime.moment import Moment
from hyca_runtime.policies import Evidence, LearningPolicy, Surprises, register_policy
from hyca_runtime.schedule import COMPUTE, FEATURE, Action, Schedule
from hyca_runtime.solvers import Hold, Newton, Solver
from hyca_runtime.surprise import relative_error

STEPS, COMPUTED = 12, (0, 1, 3, 6, 7, 11)


@register_policy
@dataclass(frozen=True)
class Told(LearningPolicy):
    """Computes some steps; its state is what it was asked and told, in order, by all branches or each."""

    name: ClassVar[str] = "told"
    heard: ClassVar[list[Any]] = []

    def decide(self, state: Any, moment: Moment, schedule: Schedule, evidence: Evidence = None) -> tuple[Action, Any]:
        assert evidence is None
        computes = moment.position in COMPUTED
        return COMPUTE if computes else self.forecasts(schedule), (*state, (moment.branch, moment.position))

    def learn(self, state: Any, moment: Moment, surprises: Surprises) -> Any:
        self.heard.append((moment.branch, moment.position, dict(surprises), state))
        return (*state, "told")


@register_policy
@dataclass(frozen=True)
class ToldTogether(Told):
    name: ClassVar[str] = "told_together"
    joint: ClassVar[bool] = True


@pytest.fixture(autouse=True)
def nothing_heard() -> None:
    Told.heard.clear()


def draw(pipe: EmojiPipeline, guidance: float = 1.0, prompts: Sequence[str] = ("red heart", "cat")) -> Tensor:
    call: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "latent", "return_dict": False}
    generator = torch.Generator().manual_seed(1)
    latents: Tensor = pipe(list(prompts), generator=generator, true_cfg_scale=guidance, **call)[0]
    return latents


def told_plan(pipe: EmojiPipeline, solver: Solver, policy: Told, most: int | None = None) -> Plan:
    points = {FEATURE: alike("trunk", pipe.transformer.inner_dim, solver)}
    plan = make_plan(pipe.transformer, computed=[0], steps=STEPS)
    return changed(plan, points=points, policy=policy.spec(most))


@pytest.mark.parametrize("solver", [Hold(), Newton(1)])
def test_what_a_forecast_of_a_computed_step_would_have_missed(pipe: EmojiPipeline, solver: Solver) -> None:
    """Worked out again from what reached the final norm; one wait for each time it is told, but the first and last."""
    seen = list[Tensor]()
    with apply_plan(pipe, told_plan(pipe, solver, Told()), "error") as session:
        hook = pipe.transformer.norm_out.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
        draw(pipe)
        hook.remove()
        assert session.report().waits == len(COMPUTED) - 2, "nothing is decided after the last step"
    assert [position for _, position, _, _ in Told.heard] == list(COMPUTED[:-1])
    assert Told.heard[0][2] == {}, "there is no past"
    for number, (_, position, surprises, _) in enumerate(Told.heard[1:], 1):
        newest, before = COMPUTED[number - 1], COMPUTED[max(number - 2, 0)]
        made = seen[newest]
        if solver.depth > 1 and number > 1:
            made = made + (position - newest) / (newest - before) * (made - seen[before])
        off = [(a - b).abs().mean() / b.abs().mean() for a, b in zip(made, seen[int(position)], strict=True)]
        assert surprises[FEATURE] == pytest.approx([float(o) for o in off], rel=1e-4), "one for each sample"


def test_branches_have_states_of_their_own_or_one(pipe: EmojiPipeline) -> None:
    for policy, others in ((Told(), 0), (ToldTogether(), 1)):
        Told.heard.clear()
        with apply_plan(pipe, told_plan(pipe, Hold(), policy), "error"):
            draw(pipe, guidance=3.0)
            draw(pipe, guidance=3.0)
        assert len(Told.heard) == 4 * (len(COMPUTED) - 1), "it begins anew with each run"
        for branch, _, _, state in Told.heard:
            asked = [event for event in state if event != "told"]
            assert any(name != branch for name, _ in asked) in (False, bool(others))
            assert asked.count((branch, 0.0)) == 1
        assert state.count("told") == len(COMPUTED) - 2 + others * (len(COMPUTED) - 1)


def test_nobody_waits_for_what_is_not_wanted(pipe: EmojiPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Told, "wants", lambda self, state, moment: moment.position == 3)
    with apply_plan(pipe, told_plan(pipe, Hold(), Told()), "error") as session:
        draw(pipe)
        assert session.report().waits == len(Told.heard) == 1


def test_the_bound_of_those_who_decide_together_counts_steps(pipe: EmojiPipeline) -> None:
    with apply_plan(pipe, told_plan(pipe, Hold(), ToldTogether(), most=2), "error") as session:
        draw(pipe, guidance=3.0)
        assert [count.computed for count in session.report().streams.values()] == [2, 2]


def test_parts_of_a_point_count_by_their_size() -> None:
    one, two = torch.tensor([[1.0, -1.0], [2.0, 2.0]]), torch.tensor([[2.0], [0.0], [4.0], [4.0]])
    feature = Feature([one, two])
    made = Feature([one + torch.tensor([[0.5, -0.5], [0.0, 0.0]]), two + torch.tensor([[1.0], [0.0], [3.0], [0.0]])])
    np.testing.assert_allclose(relative_error(made, feature, -1).numpy(), [2 / 4, 3 / 12])
    assert relative_error(Feature([one]), Feature([2 * one]), 0).tolist() == [0.5], "the outermost axis counts channels"
