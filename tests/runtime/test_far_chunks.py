"""AnyFlow's network, which is called for one chunk at a time and handed keys and values, through its own pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AnyFlowFARPipeline, AnyFlowFARTransformer3DModel, FlowMapEulerDiscreteScheduler
from diffusers.models.transformers import transformer_anyflow_far
from plans import alike
from torch import Tensor

from hyca_calib.pipelines.workload import Job
from hyca_calib.trace.recorder import Recorder
from hyca_runtime import Plan, Session, apply_plan
from hyca_runtime.chunking import Chunking
from hyca_runtime.errors import AttachError, PlanMismatchError
from hyca_runtime.fingerprint import config_digest
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan_facts import ModelFingerprint, TimeGrid
from hyca_runtime.point import parse_point
from hyca_runtime.policies import ChunkChange
from hyca_runtime.schedule import FEATURE, Schedule
from hyca_runtime.solvers import Newton
from hyca_runtime.streaming.retention import All, Important, Packed, Retention

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")

STEPS, PARTITION = 6, (1, 2, 2, 2, 2)
FRAMES, SITES = 2, 4
"""Of a chunk, and tokens of a frame."""


@pytest.fixture
def pipe() -> AnyFlowFARPipeline:
    torch.manual_seed(0)
    network = AnyFlowFARTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16, freq_dim=16,
        ffn_dim=32, num_layers=2, full_chunk_limit=4, chunk_partition=PARTITION, rope_max_seq_len=64,
    )  # fmt: skip
    pipe = AnyFlowFARPipeline(None, None, network.eval(), None, FlowMapEulerDiscreteScheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def film(pipe: AnyFlowFARPipeline, seed: int = 0, **options: Any) -> Tensor:
    """The latents of a clip."""
    given: dict[str, Any] = {
        "prompt_embeds": torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(100)),
        "height": 32,
        "width": 32,
        "num_frames": 4 * (sum(PARTITION) - 1) + 1,
        "num_inference_steps": STEPS,
        "guidance_scale": 1.0,
        "generator": torch.Generator().manual_seed(seed),
        "output_type": "latent",
        "return_dict": False,
    }
    latents: Tensor = pipe(**given | options)[0]
    return latents


def section(
    pipe: AnyFlowFARPipeline, computed: Sequence[int] = range(STEPS), keys: Retention | None = None, **fields: Any
) -> NetworkPlan:
    pipe.scheduler.set_timesteps(STEPS)
    times, module = tuple(pipe.scheduler.timesteps.tolist()), pipe.transformer
    return NetworkPlan(
        model=ModelFingerprint(transformer=type(module).__name__, config_digest=config_digest(module)),
        grid=TimeGrid(
            scheduler=type(pipe.scheduler).__name__,
            timesteps=times,
            axis="step",
            axis_times=tuple(np.linspace(1.0, 1.0 / STEPS, STEPS).tolist()),
            scheduler_timesteps=times,
        ),
        points={FEATURE: alike("trunk", 24, Newton(1))},
        schedule=Schedule.from_steps(STEPS, computed),
        chunks=None if keys is None else Chunking(frames=FRAMES, keys=keys.spec()),
        **fields,
    )


def plan(pipe: AnyFlowFARPipeline, computed: Sequence[int] = range(STEPS), keys: Retention | None = None) -> Plan:
    return Plan(name="far", sections=(section(pipe, computed, keys),))


def computed(session: Session) -> list[int]:
    """Computed calls of each chunk."""
    streams = session.report().streams
    return [streams[stream].computed for stream in sorted(streams, key=lambda of: of[2])]


def test_nothing_is_changed_where_all_is_computed(pipe: AnyFlowFARPipeline) -> None:
    full = film(pipe)
    with apply_plan(pipe, plan(pipe), "error") as session:
        assert torch.equal(film(pipe), full)
        assert computed(session) == [STEPS] * len(PARTITION)
    assert torch.equal(film(pipe), full)


def test_chunks_are_told_by_the_cache_and_each_has_its_own_past(pipe: AnyFlowFARPipeline) -> None:
    full, steps = film(pipe), (0, 1, 3)
    with apply_plan(pipe, plan(pipe, steps), "error") as session:
        short = film(pipe)
        assert computed(session) == [len(steps)] * len(PARTITION)
        assert (session.report().computed, session.report().steps) == (15, STEPS * len(PARTITION))
        torch.testing.assert_close(film(pipe), short, rtol=0, atol=0)
    assert 0 < (short - full).abs().max() < 1


def test_a_caller_may_say_the_chunk(pipe: AnyFlowFARPipeline) -> None:
    with apply_plan(pipe, plan(pipe, (0, 1, 3)), "error") as session:
        told, inner = film(pipe), pipe.transformer.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            with session.at(chunk=len(kwargs["chunk_partition"]) - 1, branch="cond"):
                return inner(*args, **kwargs)

        pipe.transformer.forward = forward
        assert torch.equal(film(pipe), told)
        assert sorted(stream[1:3] for stream in session.report().streams) == [("cond", i) for i in range(5)]


def test_the_first_chunk_may_follow_a_section_of_its_own(pipe: AnyFlowFARPipeline) -> None:
    both = section(pipe), section(pipe, (0, 1, 3), from_chunk=1)
    with apply_plan(pipe, Plan(name="far", sections=both), "error") as session:
        film(pipe)
        assert computed(session) == [STEPS, 3, 3, 3, 3]


def test_each_chunk_sums_its_own_changes(pipe: AnyFlowFARPipeline) -> None:
    full, counts = film(pipe), list[list[int]]()
    for threshold in (0.0, 0.3, 1.0):
        policy = ChunkChange(threshold=threshold, warmup=2, probe="latents").spec()
        with apply_plan(pipe, Plan(name="far", sections=(section(pipe, (0, 1), policy=policy),)), "error") as session:
            assert threshold or torch.equal(film(pipe), full)
            film(pipe)
            counts.append(computed(session))
    assert counts[0] == [STEPS] * len(PARTITION)
    assert counts[2] == [3] * len(PARTITION)  # the first two, and the last
    assert len(set(counts[1])) > 1


def test_changes_of_an_embedding_that_takes_other_latents_are_refused(pipe: AnyFlowFARPipeline) -> None:
    policy = ChunkChange(threshold=0.3, warmup=2).spec()
    with (
        apply_plan(pipe, Plan(name="far", sections=(section(pipe, (0, 1), policy=policy),)), "error"),
        pytest.raises(AttachError, match=r"patch_embedding does not take them as they come.*look at \"latents\""),
    ):
        film(pipe)


def test_clips_leave_nothing_behind_and_go_on(pipe: AnyFlowFARPipeline) -> None:
    def cancel(_: Any, step: int, *__: Any) -> dict[str, Any]:
        calls.append(step)
        if len(calls) == 2 * STEPS + 3:
            raise InterruptedError
        return {}

    calls, context = list[int](), film(pipe)[:, :, :3].transpose(1, 2)
    with apply_plan(pipe, plan(pipe, (0, 1, 3)), "error") as session:
        alone = film(pipe, seed=1)
        session.reset()
        resumed = film(pipe, seed=1, video_latents=context)  # from the third chunk on
        assert computed(session) == [3, 3, 3]
        session.reset()
        with pytest.raises(InterruptedError):
            film(pipe, callback_on_step_end=cancel)
        assert torch.equal(film(pipe, seed=1, video_latents=context), resumed)
        calls.clear()
        with pytest.raises(InterruptedError):
            film(pipe, callback_on_step_end=cancel)
        assert torch.equal(film(pipe, seed=1), alone)


def test_both_halves_of_guidance(pipe: AnyFlowFARPipeline) -> None:
    guided: dict[str, Any] = {"guidance_scale": 3.0, "negative_prompt_embeds": torch.zeros(1, 5, 16)}
    full = film(pipe, **guided)
    with apply_plan(pipe, plan(pipe), "error"):
        assert torch.equal(film(pipe, **guided), full)
    with apply_plan(pipe, plan(pipe, (0, 1, 3), Packed(budget=1, window=2)), "error"):
        assert 0 < (film(pipe, **guided) - full).abs().max() < 2


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Keys beside values ``(token, head, 2 * channel)`` that every attention to the past sees."""
    found, inner = list[Tensor](), transformer_anyflow_far.dispatch_attention_fn

    def dispatch(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Any:
        if options.get("attn_mask") is None and query.shape[3] == 16:  # of the video, heads filled up to 16
            found.append(torch.cat([key, value], 3)[0])
        return inner(query, key, value, **options)

    monkeypatch.setattr(transformer_anyflow_far, "dispatch_attention_fn", dispatch)
    return found


class TestKeptKeys:
    @pytest.mark.parametrize("keys", [All(), Packed(budget=8, window=8), Important(budget=8)], ids=repr)
    def test_where_all_is_kept_nothing_changes(self, pipe: AnyFlowFARPipeline, keys: Retention) -> None:
        full = film(pipe)
        with apply_plan(pipe, plan(pipe, keys=keys), "error") as session:
            assert torch.equal(film(pipe), full)
            with session.following(None):
                assert torch.equal(film(pipe), full)
        assert torch.equal(film(pipe), full)

    @pytest.mark.parametrize(
        ("keys", "most"),
        [
            (Packed(budget=1, window=2, anchors=0), 1),
            (Important(budget=1, pool=1), 1),
            (Packed(0.5, 1, anchors=0), 0.5),
        ],
        ids=repr,
    )
    def test_fewer_are_attended_to(
        self, pipe: AnyFlowFARPipeline, keys: Retention, most: float, seen: list[Tensor]
    ) -> None:
        with apply_plan(pipe, plan(pipe, keys=keys), "error") as session:
            with session.following(None):
                film(pipe)
            whole = seen[::2]  # of the first layer
            seen.clear()
            film(pipe)
        assert len(whole) == len(seen[::2]) == STEPS * len(PARTITION)
        at = 3 * STEPS  # the first step of the fourth chunk; three are whole in the cache, of one frame and two of two
        assert len(whole[at]) - len(seen[2 * at]) == (1 + 2 + 2) * SITES - round(most * FRAMES * SITES)
        assert torch.equal(whole[0], seen[0])

    @pytest.mark.parametrize("keys", [Packed(budget=1, window=2, anchors=0), Important(budget=1, pool=1)], ids=repr)
    def test_kept_keys_keep_their_rotation(
        self, pipe: AnyFlowFARPipeline, keys: Retention, seen: list[Tensor], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each key and value of a call that sees fewer is one of those that it would have seen."""
        calls, network = list[tuple[Any, Any]](), pipe.transformer
        forward = network.forward

        def noting(*args: Any, **kwargs: Any) -> Any:
            calls.append((args, kwargs))
            return forward(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(network, "forward", noting)
            film(pipe)
        wanted = (c for c in calls if len(c[1]["chunk_partition"]) == 4 and not c[1]["kv_cache_flag"]["is_cache_step"])
        args, kwargs = next(wanted)
        seen.clear()
        with torch.no_grad():
            network(*args, **kwargs)
            with apply_plan(pipe, plan(pipe, keys=keys), "error"):
                network(*args, **kwargs)
        whole, fewer = seen[0].double(), seen[2].double()
        assert len(fewer) < len(whole)
        for head in range(2):
            assert torch.cdist(fewer[:, head], whole[:, head]).amin(1).max() < 1e-5

    def test_chunks_of_other_lengths(self, pipe: AnyFlowFARPipeline) -> None:
        with (
            apply_plan(pipe, plan(pipe, keys=Packed(1, 2)), "error"),
            pytest.raises(PlanMismatchError, match="expected a partition of equal chunks"),
        ):
            film(pipe, chunk_partition=[2, 1, 2, 2, 2])


def test_it_is_traced_chunk_behind_chunk(pipe: AnyFlowFARPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though a chunk of one frame has a time for each frame."""
    monkeypatch.setattr("hyca_calib.trace.recorder.sample_latents", lambda *_: film(pipe))
    with Recorder(pipe, parse_point("trunk"), 1000) as recorder:
        found = recorder.record([Job(0, "fit", 0, {})], STEPS, 0)
    assert found.chunks is None
    assert len(found.timesteps) == STEPS
    assert found.points["trunk"].features[0][0][0].shape[1] == sum(PARTITION) * SITES
