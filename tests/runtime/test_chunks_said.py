"""Chunks of a long video that a pipeline, or a caller, names: each has a run and features of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import tiny
import torch
from diffusers import FluxTransformer2DModel
from plans import STEPS, changed, make_plan
from torch import Tensor

from hyca_runtime import Plan, apply_plan
from hyca_runtime.errors import ClockError, PlanMismatchWarning
from hyca_runtime.policies import CarefulEnd

WORDS = {"text": torch.zeros(1, 2, 24), "other": torch.ones(1, 2, 24)}


class Streaming(FluxTransformer2DModel):  # type: ignore[misc]
    """Is handed the keys and values of the past, which grow; its context takes the place in the video."""

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        timestep: Tensor,
        img_ids: Tensor,
        txt_ids: Tensor,
        kv_cache: Any = None,
    ) -> Any:
        del kv_cache
        given = hidden_states, encoder_hidden_states, pooled_projections, timestep, img_ids, txt_ids
        return super().forward(*given, return_dict=False)

    @contextmanager
    def cache_context(self, name: str, step: int | None = None, chunk: int | None = None) -> Iterator[None]:
        self.heard = (name, step, chunk)
        yield


@pytest.fixture
def network() -> Streaming:
    network: Streaming = tiny.pipeline().transformer
    network.__class__ = Streaming
    return network


@pytest.fixture
def plan(network: Streaming) -> Plan:
    return make_plan(network)


def answer(network: Streaming, plan: Plan, chunk: int, step: int, text: str = "text", clip: int = 0) -> Tensor:
    """One call, with the noise of this chunk and step, and as many past keys as there are chunks."""
    noise = torch.randn(1, 16, 48, generator=torch.Generator().manual_seed(1000 * clip + 100 * chunk + step))
    time = torch.full((1,), plan.section.grid.timesteps[step])
    found: Tensor = network(
        hidden_states=noise,
        encoder_hidden_states=WORDS[text],
        pooled_projections=torch.zeros(1, 24),
        timestep=time,
        img_ids=torch.zeros(16, 3),
        txt_ids=torch.zeros(2, 3),
        kv_cache={"keys": torch.zeros(1, 16 * (step + chunk), 4)},
    )[0]
    return found


Order = Sequence[tuple[int, int]]
"""Chunk and step of each call."""

ALONE: Order = [(chunk, step) for chunk in range(3) for step in range(STEPS)]
STAGGERED: Order = [(c, i - 3 * c) for i in range(STEPS + 6) for c in range(3) if 0 <= i - 3 * c < STEPS]


def play(network: Streaming, plan: Plan, order: Order, clip: int = 0, **texts: str) -> dict[tuple[int, int], Tensor]:
    """Answers by chunk and step; ``c1="other"`` gives chunk 1 another prompt."""
    found = {}
    for chunk, step in order:
        with network.cache_context("cond", step=step, chunk=chunk):
            found[chunk, step] = answer(network, plan, chunk, step, texts.get(f"c{chunk}", "text"), clip)
    return found


def same(one: dict[tuple[int, int], Tensor], other: dict[tuple[int, int], Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_chunks_may_be_made_one_after_the_other_or_staggered(network: Streaming, plan: Plan) -> None:
    with apply_plan(network, plan, "error") as session:
        alone = play(network, plan, ALONE)
        assert (session.report().computed, session.report().steps) == (12, 3 * STEPS)
        assert same(play(network, plan, STAGGERED), alone)
        assert (session.report().computed, session.report().steps) == (12, 3 * STEPS)
        assert sorted(session.report().streams) == [("", "cond", chunk, 0) for chunk in range(3)]
        assert network.heard == ("cond", STEPS - 1, 2)
    full = play(network, plan, ALONE)
    assert all(torch.equal(full[0, step], alone[0, step]) for step in (0, 1, 4, 8))
    assert not torch.equal(full[0, 2], alone[0, 2])


def test_a_caller_says_the_chunk_where_no_context_does(network: Streaming, plan: Plan) -> None:
    with apply_plan(network, plan, "error") as session:
        told = play(network, plan, STAGGERED)
        session.reset()
        found = {}
        for chunk, step in STAGGERED:
            with session.at(chunk=chunk, branch="cond"):  # the steps are told by their times
                found[chunk, step] = answer(network, plan, chunk, step)
        assert same(found, told)
        told_so = pytest.raises(ClockError, match="expected the number of a chunk, a whole one from 0 on, got -1")
        with told_so, session.at(chunk=-1):
            pass


def test_a_chunk_that_waits_is_computed_until_it_begins(network: Streaming, plan: Plan) -> None:
    """A staggered window calls the chunks to come at their first step, again and again."""
    waiting: Order = [(c, max(0, i - 3 * c)) for i in range(STEPS + 6) for c in range(3) if i - 3 * c < STEPS]
    with apply_plan(network, plan, "error") as session:
        assert same(play(network, plan, waiting), play(network, plan, STAGGERED))
        assert (session.report().computed, session.report().steps) == (12, 3 * STEPS)


def test_nothing_is_kept_from_clip_to_clip(network: Streaming, plan: Plan) -> None:
    with apply_plan(network, plan, "error") as session:
        fresh = play(network, plan, STAGGERED[:20], clip=1)
        session.reset()
        play(network, plan, STAGGERED[:-4])  # cancelled
        again = play(network, plan, STAGGERED[:20], clip=1)
        assert same(again, fresh)
        assert session.report().steps == 20
        play(network, plan, ALONE[:STEPS])
        assert list(session.report().streams) == [("", "cond", 0, 0)]


def test_a_cancelled_clip_is_gone_on_with(network: Streaming, plan: Plan) -> None:
    with apply_plan(network, plan, "error"):
        whole = play(network, plan, STAGGERED)
        first = play(network, plan, STAGGERED[:17])
        assert same(first | play(network, plan, STAGGERED[17:]), whole)
    with apply_plan(network, plan) as session:
        with pytest.warns(PlanMismatchWarning, match="began at step 5"):
            full = play(network, plan, [(1, 5), (1, 6)])  # by another process, which has no features
        assert session.report().computed == 2
    assert same(full, play(network, plan, [(1, 5), (1, 6)]))


def test_a_prompt_may_change_between_chunks(network: Streaming, plan: Plan) -> None:
    with apply_plan(network, plan, "error"):
        plain, other = (
            play(network, plan, STAGGERED),
            play(network, plan, STAGGERED, c0="other", c1="other", c2="other"),
        )
        mixed = play(network, plan, STAGGERED, c1="other")
    assert same(mixed, {key: (other if key[0] == 1 else plain)[key] for key in plain})


def test_a_policy_is_asked_for_each_chunk(network: Streaming, plan: Plan) -> None:
    careful = changed(plan, policy=CarefulEnd(steps=2).spec(max_computed=6))
    with apply_plan(network, careful, "error") as session:
        play(network, plan, STAGGERED)
        assert [count.computed for count in session.report().streams.values()] == [6, 6, 6]
