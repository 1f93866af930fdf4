"""SkyReels-V2's own pipeline with diffusion forcing, chunk by chunk: exact where everything is computed and kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
import streaming
import torch
from diffusers import SkyReelsV2DiffusionForcingPipeline as Pipe
from diffusers import SkyReelsV2Pipeline, WanPipeline, WanTransformer3DModel
from plans import changed
from streaming import CHUNKS, EVERYTHING, FRAMES, STEPS, TOKENS, chunk_plan, film
from torch import Tensor

from hyca_runtime import AttachError, Plan, PlanError, Session, apply_plan
from hyca_runtime.chunk_calls import ChunkCalls
from hyca_runtime.compiled_plan import CompiledPlan
from hyca_runtime.errors import PlanMismatchError, PlanMismatchWarning
from hyca_runtime.plan import parse_plan
from hyca_runtime.policies import ChunkChange
from hyca_runtime.solvers import Hold, Increment
from hyca_runtime.streaming.decay import DecayMeter
from hyca_runtime.streaming.key_store import KeyStore
from hyca_runtime.streaming.retention import All, Important, Packed, Retention


@pytest.fixture
def pipe() -> Pipe:
    return streaming.pipeline()


def frames_of(pipe: Pipe, **options: Any) -> list[Tensor]:
    """The latents after every iteration."""
    seen = list[Tensor]()

    def keep(_: Any, step: int, time: Tensor, given: dict[str, Tensor]) -> dict[str, Any]:
        del step, time
        seen.append(given["latents"].clone())
        return {}

    film(pipe, callback_on_step_end=keep, **options)
    return seen


def farthest(one: list[Tensor], other: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


def calls_of(session: Session) -> ChunkCalls:
    calls = session._executors["transformer"].chunks
    assert isinstance(calls, ChunkCalls)
    return calls


def stores(session: Session) -> dict[str, KeyStore]:
    return {branch: video.store for (_, branch), video in calls_of(session).videos.items()}


def computed(session: Session) -> list[tuple[int, ...]]:
    """The computed steps of each chunk."""
    return [lane.computed_at for _, lane in session._executors["transformer"].lanes_of(own=False)]


@contextmanager
def counting(pipe: Pipe) -> Iterator[list[int]]:
    """The tokens of every call of the first block."""
    calls = list[int]()
    hook = pipe.transformer.blocks[0].register_forward_hook(lambda _, given, __: calls.append(given[0].shape[1]))
    yield calls
    hook.remove()


class TestExactness:
    """What is computed chunk by chunk is what is computed at once."""

    @pytest.mark.parametrize("options", [{}, {"ar_step": 3}, {"ar_step": STEPS}, {"guidance_scale": 1.0}], ids=str)
    def test_every_iteration(self, pipe: Pipe, options: dict[str, Any]) -> None:
        full = frames_of(pipe, **options)
        with apply_plan(pipe, chunk_plan(pipe, lag=options.get("ar_step", 2)), "error") as session:
            assert farthest(frames_of(pipe, **options), full) < 1e-12
            assert computed(session) == [tuple(range(STEPS))] * CHUNKS
        assert farthest(frames_of(pipe, **options), full) == 0

    def test_chunks_that_say_themselves_when_they_begin(self, pipe: Pipe) -> None:
        full = frames_of(pipe)
        with apply_plan(pipe, chunk_plan(pipe, lag=0), "error"):
            assert farthest(frames_of(pipe), full) < 1e-12

    def test_single_precision(self) -> None:
        pipe = streaming.pipeline(torch.float32)
        full = frames_of(pipe)
        with apply_plan(pipe, chunk_plan(pipe), "error"):
            assert farthest(frames_of(pipe), full) < 1e-5

    @pytest.mark.parametrize("noisy", [0, 20])
    def test_a_long_video_in_overlapping_windows(self, pipe: Pipe, noisy: int) -> None:
        """Its later windows begin with finished chunks, of the window before; perhaps with noise, anew in each step."""
        window: dict[str, Any] = {"num_frames": 4 * 15 + 1, "base_num_frames": 4 * 7 + 1, "overlap_history": 4 * 3 + 1}

        def drawn() -> Tensor:
            torch.manual_seed(3)
            return film(pipe, addnoise_condition=noisy, **window)

        full = drawn()
        with apply_plan(pipe, chunk_plan(pipe), "error"):
            assert (drawn() - full).abs().max() < 1e-12

    def test_a_prompt_that_changes_on_the_way(self, pipe: Pipe) -> None:
        other = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

        def change(_: Any, step: int, *__: Any) -> dict[str, Tensor]:
            return {"prompt_embeds": other} if step == 7 else {}

        given: dict[str, Any] = {
            "callback_on_step_end": change,
            "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"],
        }
        full = film(pipe, **given)
        assert (full - film(pipe)).abs().max() > 1e-3
        with apply_plan(pipe, chunk_plan(pipe), "error"):
            assert (film(pipe, **given) - full).abs().max() < 1e-12

    @pytest.mark.parametrize("retention", [Important(budget=CHUNKS), Packed(budget=CHUNKS, window=CHUNKS)], ids=repr)
    def test_a_budget_that_holds_all(self, pipe: Pipe, retention: Retention) -> None:
        full = frames_of(pipe)
        with apply_plan(pipe, chunk_plan(pipe, retention=retention), "error"):
            assert farthest(frames_of(pipe), full) < 1e-12


def test_finished_and_waiting_chunks_do_not_run(pipe: Pipe) -> None:
    iterations = len(frames_of(pipe))
    with apply_plan(pipe, chunk_plan(pipe), "error"), counting(pipe) as calls:
        film(pipe)
    assert calls == [TOKENS] * 2 * (CHUNKS * STEPS + CHUNKS - 1)  # and each but the last once more, without noise
    assert len(calls) < 2 * CHUNKS * iterations


def test_chunks_are_forecast_each_on_its_own(pipe: Pipe) -> None:
    with apply_plan(pipe, chunk_plan(pipe, computed=(0, 1, 3)), "error") as session, counting(pipe) as calls:
        film(pipe)
        assert computed(session) == [(0, 1, 3)] * CHUNKS
        assert (session.report().computed, session.report().steps) == (3 * CHUNKS, STEPS * CHUNKS)
    assert len(calls) == 2 * (3 * CHUNKS + CHUNKS - 1)


class TestClips:
    def test_nothing_goes_from_one_to_the_next(self, pipe: Pipe) -> None:
        plan = chunk_plan(pipe, computed=(0, 1, 3))
        with apply_plan(pipe, plan, "error"):
            alone = film(pipe, seed=1)
        with apply_plan(pipe, plan, "error") as session:
            film(pipe, chunks=CHUNKS + 1)
            assert torch.equal(film(pipe, seed=1), alone)
            assert len(computed(session)) == CHUNKS

    @pytest.mark.parametrize("when", [3, 9])
    def test_one_that_is_cancelled_leaves_nothing(self, pipe: Pipe, when: int) -> None:
        def cancel(_: Any, step: int, *__: Any) -> dict[str, Any]:
            if step == when:
                raise InterruptedError
            return {}

        with apply_plan(pipe, chunk_plan(pipe, computed=(0, 1, 3)), "error") as session:
            alone = film(pipe, seed=1)
            session.reset()
            assert stores(session) == {}
            with pytest.raises(InterruptedError):
                film(pipe, callback_on_step_end=cancel)
            assert torch.equal(film(pipe, seed=1), alone)

    @pytest.mark.parametrize("retention", [Important(budget=1, pool=1), Packed(budget=1, window=2)], ids=repr)
    def test_one_that_goes_on_from_the_same_beginning(self, pipe: Pipe, retention: Retention) -> None:
        """Its first chunks are finished, and the same; what was thinned for the end of the other is not taken up."""
        prepare, start = pipe.prepare_latents, film(pipe)[:, :, : 2 * FRAMES]

        def begun(*args: Any, **kwargs: Any) -> Any:
            noise, frames, _, _ = prepare(*args, **kwargs)
            return noise, frames, start, start.shape[2]

        pipe.prepare_latents = begun
        words = torch.randn(1, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(100))
        given: dict[str, Any] = {"prompt_embeds": words, "guidance_scale": 1.0}
        with apply_plan(pipe, chunk_plan(pipe, (0, 1, 3), retention=retention), "error") as session:
            alone = film(pipe, seed=1, chunks=6, **given)
            session.reset()
            film(pipe, chunks=6, **given)
            assert torch.equal(film(pipe, seed=1, chunks=6, **given), alone)

    def test_other_plans_and_none_may_be_followed_in_turn(self, pipe: Pipe) -> None:
        full, plan = film(pipe), chunk_plan(pipe, computed=(0, 1, 3))
        with apply_plan(pipe, chunk_plan(pipe), "error") as session:
            assert (film(pipe) - full).abs().max() < 1e-12
            with session.following(plan):
                assert (film(pipe) - full).abs().max() > 1e-6
            with session.following(None):
                assert torch.equal(film(pipe), full)
            with pytest.raises(PlanMismatchError, match="other chunks"), session.following(chunk_plan(pipe, lag=1)):
                pass

    def test_threads_forget_their_own(self, pipe: Pipe) -> None:
        with apply_plan(pipe, chunk_plan(pipe), "error") as session:
            film(pipe)
            thread = threading.Thread(target=session.reset, kwargs={"own": True})
            thread.start()
            thread.join()
            assert len(stores(session)) == 2
            session.reset()
            assert stores(session) == {}


class TestFlowCache:
    def test_no_threshold_computes_all(self, pipe: Pipe) -> None:
        full = frames_of(pipe)
        with apply_plan(pipe, chunk_plan(pipe, policy=ChunkChange(0.0, warmup=1).spec()), "error"):
            assert farthest(frames_of(pipe), full) < 1e-12

    @pytest.mark.parametrize("probe", ["latents", "embedding"])
    def test_each_chunk_sums_its_own_changes(self, pipe: Pipe, probe: str) -> None:
        """Between two computed steps the sum stays below the threshold, and reaches it where one computes."""
        threshold, looked = 0.4, dict[int, list[Tensor]]()
        policy = ChunkChange(threshold, warmup=2, probe=probe, last=False)  # type: ignore[arg-type]
        with apply_plan(pipe, chunk_plan(pipe, policy=policy.spec()), "error") as session:
            executor = session._executors["transformer"]
            inner = executor.decisions._arrival.of

            def of(looks: str, args: Any, kwargs: Any) -> Tensor | None:
                seen: Tensor | None = inner(looks, args, kwargs)
                if executor._context.said.branch == "cond" and seen is not None:
                    looked.setdefault(executor._context.said.chunk or 0, []).append(seen.clone())
                return seen

            executor.decisions._arrival.of = of  # type: ignore[method-assign]
            film(pipe, guidance_scale=1.0)
            found = computed(session)
        for chunk, steps in enumerate(found):
            seen, total, expected = looked[chunk], 0.0, list[int]()
            assert len(seen) == STEPS
            for step in range(STEPS):
                change = (seen[step] - seen[step - 1]).abs().mean() / seen[step - 1].abs().mean() if step else 0.0
                total += float(change)
                if step < 2 or total >= threshold:
                    expected.append(step)
                    total = 0.0
            assert steps == tuple(expected)
        assert any(len(steps) < STEPS for steps in found)

    def test_a_chunk_does_not_see_another(self, pipe: Pipe) -> None:
        prepare = pipe.prepare_latents

        def louder(*args: Any, **kwargs: Any) -> Any:
            noise, *rest = prepare(*args, **kwargs)
            noise[:, :, 2 * FRAMES : 3 * FRAMES] *= 9
            return noise, *rest

        with apply_plan(
            pipe, chunk_plan(pipe, policy=ChunkChange(0.1, warmup=1, last=False).spec()), "error"
        ) as session:
            film(pipe)
            before = computed(session)
            pipe.prepare_latents = louder
            film(pipe)
            after = computed(session)
        assert after[:2] == before[:2]
        assert after[2] != before[2]

    def test_decisions_are_what_runs(self, pipe: Pipe) -> None:
        plan = chunk_plan(pipe, policy=ChunkChange(0.5, warmup=1, last=False).spec(max_computed=3))
        with apply_plan(pipe, plan, "error") as session, counting(pipe) as calls:
            film(pipe, guidance_scale=1.0)
            steps = computed(session)
        assert len(calls) == sum(map(len, steps)) + CHUNKS - 1
        assert max(map(len, steps)) <= 3

    @pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
    def test_a_straight_path(self) -> None:
        """Reusing the velocity is exact, reusing the move falls short by the ratio of the moves."""
        pipe = streaming.pipeline(order=1)
        with torch.no_grad():
            pipe.transformer.proj_out.weight.zero_()
        full = film(pipe, guidance_scale=1.0)
        sigmas = [float(sigma) for sigma in pipe.scheduler.sigmas]
        moves = tuple(later - now for now, later in pairwise(sigmas))
        with apply_plan(pipe, chunk_plan(pipe, (0, 1, 3), point="output", solver=Hold()), "error"):
            assert (film(pipe, guidance_scale=1.0) - full).abs().max() < 1e-6
        with apply_plan(pipe, chunk_plan(pipe, (0, 1, 3), point="output", solver=Increment(moves)), "error"):
            short = film(pipe, guidance_scale=1.0) - full
        made = sum(moves[max(c for c in (0, 1, 3) if c <= step)] for step in range(STEPS))
        bias = pipe.transformer.proj_out.bias.reshape(2, 2, 4)[0, 0].float()
        assert torch.allclose(short[0, :, 0, 0, 0], (made - sum(moves)) * bias, atol=1e-5)


class TestKeptKeys:
    def test_important_keys_stay_within_the_budget(self, pipe: Pipe) -> None:
        full, sizes = film(pipe, chunks=6), list[int]()
        with apply_plan(pipe, chunk_plan(pipe, retention=Important(budget=1, pool=3)), "error") as session:
            session.observe(lambda layer, chunk, queries, seen: sizes.append(seen.tokens))
            got = film(pipe, chunks=6)
            assert all(store.finished_tokens <= 2 * TOKENS for store in stores(session).values())
        live = 1 + -(-STEPS // streaming.LAG)  # of chunks under way
        assert max(sizes) <= (1 + live) * TOKENS
        assert 0 < (got - full).abs().max() < 1

    def test_packed_keys_take_the_same_room_however_long(self, pipe: Pipe) -> None:
        packed = Packed(budget=1.5, window=3)
        with apply_plan(pipe, chunk_plan(pipe, retention=packed), "error") as session:
            sizes = []
            for chunks in (8, 12):
                film(pipe, chunks=chunks, ar_step=STEPS)
                sizes.append({branch: store.nbytes for branch, store in stores(session).items()})
                report = session.report()
                assert report.key_bytes == session.key_bytes == sum(sizes[-1].values())
                assert f"MiB held, {report.key_bytes / 2**20:.2f} MiB of keys and values" in str(report)
                anchor = stores(session)["cond"].layers[1].past[0].segment
                assert anchor.tokens == TOKENS
        assert sizes[0] == sizes[1]

    def test_a_shift_of_all_that_is_kept_changes_nothing(self, pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without anchors, keys that are told to be earlier, and queries, too, attend as they would have."""
        plan = chunk_plan(pipe, retention=Packed(budget=1, window=2, anchors=0))
        with apply_plan(pipe, plan, "error") as session:
            rebased = film(pipe, chunks=6)
            assert stores(session)["cond"].gone == 3 * FRAMES
        monkeypatch.setattr(Packed, "dropped", lambda *_: 0)
        with apply_plan(pipe, plan, "error") as session:
            assert (film(pipe, chunks=6) - rebased).abs().max() < 1e-5  # the network's own tables are of float32
            assert stores(session)["cond"].gone == 0

    def test_moved_keys_are_those_of_the_time_they_are_moved_to(self, pipe: Pipe) -> None:
        session = apply_plan(pipe, chunk_plan(pipe))
        attention, rope = calls_of(session).attention, pipe.transformer.rope
        keys = torch.randn(1, 2, TOKENS, 12, dtype=torch.float64)
        cos, sin = rope(torch.zeros(1, 4, 2 * FRAMES, 4, 4))
        cos, sin = (table.transpose(1, 2).double() for table in (cos, sin))

        def turned(place: int) -> Tensor:
            own = slice(place * TOKENS, (place + 1) * TOKENS)
            first, second, c, s = keys[..., 0::2], keys[..., 1::2], cos[:, :, own, 0::2], sin[:, :, own, 1::2]
            return torch.stack([first * c - second * s, first * s + second * c], -1).flatten(-2)

        assert (attention.rotation.moved(turned(0), FRAMES) - turned(1)).abs().max() < 1e-6
        session.remove()

    def test_attention_is_measured_by_layer(self, pipe: Pipe) -> None:
        meter = DecayMeter()
        with apply_plan(pipe, chunk_plan(pipe), "error") as session:
            session.observe(meter)
            film(pipe)
        assert sorted(meter.shares) == [0, 1]
        for layer in range(2):
            assert len(meter.means(layer)) == CHUNKS
            assert all(sum(row) == pytest.approx(1) for row in meter.shares[layer])
            assert 0 < meter.decay(layer) < 10


class TestRefusals:
    def test_attention_that_looks_ahead(self, pipe: Pipe) -> None:
        refused = pytest.raises(PlanMismatchError, match=r"causal over blocks of 1 .* causal_block_size=2")
        with apply_plan(pipe, chunk_plan(pipe)), refused:
            film(pipe, causal_block_size=1, ar_step=0)

    def test_fused_projections(self, pipe: Pipe) -> None:
        plan = chunk_plan(pipe)
        pipe.transformer.fuse_qkv_projections()
        with pytest.raises(AttachError, match="fused"):
            apply_plan(pipe, plan)

    @pytest.mark.parametrize(
        ("chunks", "fault"),
        [
            ({"frames": 0}, "frames"),
            ({"frames": 2, "keys": {"name": "importance"}}, "unknown retention"),
            ({"frames": 2, "keys": {"name": "packed", "configuration": {"budget": 1}}}, "does not take"),
        ],
    )
    def test_plans_that_make_no_sense(self, pipe: Pipe, chunks: dict[str, Any], fault: str) -> None:
        content = chunk_plan(pipe).model_dump(mode="json")
        content["sections"][0]["chunks"] = chunks
        with pytest.raises(PlanError, match=fault):
            parse_plan(content, "test")

    def test_a_plan_is_written_and_read(self, pipe: Pipe) -> None:
        plan = chunk_plan(pipe, retention=Packed(budget=1.5, window=3, shares=(0.5, 0.3, 0.2)))
        assert parse_plan(plan.model_dump(mode="json"), "test") == plan
        assert isinstance(plan, Plan)


class TestChunksWithPlansOfTheirOwn:
    """Sections for some of the chunks."""

    @staticmethod
    def plan(pipe: Pipe, *starts: tuple[int | None, tuple[int, ...]], retention: Retention | None = EVERYTHING) -> Plan:
        """Sections from a chunk on, each with the steps that it computes."""
        parts = [(start, chunk_plan(pipe, computed, retention).section) for start, computed in starts]
        sections = tuple(section.model_copy(update={"from_chunk": start}) for start, section in parts)
        return Plan(name="by chunk", sections=sections)

    def test_each_chunk_follows_its_own(self, pipe: Pipe) -> None:
        plan = self.plan(pipe, (None, (0, 1, 2, 3, 4, 5)), (1, (0, 2, 4)), (3, (0, 3)))
        alone = [film(pipe), self.of(pipe, chunk_plan(pipe, (0, 2, 4)))]
        with apply_plan(pipe, parse_plan(plan.model_dump(mode="json"), "test"), "error") as session:
            drawn = film(pipe)
            assert computed(session) == [tuple(range(STEPS)), (0, 2, 4), (0, 2, 4), (0, 3)]
            assert (session.report().computed, session.report().steps) == (6 + 3 + 3 + 2, CHUNKS * STEPS)
            assert [section.from_chunk for section in session.report().followed] == [None, 1, 3]
        assert (drawn - alone[0])[:, :, :FRAMES].abs().max() < 1e-12
        assert (drawn - alone[0])[:, :, FRAMES:].abs().max() > 1e-4
        assert not torch.equal(drawn[:, :, FRAMES : 2 * FRAMES], alone[1][:, :, FRAMES : 2 * FRAMES])

    @staticmethod
    def of(pipe: Pipe, plan: Plan) -> Tensor:
        with apply_plan(pipe, plan, "error"):
            return film(pipe)

    def test_equal_ones_are_one(self, pipe: Pipe) -> None:
        for retention in (All(), None):
            two = self.plan(pipe, (None, (0, 2, 4)), (2, (0, 2, 4)), retention=retention)
            one = chunk_plan(pipe, (0, 2, 4), retention)
            assert torch.equal(self.of(pipe, two), self.of(pipe, one))

    def test_chunks_may_be_said(self, pipe: Pipe) -> None:
        plan = self.plan(pipe, (None, (0, 1, 2, 3, 4, 5)), (2, (0, 3)))
        compiled = CompiledPlan(plan.name, plan.sections, "compute")
        found = [compiled.at_chunk(chunk).sections[0].schedule.computed_steps for chunk in (None, 0, 1, 2, 7)]
        assert found == [tuple(range(STEPS))] * 3 + [(0, 3)] * 2

    def test_earlier_chunks_need_one(self, pipe: Pipe) -> None:
        with pytest.raises(ValueError, match="from chunk 1 on; expected another"):
            self.plan(pipe, (1, (0, 2)))
        with pytest.raises(ValueError, match="same timesteps"):
            self.plan(pipe, (None, (0, 2)), (1, (0, 2)), (1, (0, 3)))


def test_the_network_is_restored(pipe: Pipe) -> None:
    layer, rope = pipe.transformer.blocks[0].attn1, pipe.transformer.rope
    processor = layer.processor
    apply_plan(pipe, chunk_plan(pipe)).remove()
    assert layer.processor is processor
    assert "forward" not in vars(rope)


class TestChunksThatShareACall:
    """Computed if one is to be, else forecast each from its own past, along the axis of the tokens."""

    @pytest.mark.parametrize("options", [{}, {"causal_block_size": 1, "ar_step": 1}, {"ar_step": 0}], ids=str)
    def test_nothing_is_changed_where_all_is_computed(self, pipe: Pipe, options: dict[str, Any]) -> None:
        full, lag = frames_of(pipe, **options), options.get("ar_step", streaming.LAG)
        frames = options.get("causal_block_size", FRAMES)
        with apply_plan(pipe, chunk_plan(pipe, retention=None, lag=lag, frames=frames), "error") as session:
            assert farthest(frames_of(pipe, **options), full) == 0
            assert computed(session) == [tuple(range(STEPS))] * (FRAMES * CHUNKS // frames)

    @pytest.mark.parametrize("point", ["trunk", "trunk:residual", "output"])
    def test_chunks_in_step_are_forecast_as_a_whole_video_is(self, pipe: Pipe, point: str) -> None:
        plan = chunk_plan(pipe, (0, 1, 3), retention=None, point=point, lag=0)
        with apply_plan(pipe, plan, "error") as session:
            found = film(pipe, ar_step=0)
            assert (session.report().computed, session.report().steps) == (3 * CHUNKS, STEPS * CHUNKS)
        pipe.transformer.register_to_config(num_frame_per_block=FRAMES)
        with apply_plan(pipe, changed(plan, chunks=None), "error"):
            assert torch.equal(film(pipe, ar_step=0), found)

    def test_a_call_is_computed_if_one_chunk_of_it_is(self, pipe: Pipe) -> None:
        plan = chunk_plan(pipe, (0, 1, 4), retention=None)
        lagging = [
            {step - streaming.LAG * chunk for chunk in range(CHUNKS)} for step in range(STEPS + 3 * streaming.LAG)
        ]
        expected = [bool(steps & {0, 1, 4}) for steps in lagging]
        with apply_plan(pipe, plan, "error") as session, counting(pipe) as calls:
            found = film(pipe)
            assert len(calls) == 2 * sum(expected) < 2 * len(expected)
            for chunk, steps in enumerate(computed(session)):
                assert steps == tuple(step for step in range(STEPS) if expected[step + streaming.LAG * chunk])
            assert torch.equal(film(pipe), found)

    def test_each_has_a_past_of_its_own(self) -> None:
        """On a straight path the velocity of any step will do, at whatever step the others are."""
        pipe = streaming.pipeline()
        with torch.no_grad():
            pipe.transformer.proj_out.weight.zero_()
            pipe.transformer.proj_out.bias.normal_()
        full = film(pipe)
        with apply_plan(pipe, chunk_plan(pipe, (0, 4), retention=None, point="output"), "error"):
            assert (film(pipe) - full).abs().max() < 1e-5

    def test_policies_decide_for_each(self, pipe: Pipe) -> None:
        plan = chunk_plan(pipe, retention=None, policy=ChunkChange(0.6, warmup=1, last=False).spec())
        with apply_plan(pipe, plan, "error") as session, counting(pipe) as calls:
            film(pipe, guidance_scale=1.0)
            assert len(calls) < STEPS + 3 * streaming.LAG
            assert all(0 in steps for steps in computed(session))
        full = frames_of(pipe)
        plan = chunk_plan(pipe, retention=None, policy=ChunkChange(0.0, warmup=1).spec())
        with apply_plan(pipe, plan, "error"):
            assert farthest(frames_of(pipe), full) == 0

    def test_points_whose_blocks_run(self, pipe: Pipe) -> None:
        with pytest.raises(ValueError, match="no block may run on a predicted step"):
            chunk_plan(pipe, retention=None, point="behind:1")


@pytest.mark.parametrize("retention", [None, streaming.EVERYTHING], ids=["together", "apart"])
def test_one_time_for_all_frames(pipe: Pipe, retention: Retention | None) -> None:
    """The family's pipelines without diffusion forcing are served as if the plan said nothing of chunks."""
    if retention is None:
        plain = WanPipeline(None, None, None, pipe.scheduler, streaming.network(kind=WanTransformer3DModel))
    else:
        plain = SkyReelsV2Pipeline(None, None, pipe.transformer, None, pipe.scheduler)
        pipe.transformer.register_to_config(num_frame_per_block=FRAMES)
    plain.set_progress_bar_config(disable=True)
    plan = chunk_plan(plain, (0, 1, 3), retention=retention)
    with apply_plan(plain, changed(plan, chunks=None), "error"):
        expected = streaming.clip(plain)
    with apply_plan(plain, plan, "error") as session:
        assert torch.equal(streaming.clip(plain), expected)
        assert (session.report().computed, session.report().steps) == (3, STEPS)


class TestCallsThatAreChunks:
    """Wan's and SkyReels-V2's pipelines without forcing, called for one chunk after the other, as a caller says."""

    @pytest.fixture(params=[WanPipeline, SkyReelsV2Pipeline])
    def plain(self, pipe: Pipe, request: pytest.FixtureRequest) -> Any:
        if request.param is WanPipeline:
            made = WanPipeline(None, None, None, pipe.scheduler, streaming.network(kind=WanTransformer3DModel))
        else:
            made = SkyReelsV2Pipeline(None, None, pipe.transformer, None, pipe.scheduler)
        made.set_progress_bar_config(disable=True)
        return made

    @staticmethod
    def prompt(number: int) -> dict[str, Tensor]:
        return {"prompt_embeds": torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(number))}

    def test_prompts_switch_between_chunks_and_nothing_is_left(self, plain: Any) -> None:
        plan = changed(chunk_plan(plain, (0, 1, 3), retention=None, frames=1), chunks=None)
        with apply_plan(plain, plan, "error") as session:
            alone = []
            for number in range(3):
                alone.append(streaming.clip(plain, number, 1, **self.prompt(number)))
                session.reset()
            for _ in range(2):  # one video, then another
                for number in range(3):
                    with session.at(chunk=number):
                        assert torch.equal(streaming.clip(plain, number, 1, **self.prompt(number)), alone[number])
                assert computed(session) == [(0, 1, 3)] * 3

    def test_one_that_is_cancelled_is_taken_up(self, plain: Any) -> None:
        plan = changed(chunk_plan(plain, (0, 1, 3), retention=None, frames=1), chunks=None)

        def stop(_: Any, step: int, *__: Any) -> dict[str, Any]:
            if step == 2:
                raise KeyboardInterrupt
            return {}

        with apply_plan(plain, plan, "error") as session:
            with session.at(chunk=1):
                whole = streaming.clip(plain, 5, 1)
            with session.at(chunk=0):
                streaming.clip(plain, 4, 1)
            with session.at(chunk=1), pytest.raises(KeyboardInterrupt):
                streaming.clip(plain, 5, 1, callback_on_step_end=stop)
            with session.at(chunk=1):
                assert torch.equal(streaming.clip(plain, 5, 1), whole)
            assert computed(session) == [(0, 1, 3)] * 2


def test_networks_whose_attention_is_not_known() -> None:
    wan = streaming.network(kind=WanTransformer3DModel)
    plain = WanPipeline(None, None, None, streaming.pipeline().scheduler, wan)
    with pytest.raises(
        AttachError, match="know the attention of SkyReelsV2Transformer3DModel, got WanTransformer3DModel"
    ):
        apply_plan(plain, chunk_plan(plain))


def test_runs_of_more_steps_are_computed(pipe: Pipe) -> None:
    """No chunk of twice the steps is taken for one that waits or rests."""
    options = {"num_inference_steps": 2 * STEPS, "ar_step": 2 * streaming.LAG}
    full = frames_of(pipe, **options)
    for retention in (None, streaming.EVERYTHING):
        plan = chunk_plan(pipe, retention=retention)
        with apply_plan(pipe, plan), pytest.warns(PlanMismatchWarning, match="this run is computed in full"):
            found = frames_of(pipe, **options)
        assert farthest(found, full) < 1e-12
