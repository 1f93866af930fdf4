"""Peers act, are worth comparing with, and leave the pipeline as it was."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiTTransformer2DModel, EulerDiscreteScheduler, TaylorSeerCacheConfig

from hyca_calib.bench import Dot, Reference, Row, bench_peers, draw_front, margin, to_csv, to_markdown
from hyca_calib.bench import run as bench_run
from hyca_calib.commands import benching
from hyca_calib.commands.benching import BenchOptions
from hyca_calib.commands.tracing import TraceOptions
from hyca_calib.demo import demo_pipeline, demo_prompts
from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.demo.glyphs.pipeline import GlyphPipeline
from hyca_calib.demo.glyphs.train import build_scheduler
from hyca_calib.evaluate import Evaluation, Run, network_flops, run_method, run_untimed
from hyca_calib.peers import Peer, peers
from hyca_calib.peers.caches import cached
from hyca_calib.peers.layer_reuse import layer_changes, reused, smooth_schedule
from hyca_calib.peers.magnitude import magnitude_ratios
from hyca_calib.peers.noise_levels import Spacing
from hyca_calib.peers.samplers import sampled_by, sampler_peers, samplers
from hyca_calib.peers.score import Score, score, score_or_error
from hyca_calib.rollout import sample_images
from hyca_calib.workload import Workload
from hyca_runtime import AttachError

STEPS, CALLS = 12, 200


@pytest.fixture(scope="module")
def glyphs() -> GlyphPipeline:
    """A DiT of three blocks on 16 x 16 pixels, with random weights."""
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=3,
        num_layers=3,
        sample_size=16,
        patch_size=4,
        num_embeds_ada_norm=36,
    ).eval()
    pipe = GlyphPipeline(transformer, build_scheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def classes() -> Workload:
    return Workload(demo_prompts("demo-class"), num_samples=14, num_steps=STEPS)


def db(images: torch.Tensor, reference: torch.Tensor) -> float:
    return float(-10 * (images - reference).square().mean().log10())


def draw(pipe: Any, workload: Workload, steps: int) -> torch.Tensor:
    return sample_images(pipe, workload.of("select"), steps, 4)[0]


def converged(pipe: Any, workload: Workload) -> dict[str, float]:
    """PSNR of every sampler on its own noise levels to the pipeline's own, at 200 network calls."""
    own = draw(pipe, workload, CALLS)
    found = {}
    for sampler in samplers(pipe, workload.of("fit"), STEPS):
        if "log-SNR" not in sampler.name:
            with sampled_by(pipe, sampler):
                found[sampler.name] = db(draw(pipe, workload, sampler.steps(CALLS - 1)), own)
    return found


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers under numpy 2
class TestSamplers:
    def test_they_solve_the_same_flow(self, pipe: EmojiPipeline, workload: Workload) -> None:
        found = converged(pipe, workload)
        assert set(found) == {"DPM-Solver++ 2M", "UniPC", "Heun"}
        assert min(found.values()) > 40, found

    def test_they_solve_the_same_diffusion(self, glyphs: GlyphPipeline, classes: Workload) -> None:
        found = converged(glyphs, classes)
        of_diffusion = {"DDIM, own levels", "DPM-Solver++ 2M, own levels", "UniPC, own levels", "Heun, Karras levels"}
        assert set(found) == of_diffusion
        assert min(found.values()) > 40, found

    @pytest.mark.slow
    @pytest.mark.parametrize("model", ["demo", "demo-class"])
    def test_they_draw_what_the_models_draw(self, model: str) -> None:
        pipe = demo_pipeline(model)
        pipe.set_progress_bar_config(disable=True)
        found = converged(pipe, Workload(demo_prompts(model), num_samples=14))
        assert min(found.values()) > 45, found

    def test_network_calls_are_as_announced(self, pipe: EmojiPipeline, workload: Workload) -> None:
        job = workload.of("select")[:1]
        one = network_flops(pipe, lambda: sample_images(pipe, job, 1, 1))
        for peer in sampler_peers(pipe, job, STEPS):
            with peer.applied():
                spent = network_flops(pipe, lambda steps=peer.steps: sample_images(pipe, job, steps, 1)) / one
            calls = int(peer.name.split(": ")[1].split()[0])
            assert spent == calls, peer.name
        assert type(pipe.scheduler).__name__ == "FlowMatchEulerDiscreteScheduler"

    def test_euler_in_another_guise_is_ddim(self, glyphs: GlyphPipeline, classes: Workload) -> None:
        """Its latents are 20,000 times larger at the start: the pipeline scales them as the sampler says."""
        own, expected = glyphs.scheduler, draw(glyphs, classes, 20)
        glyphs.scheduler = EulerDiscreteScheduler.from_config(own.config)
        try:
            found = draw(glyphs, classes, 20)
        finally:
            glyphs.scheduler = own
        assert db(found, expected) > 40


class TestSpacing:
    def test_flow_levels(self) -> None:
        own = np.linspace(1, 0.02, 50)
        levels = Spacing(3).flow(own.tolist())(8)
        assert levels[0] == 1
        np.testing.assert_allclose(levels[[1, -1]], own[[3, -1]])
        np.testing.assert_allclose(np.diff(np.log(levels[1:] / (1 - levels[1:])), 2), 0, atol=1e-9)
        halved = Spacing(3, 0.5).flow(own.tolist())(8)
        np.testing.assert_allclose(halved[-1] / (1 - halved[-1]), 0.5 * own[-1] / (1 - own[-1]))

    def test_timesteps(self) -> None:
        scheduler = build_scheduler()
        scheduler.set_timesteps(50)
        own = scheduler.timesteps.tolist()
        levels = Spacing(1).timesteps(scheduler)(10)
        assert levels[[0, 1, -1]].tolist() == [own[0], own[1], own[-1]]
        assert (np.diff(levels) < 0).all()
        assert Spacing(1, 0.5).timesteps(scheduler)(10)[-1] < own[-1]


CACHES = (
    "lite N=4 O=1",
    "last block N=4 O=1",
    "FirstBlockCache 1.20",
    "MagCache 4.00 K=16 R=0.02",
    "FORA N=3",
    "SmoothCache 1 J=3",
)


class TestCaches:
    @pytest.mark.parametrize("name", CACHES)
    @pytest.mark.parametrize("kind", ["flux", "dit"])
    def test_they_spare_compute_and_leave_no_trace(
        self,
        kind: str,
        name: str,
        pipe: EmojiPipeline,
        workload: Workload,
        glyphs: GlyphPipeline,
        classes: Workload,
    ) -> None:
        target, work = (pipe, workload) if kind == "flux" else (glyphs, classes)
        jobs, transformer = work.of("select"), type(target.transformer)
        full = run_untimed(target, jobs, STEPS, 4, nullcontext)
        peer = next(p for p in peers(target, work.of("fit"), STEPS) if name in p.name)
        found = score(target, peer, jobs, 4, full)
        assert found.flops_ratio > 1.2
        assert found.mean_db > 8
        assert score(target, peer, jobs, 4, full) == found
        assert type(target.transformer) is transformer
        assert torch.equal(draw(target, work, STEPS), full.images)

    @pytest.mark.parametrize("name", ["PyramidAttentionBroadcast 3", "FasterCache 3 late", "DBCache + FoCa mask fast"])
    @pytest.mark.parametrize("kind", ["flux", "dit"])
    def test_those_that_spare_little_leave_no_trace_either(
        self,
        kind: str,
        name: str,
        pipe: EmojiPipeline,
        workload: Workload,
        glyphs: GlyphPipeline,
        classes: Workload,
    ) -> None:
        if name.startswith("DBCache"):
            pytest.importorskip("cache_dit")
        target, work = (pipe, workload) if kind == "flux" else (glyphs, classes)
        jobs = work.of("select")
        full = run_untimed(target, jobs, STEPS, 4, nullcontext)
        peer = next(p for p in peers(target, work.of("fit"), STEPS) if p.name == name)
        found = score_or_error(target, peer, jobs, 4, full)
        if kind == "dit" and name.startswith("DBCache"):
            assert "has no attribute 'norm1'" in found.error, "a DiT looks into its first block, which is replaced"
        else:
            assert 1.05 < found.flops_ratio < 2, found.error
            assert found.mean_db > 8
        assert torch.equal(draw(target, work, STEPS), full.images)

    def test_fora_on_every_step_is_the_full_run(self, pipe: EmojiPipeline, workload: Workload) -> None:
        full = draw(pipe, workload, STEPS)
        with reused(pipe, lambda kind: [True] * STEPS):
            assert torch.equal(draw(pipe, workload, STEPS), full)

    def test_changes_of_layers(self, glyphs: GlyphPipeline, classes: Workload) -> None:
        """Against the definition, on results of a full run; DiT has one attention and one feed-forward a block."""
        jobs, blocks = classes.of("fit")[:2], glyphs.transformer.transformer_blocks
        kept: list[list[torch.Tensor]] = [[] for _ in blocks]
        hooks = [
            block.ff.register_forward_hook(lambda module, args, output, to=to: to.append(output))
            for block, to in zip(blocks, kept, strict=True)
        ]
        sample_images(glyphs, jobs, STEPS, 2)
        for hook in hooks:
            hook.remove()
        found = layer_changes(glyphs, jobs, STEPS, 3)
        assert set(found) == {"attn1", "ff"}
        expected = sum((of[4] - of[6]).abs().sum() / of[4].abs().sum() for of in kept) / len(kept)
        assert found["ff"][4, 1].item() == pytest.approx(float(expected), rel=1e-4)
        assert found["ff"][STEPS - 2].isinf().tolist() == [False, True, True]

    def test_smooth_schedule(self) -> None:
        """The largest skip whose far end is near enough; the change in between is not looked at."""
        far, near = 1.0, 0.1
        changes = torch.tensor(
            [[far, near], [far, far], [near, near], [near, far], [far, far], [near, far], [far, far]]
        )
        assert smooth_schedule(changes, 0.5) == [True, False, False, True, False, True, True]
        assert smooth_schedule(changes, 0.0) == [True] * 7

    def test_lite_by_name_is_lite_mode(self, pipe: EmojiPipeline, workload: Workload) -> None:
        peer = next(p for p in peers(pipe, workload.of("fit"), STEPS) if p.name == "TaylorSeer lite N=4 O=1")
        with peer.applied():
            found = draw(pipe, workload, STEPS)
        settings = {"cache_interval": 4, "disable_cache_before_step": 3, "taylor_factors_dtype": torch.float32}
        with cached(pipe, lambda: TaylorSeerCacheConfig(**settings, use_lite_mode=True)):
            assert torch.equal(draw(pipe, workload, STEPS), found)

    def test_magnitude_ratios(
        self, pipe: EmojiPipeline, workload: Workload, glyphs: GlyphPipeline, classes: Workload
    ) -> None:
        for target, work in ((pipe, workload), (glyphs, classes)):
            ratios = magnitude_ratios(target, work.of("fit")[:2], STEPS)
            assert len(ratios) == STEPS
            assert ratios[0] == 1
            assert all(0.2 < ratio < 5 for ratio in ratios)
            assert len(set(ratios)) > 2

    def test_guidance_branches_are_not_mixed(self, pipe: EmojiPipeline) -> None:
        jobs = Workload(({"prompt": "red cat", "true_cfg_scale": 3.0},) * 3, 7, STEPS).of("fit")[:1]
        assert len(magnitude_ratios(pipe, jobs, STEPS)) == STEPS


class TestBench:
    def test_untimed_runs_are_those_of_the_bench(self, pipe: EmojiPipeline, workload: Workload) -> None:
        jobs = workload.of("test")
        timed, _ = run_method(pipe, jobs, STEPS, 4, nullcontext)
        untimed = run_untimed(pipe, jobs, STEPS, 4, nullcontext)
        assert torch.equal(timed.images, untimed.images)
        assert timed.flops == untimed.flops

    def test_beaten_settings_are_left_out_and_failures_listed(
        self, pipe: EmojiPipeline, workload: Workload, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        @contextmanager
        def broken() -> Iterator[None]:
            raise AssertionError("no such block\nin detail")
            yield

        def few(*_: object) -> list[Peer]:
            good = [Peer(f"steps {n}", "steps", n, nullcontext) for n in (3, 6, STEPS)]
            return [*good, Peer("wasteful", "steps", 6, lambda: cached(pipe, lite)), Peer("bad", "bad", 6, broken)]

        def lite() -> TaylorSeerCacheConfig:
            return TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=5, use_lite_mode=True)

        monkeypatch.setattr(bench_run, "peers", few)
        told = []
        reference = Reference.of(pipe, workload, 4)
        rows = bench_peers(reference, workload, on_row=lambda row: told.append(row.method))
        found = {row.method: row for row in rows}
        assert told == list(found)
        assert found["bad"].error == "AssertionError: no such block"
        assert {name for name, row in found.items() if row.result} >= {f"steps {n}" for n in (3, 6, STEPS)}
        only = bench_peers(reference, workload, only=["wasteful"])
        assert [row.method for row in only] == ["wasteful"]

    def test_settings_far_behind_see_few_samples(
        self, pipe: EmojiPipeline, workload: Workload, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told = {"close": (39.5, 41.5), "far": (20.0, 99.0), "best": (40.0, 40.0)}  # on the first sample, on the others
        seen = dict.fromkeys(told, 0)

        def noted(pipe: Any, peer: Peer, jobs: Any, batch: int, full: Run) -> Score:
            psnr = told[peer.name][seen[peer.name] > 0]
            seen[peer.name] += len(jobs)
            return Score(peer.name, "a", 2.0, (psnr,) * len(jobs), (1.0,) * len(jobs))

        monkeypatch.setattr(bench_run, "FEW", 1)
        monkeypatch.setattr(bench_run, "score_or_error", noted)
        monkeypatch.setattr(bench_run, "peers", lambda *_: [Peer(name, "a", 6, nullcontext) for name in told])
        rows = bench_peers(Reference.of(pipe, workload, 4), workload)
        select = len(workload.of("select"))
        assert seen == {"close": select, "far": 1, "best": select}
        assert [row.method for row in rows] == ["close"], "ahead on all samples, though not on the first"

    def test_points_that_a_network_does_not_have_are_passed_over(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def traced(wanted: TraceOptions) -> str:
            if wanted.point != "trunk":
                raise AttachError(f"no {wanted.point}; use the point 'output'")
            return wanted.where

        monkeypatch.setattr(benching, "trace_model", traced)
        assert benching._traced(BenchOptions(out=Path("b"))) == ["b/trunk.zarr"]
        with pytest.raises(AttachError, match="no blocks"):
            benching._traced(BenchOptions(points=("blocks", "trunk:residual")))

    def test_interrupted_it_goes_on(
        self, pipe: EmojiPipeline, workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done: list[str] = []

        @contextmanager
        def counted(name: str) -> Iterator[None]:
            done.append(name)
            yield

        def few(pipe: Any, jobs: Any, num_steps: int) -> list[Peer]:
            return [Peer(f"steps {n}", "steps", n, lambda n=n: counted(f"steps {n}")) for n in (3, 6)]

        monkeypatch.setattr(bench_run, "peers", few)
        first = bench_peers(Reference.of(pipe, workload, 4, folder=tmp_path), workload)
        assert {"steps 3", "steps 6"} == set(done)
        done.clear()
        broken = next(tmp_path.glob("steps_6*.json"))
        broken.write_text(broken.read_text()[:40])
        again = bench_peers(Reference.of(pipe, workload, 4, folder=tmp_path), workload)
        assert set(done) == {"steps 6"}, "what was cut off is measured again, nothing else"
        assert [(r.method, r.result.psnr_db) for r in again] == [(r.method, r.result.psnr_db) for r in first]
        done.clear()
        bench_peers(Reference.of(pipe, workload, 2, folder=tmp_path), workload)
        assert set(done) == {"steps 3", "steps 6"}, "another batch is another measurement"

    def test_what_is_written(self, pipe: EmojiPipeline, workload: Workload, tmp_path: Path) -> None:
        def row(name: str, ratio: float, psnr: tuple[float, ...], ours: bool = False) -> Row:
            facts = {"psnr_db": sum(psnr) / len(psnr), "psnr_db_each": psnr, "flops_ratio": ratio}
            facts |= dict.fromkeys(("psnr_db_worst", "ssim", "ssim_worst", "latent_error", "wall_ratio"), 1.0)
            facts |= dict.fromkeys(("steps_total", "steps_computed", "cache_bytes", "batch"), 1)
            return Row(name, name.split()[0], ours, Evaluation(**facts, num_samples=len(psnr), peak_bytes=3 * 2**20))

        rows = [
            row("steps 20", 2.5, (40.0, 42.0, 44.0)),
            row("steps 10", 5.05, (30.0, 32.0, 34.0)),
            row("lazy", 1.2, (90.0, 90.0, 90.0)),
            Row("broken", "broken", False, None, "ValueError: no"),
            row("5x", 5.0, (50.0, 53.0, 53.0), ours=True),
        ]
        found = margin(rows[-1].result, rows)
        assert (found.mean, found.rival) == (10.0, "steps 20"), "dearer peers count, those that spare nothing do not"
        assert found.low <= 9.0 + 1e-9
        assert found.high >= 10.5
        assert margin(row("1x", 1.1, (60.0,), ours=True).result, rows) is None
        near = margin(row("1.3x", 1.3, (91.0, 91.0, 91.0), ours=True).result, rows)
        assert (near.mean, near.rival) == (1.0, "lazy"), "what costs about the same does"
        table = list(csv.DictReader(io.StringIO(to_csv(rows))))
        assert [line["method"] for line in table] == [r.method for r in rows]
        assert float(table[0]["psnr_db"]) == 42.0
        assert table[3]["error"] == "ValueError: no"
        text = to_markdown(rows)
        assert "| 5x | 5.00 | 1.00 | **52.00** | 32.00, steps 10 (5.05x) | +20.00 (" in text
        assert ") | 42.00, steps 20 (2.50x) | +10.00 (" in text
        assert "| **5x** | 5.00 | 1.00 | 3 | 52.00 (1.0) | 1.0000 |" in text
        assert "| broken | failed | ValueError: no |" in text
        dots = [Dot(r.family, r.result.flops_ratio, r.result.psnr_db) for r in rows if r.result]
        draw_front(dots[-1:], dots[:-1], tmp_path / "front.png")
        assert (tmp_path / "front.png").stat().st_size > 10_000
