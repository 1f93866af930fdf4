"""The bench: what is measured of plans and rivals, and what is written."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import TaylorSeerCacheConfig

from hyca_calib.bench import Dot, Reference, Row, bench_peers, draw_front, margin, to_csv, to_markdown
from hyca_calib.bench import run as bench_run
from hyca_calib.commands import benching
from hyca_calib.commands.benching import BenchOptions
from hyca_calib.commands.tracing import TraceOptions
from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.evaluate import Evaluation, Run, run_method, run_untimed
from hyca_calib.peers import Peer
from hyca_calib.peers.cacheable import cached
from hyca_calib.peers.score import Score
from hyca_calib.workload import Workload
from hyca_runtime import AttachError

STEPS = 12


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
            return [
                *good,
                Peer("wasteful", "steps", 6, lambda pipe: cached(pipe, lite())),
                Peer("bad", "bad", 6, broken),
            ]

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
