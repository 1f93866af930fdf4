"""What comes while a run is under way: a plan that goes, another prompt, latents that a callback changes."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pytest
import tiny
import torch
from plans import STEPS, changed, make_plan, parted_plan
from torch import Tensor

from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_runtime import Plan, Session, apply_plan, session
from hyca_runtime.attach.arrival import Arrival
from hyca_runtime.attach.proxies import InjectInput
from hyca_runtime.errors import MissingHistoryWarning
from hyca_runtime.forecast import Source
from hyca_runtime.schedule import FEATURE
from hyca_runtime.solvers import Fitted, Newton

Conditions = list[dict[str, Tensor]]
AT_MOST = 60.0
"""Seconds that a thread is waited for before a test fails."""


def steps_of(
    pipe: EmojiPipeline,
    conditions: Conditions,
    named: Callable[[], AbstractContextManager[object]] = nullcontext,
    guided: bool = False,
) -> Tensor:
    """A sampling loop of one's own, conditioned step by step; all samples begin with the same noise.

    Args:
        guided: whether they are branches of one, which goes on by their mean.
    """
    batch = len(conditions[0]["encoder_hidden_states"])
    latents = torch.randn(1, 16, 48, generator=torch.Generator().manual_seed(0)).expand(batch, -1, -1)
    pipe.scheduler.set_timesteps(sigmas=np.linspace(1, 1 / STEPS, STEPS))
    pipe.scheduler.set_begin_index(0)
    for time, condition in zip(pipe.scheduler.timesteps, conditions, strict=True):
        with torch.no_grad(), named():
            made = pipe.transformer(
                hidden_states=latents, timestep=time.expand(batch) / 1000, return_dict=False, **condition
            )
        velocity = made[0].mean(0, keepdim=True).expand(batch, -1, -1) if guided else made[0]
        latents = pipe.scheduler.step(velocity, time, latents, return_dict=False)[0]
    return latents


def stacked_plan(pipe: EmojiPipeline) -> Plan:
    """One whose two guidance branches share a call and weigh each other's past."""
    base = make_plan(pipe.transformer, solvers=(Newton(1),))
    forecast, steps = base.section.forecast, base.section.schedule.predicted_steps
    weights = np.random.default_rng(0).normal(0, 0.3, (len(steps), 1, forecast.num_channels))
    sources = {
        own: (Source(branch=other, solver=Fitted(steps, weights).spec()),)
        for own, other in (("1/2", "2/2"), ("2/2", "1/2"))
    }
    return changed(base, stacked=2, points={FEATURE: forecast.model_copy(update={"sources": sources})})


def conditions_of(pipe: EmojiPipeline, *prompts: list[str]) -> Conditions:
    made = {tuple(prompt): pipe._condition(prompt, 4, 4) for prompt in prompts}
    return [made[tuple(prompt)] for prompt in prompts]


@contextlib.contextmanager
def held_still(monkeypatch: pytest.MonkeyPatch, thread: str) -> Iterator[tuple[threading.Event, threading.Event]]:
    """A thread stops within its first forecast, says so by the first event and waits for the second."""
    own, inside, go = InjectInput.forward, threading.Event(), threading.Event()

    def forward(self: InjectInput, *args: object, **kwargs: object) -> object:
        if threading.current_thread().name == thread and not inside.is_set():
            inside.set()
            assert go.wait(AT_MOST)
        return own(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(InjectInput, "forward", forward)
    try:
        yield inside, go
    finally:
        go.set()


class TestRemoval:
    def test_waits_for_a_call(self, pipe: EmojiPipeline, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever calls after it runs the network itself, not what stands in for parts of it."""
        conditions = conditions_of(pipe, *[["blue cat"]] * STEPS)
        full, made = steps_of(pipe, conditions), apply_plan(pipe, plan)
        with held_still(monkeypatch, "drawing") as (inside, go):
            drawing = threading.Thread(target=steps_of, args=(pipe, conditions), name="drawing")
            drawing.start()
            assert inside.wait(AT_MOST)
            removing = threading.Thread(target=made.remove)
            removing.start()
            removing.join(0.2)
            assert removing.is_alive(), "someone stands in for parts of the network"
            go.set()
            removing.join(AT_MOST)
            drawing.join(AT_MOST)
        other = tiny.pipeline()
        other.transformer = pipe.transformer
        assert torch.equal(steps_of(other, conditions), full)

    def test_does_not_depend_on_a_report(
        self, pipe: EmojiPipeline, plan: Plan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = apply_plan(pipe, plan)

        def fails(*_: object) -> None:
            raise RuntimeError("dictionary changed size during iteration")

        monkeypatch.setattr(session, "account", fails)
        with pytest.raises(RuntimeError, match="changed size"):
            made.remove()
        assert "forward" not in vars(pipe.transformer)


class TestAnotherPrompt:
    @pytest.mark.parametrize("named", [True, False])
    def test_is_never_forecast_from_the_one_before(self, pipe: EmojiPipeline, plan: Plan, named: bool) -> None:
        """Computed at 0, 1, 4 and 8; replaced behind step 4."""
        conditions = conditions_of(pipe, *[["red heart"]] * 5, *[["blue cat"]] * (STEPS - 5))

        def context() -> AbstractContextManager[object]:
            return pipe.transformer.cache_context("cond") if named else nullcontext()

        with apply_plan(pipe, plan) as made:
            with pytest.warns(MissingHistoryWarning):
                steps_of(pipe, conditions, context)
            assert {5, 8} <= {*made.report().computed_at}
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                steps_of(pipe, conditions[:1] * STEPS, context)
            assert made.report().computed_at == (0, 1, 4, 8)

    @pytest.mark.parametrize("apart", [False, True], ids=["remembered together", "remembered apart"])
    def test_is_noticed_where_branches_share_a_call(self, pipe: EmojiPipeline, apart: bool) -> None:
        plan = parted_plan(pipe.transformer) if apart else stacked_plan(pipe)
        prompts = [["red heart", "dog"]] * 5 + [["blue cat", "dog"]] * (STEPS - 5)
        with apply_plan(pipe, plan) as made:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                steps_of(pipe, conditions_of(pipe, *prompts[:1] * STEPS), guided=True)
            assert 5 not in made.report().computed_at
            with pytest.warns(MissingHistoryWarning, match="was replaced in the midst"):
                steps_of(
                    pipe, conditions_of(pipe, *prompts), lambda: pipe.transformer.cache_context("both"), guided=True
                )
            assert 5 in made.report().computed_at

    def test_that_is_another_on_every_step_is_followed(self, pipe: EmojiPipeline, plan: Plan) -> None:
        words = [
            [f"{color} {thing}"] for color in ("red", "blue", "green") for thing in ("cat", "dog", "heart", "star")
        ]
        with apply_plan(pipe, plan, on_mismatch="error") as made:
            steps_of(pipe, conditions_of(pipe, *words), lambda: pipe.transformer.cache_context("cond"))
            assert made.report().computed_at == (0, 1, 4, 8)


def test_samples_of_equal_noise_are_no_guidance_branches(pipe: EmojiPipeline) -> None:
    one, other = (conditions_of(pipe, *[["red heart", words]] * STEPS) for words in ("blue cat", "green dog"))
    with apply_plan(pipe, stacked_plan(pipe)) as made:
        with pytest.warns(match="do not hold the guidance branches"):
            first = steps_of(pipe, one)
        assert made.report().computed == STEPS
        assert torch.equal(first[0], steps_of(pipe, other)[0]), "a picture does not depend on who is drawn beside it"


def test_the_embedder_is_asked_in_turn(pipe: EmojiPipeline) -> None:
    """Else another thread's stand-in might answer."""
    order: list[str] = []

    @contextlib.contextmanager
    def turn() -> Iterator[None]:
        order.append("begins")
        yield
        order.append("ends")

    embedder = pipe.transformer.x_embedder.register_forward_hook(lambda *_: order.append("embeds"))
    Arrival(pipe.transformer, turn()).of("embedding", (), {"hidden_states": torch.zeros(1, 16, 48)})
    embedder.remove()
    assert order == ["begins", "embeds", "ends"]


def test_threads_are_reported_on_while_they_draw(pipe: EmojiPipeline, plan: Plan) -> None:
    """Every report is made of what is there at that moment; none fails, whatever comes meanwhile."""
    conditions = conditions_of(pipe, *[["red heart"]] * STEPS)
    failed: list[BaseException] = []

    def reporting(made: Session, until: threading.Event) -> None:
        try:
            while not until.is_set():
                assert 0 <= made.report().computed <= STEPS
        except BaseException as failure:
            failed.append(failure)

    with apply_plan(pipe, plan) as made:
        done = threading.Event()
        reporter = threading.Thread(target=reporting, args=(made, done))
        reporter.start()
        for _ in range(3):
            steps_of(pipe, conditions)
        done.set()
        reporter.join(AT_MOST)
    assert not failed
