"""The comparison itself: nothing is left behind, sweeps end inside, the test split chooses nothing, nothing is lost."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from comparisons import STEPS, comparison, facts_of, fewer_steps
from processes import forked

from hyca_calib.baselines import Axis, Baseline, Family, Settings
from hyca_calib.baselines.score import Score, joined
from hyca_calib.bench import stage
from hyca_calib.bench.choice import CLOSE_LOOK, chosen, windows
from hyca_calib.bench.comparison import HARNESS, Learnt
from hyca_calib.bench.documents.comparison_table import to_csv, to_markdown
from hyca_calib.bench.documents.front import draw_front
from hyca_calib.bench.figures import Figures
from hyca_calib.bench.isolation import CleanPipeline, fingerprint
from hyca_calib.bench.lead import lead
from hyca_calib.bench.notebook import MEASURED, Notebook
from hyca_calib.bench.results import Bench, Row, read_bench
from hyca_calib.bench.sweep import Sweep, best_at, sweep
from hyca_calib.bench.verify import Verification, random_rows
from hyca_calib.commands import benching
from hyca_calib.commands.bench_options import BenchOptions
from hyca_calib.commands.benching import verify_bench
from hyca_calib.commands.options import TraceOptions
from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.pipelines.workload import Workload
from hyca_calib.quality.evaluate import run_untimed
from hyca_calib.records.provenance import code_digest, code_of
from hyca_runtime import AttachError
from hyca_runtime.errors import StudyError
from hyca_runtime.plan import Plan

COSTS = (1.5, 2.5)


class TestSweep:
    """A method whose figures are known: the best threshold is 0.4, the best warm-up 1, whatever the cost."""

    def family(self, ladder: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)) -> Family:
        axes = (
            Axis("threshold", ladder, first=ladder[:2]),
            Axis("warm-up", (1, 2, 3, 4), first=(4,), closed=True),
            Axis("way", ("a", "b"), ordered=False),
        )
        return Family("known", "here", axes, lambda pipe, settings: nullcontext(), STEPS)

    def measure(self, baseline: Baseline) -> Score:
        threshold, warm_up = float(baseline.settings["threshold"]), float(baseline.settings["warm-up"])
        worse = abs(threshold - 0.4) * 10 + warm_up + (baseline.settings["way"] == "b")
        return Score(baseline.name, baseline.family, 2.0, (50 - worse,), baseline.settings)

    def test_it_goes_on_until_the_best_lies_inside(self) -> None:
        found = sweep(self.family(), self.measure, COSTS)
        best = max(found.tried, key=lambda score: score.mean_db)
        assert best.settings == {"threshold": 0.4, "warm-up": 1, "way": "a"}
        assert found.open_ends == ()
        assert len(found.tried) < 6 * 4 * 2, "not everything is tried"

    def test_a_ladder_that_is_too_short_is_told(self) -> None:
        found = sweep(self.family((0.05, 0.1, 0.2)), self.measure, COSTS)
        assert found.open_ends == ("known threshold=0.2 warm-up=1 way=a: threshold",)

    def test_a_sweep_that_is_cut_says_so(self) -> None:
        found = sweep(self.family(), self.measure, COSTS, most=5)
        assert len(found.tried) == 5
        assert any(end.endswith("not tried") for end in found.open_ends)

    def test_it_walks_over_what_does_the_very_same(self) -> None:
        def flat(baseline: Baseline) -> Score:
            threshold = float(baseline.settings["threshold"])
            return Score(baseline.name, baseline.family, 2.0, (45.0 if threshold > 1 else 40.0,), baseline.settings)

        found = sweep(self.family((0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)), flat, COSTS)
        assert max(score.mean_db for score in found.tried) == 45
        assert found.open_ends == ()

    def test_what_is_best_may_differ_from_cost_to_cost(self) -> None:
        """Also on an axis that began with one value, which is the best of it at most costs."""
        axes = (Axis("calls", (2, 4, 8), closed=True), Axis("end", (1, 2, 3, 4, 5), first=(3,), closed=True))
        family = Family("known", "here", axes, lambda pipe, settings: nullcontext(), STEPS)
        best = {2: 3, 4: 3, 8: 5}

        def measure(baseline: Baseline) -> Score:
            calls, end = int(baseline.settings["calls"]), int(baseline.settings["end"])
            db = 60 - 5 * calls - 10 * abs(end - best[calls])
            return Score(baseline.name, baseline.family, float(calls), (float(db),), baseline.settings)

        found = sweep(family, measure, (1.5, 3.0, 7.0))
        assert [one.settings["end"] for one in best_at(found.tried, (1.5, 3.0, 7.0))] == [3, 3, 5]
        assert found.open_ends == ()

    def test_costs_that_do_not_matter_are_not_swept(self) -> None:
        def dear(baseline: Baseline) -> Score:
            return replace(self.measure(baseline), flops_ratio=1.05)

        assert len(sweep(self.family(), dear, COSTS).tried) == 4, "only the first ones"


class TestIsolation:
    def reordered(self, pipe: EmojiPipeline) -> None:
        blocks = pipe.transformer._modules.pop("transformer_blocks")
        pipe.transformer._modules["transformer_blocks"] = blocks

    def hooked(self, pipe: EmojiPipeline) -> None:
        pipe.transformer.norm_out.register_forward_hook(lambda *_: None)

    def replaced(self, pipe: EmojiPipeline) -> None:
        pipe.transformer.forward = pipe.transformer.forward

    def moved(self, pipe: EmojiPipeline) -> None:
        with torch.no_grad():
            pipe.transformer.proj_out.weight[0, 0] += 1e-3

    @pytest.mark.parametrize("change", ["reordered", "hooked", "replaced", "moved"])
    def test_what_was_changed_is_found_and_mended(self, change: str, workload: Workload) -> None:
        clean = CleanPipeline(tiny.pipeline, workload.of("fit")[0])
        assert clean.prove() == ""
        before = clean.pipe
        getattr(self, change)(clean.pipe)
        assert clean.prove() == ("full run" if change == "moved" else "module tree")
        assert clean.pipe is not before
        assert clean.prove() == ""

    def test_a_class_that_was_patched_cannot_be_mended(
        self, workload: Workload, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clean = CleanPipeline(tiny.pipeline, workload.of("fit")[0])
        clean.prove()
        own = EmojiPipeline.__call__

        def patched(self: EmojiPipeline, *args: Any, **kwargs: Any) -> Any:
            return own(self, *args, **kwargs)

        monkeypatch.setattr(EmojiPipeline, "__call__", patched)
        with pytest.raises(RuntimeError, match="start the process again"):
            clean.prove()

    def test_a_run_changes_nothing(self, pipe: EmojiPipeline, workload: Workload) -> None:
        job = workload.of("fit")[0]
        assert fingerprint(pipe, job) == fingerprint(pipe, job)

    def test_the_culprit_is_named_and_harms_nobody(self, workload: Workload) -> None:
        """One method leaves the blocks in another order, of which the next would make something else."""

        @contextmanager
        def careless(pipe: Any, settings: Settings) -> Iterator[None]:
            yield
            self.reordered(pipe)
            self.moved(pipe)

        culprit = Family("careless", "here", (Axis("n", (1,), closed=True),), careless, STEPS)
        families = [culprit, fewer_steps()]
        alone = comparison(workload, families)
        both = comparison(workload, families)
        first = both.baselines([culprit.baseline({"n": 1}), fewer_steps().baseline({"calls": 4})])
        assert first[0].note == "module tree and full run"
        assert first[1] == alone.baselines([fewer_steps().baseline({"calls": 4})])[0]


class TestChoice:
    def scores(self) -> list[Score]:
        figures = [("a", 2.0, 40.0), ("a", 1.9, 42.0), ("a", 3.0, 39.0), ("b", 2.0, 30.0), ("b", 1.6, 50.0)]
        return [Score(f"{f} {r}", f, r, (db,)) for f, r, db in figures] + [Score("bad", "b", 0.0, (), error="x")]

    def test_of_every_family_the_best_at_every_cost(self) -> None:
        places = windows([2.0, 3.0])
        assert {s.method for s in chosen(self.scores(), places)} == {"a 1.9", "a 3.0", "b 1.6"}, (
            "b at 2.0 is far behind"
        )
        assert {s.method for s in chosen(self.scores(), places, CLOSE_LOOK)} == {
            "a 2.0",
            "a 1.9",
            "a 3.0",
            "b 2.0",
            "b 1.6",
        }

    def test_a_family_that_is_far_behind_everywhere_has_one_row(self) -> None:
        far = [Score(f"c {ratio}", "c", ratio, (db,)) for ratio, db in ((2.0, 20.0), (3.0, 30.0))]
        found = chosen([*self.scores(), *far], windows([2.0, 3.0]))
        assert [score.method for score in found if score.family == "c"] == ["c 3.0"]

    def test_a_family_that_costs_too_much_has_a_row_all_the_same(self) -> None:
        dear = [Score(f"d {ratio}", "d", ratio, (60.0,)) for ratio in (1.1, 1.2)]
        found = chosen([*self.scores(), *dear], windows([2.0, 3.0]))
        assert [score.method for score in found if score.family == "d"] == ["d 1.2"]

    def test_costs_of_two_lots_of_samples_add_up(self) -> None:
        one, other = Score("a", "f", 2.0, (40.0,)), Score("a", "f", 4.0, (50.0, 60.0, 70.0))
        both = joined(one, other)
        assert both.flops_ratio == pytest.approx(4 / (1 / 2 + 3 / 4))
        assert both.mean_db == 55
        assert joined(one, replace(other, error="no")).error == "no"


class TestComparison:
    def test_from_sweep_to_table(self, workload: Workload, tmp_path: Path, plan: Plan) -> None:
        bench = comparison(workload, [fewer_steps(), fewer_steps("others", (5, 8))])
        sweeps = bench.sweeps(COSTS)
        baselines = bench.chosen(sweeps, windows([2.0, 3.0]))
        costs = {"fewer steps calls=6", "fewer steps calls=4"}
        dearer = {"fewer steps calls=6", "others calls=8"}
        assert {baseline.name for baseline in baselines} == costs | dearer, "five calls cost as much as no plan"
        ours = bench.plans([("HyCa plan", "x.plan.json", plan)])
        rows = [bench.full(), *bench.baselines(baselines), *ours]
        assert rows[1].result is not None
        assert rows[1].result.flops_ratio == pytest.approx(STEPS / 6, rel=1e-6)
        assert ours[0].ours
        assert ours[0].settings == {"plan": "x.plan.json"}
        timed = bench.timed(rows, [("HyCa plan", "x.plan.json", plan)])
        assert timed[0].timing is None
        assert timed[1].timing is not None
        assert timed[1].timing.wall_ratio > 1
        written = Bench(facts_of(workload), tuple(range(6)), tuple(timed), COSTS, tuple(sweeps), {"ratios": [1.0]})
        written.write(tmp_path)
        assert read_bench(tmp_path) == written
        (tmp_path / "bench.json").write_text((tmp_path / "bench.json").read_text()[:-9])
        with pytest.raises(StudyError, match=r"bench.json: no comparison, or a damaged one; remove it"):
            read_bench(tmp_path)
        with pytest.raises(StudyError, match="nowhere: no comparison here; make one first"):
            read_bench(tmp_path / "nowhere")
        (tmp_path / "bench.json").unlink()
        with pytest.raises(StudyError, match="no comparison here; make one first"):
            read_bench(tmp_path)

    def test_failures_are_listed_with_their_reason(self, workload: Workload) -> None:
        def broken(pipe: Any, settings: Settings) -> Any:
            raise AssertionError("no such block\nin detail")

        family = Family("bad", "here", (Axis("n", (1, 2), closed=True),), broken, STEPS)
        bench = comparison(workload, [family])
        (found,) = bench.sweeps(COSTS)
        assert [score.error for score in found.tried] == ["AssertionError: no such block"] * 2
        assert bench.baselines([family.baseline({"n": 1})])[0].error == "AssertionError: no such block"

    def test_what_draws_no_pictures_has_no_figures(self, workload: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
        bench = comparison(workload, [family := fewer_steps(counts=(3,))])
        bench.test()  # whose full run is sound
        run = run_untimed

        def broken(*arguments: Any) -> Any:
            found = run(*arguments)
            return replace(found, images=found.images.where(torch.arange(found.images.shape[-1]) > 0, torch.nan))

        monkeypatch.setattr(stage, "run_untimed", broken)
        (row,) = bench.baselines([family.baseline({"calls": 3})])
        assert row.result is None
        assert row.error == "ValueError: the pictures hold NaN or infinity"

    def test_what_decides_by_sample_is_drawn_sample_by_sample(self, workload: Workload) -> None:
        """In the sweep, for its row and on the clock; else four at once, as asked."""
        drawn: set[int] = set()

        @contextmanager
        def heard(pipe: Any, settings: Settings) -> Iterator[None]:
            def hear(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
                drawn.add(len(kwargs["hidden_states"]))

            with pipe.transformer.register_forward_pre_hook(hear, with_kwargs=True):
                yield

        def sizes(alone: bool) -> set[int]:
            drawn.clear()
            family = replace(fewer_steps(counts=(3,)), apply=heard, alone=alone)
            bench = comparison(workload, [family])
            bench.sweeps(COSTS)
            bench.timed(bench.baselines([family.baseline({"calls": 3})]), [])
            return set(drawn)

        assert max(sizes(alone=False)) == 4
        assert sizes(alone=True) == {1}

    def test_the_choice_never_sees_the_test_split(self, workload: Workload) -> None:
        """Nothing of it is sampled before the settings are chosen."""
        bench = comparison(workload, [fewer_steps()])

        def forbidden() -> Any:
            raise AssertionError("the test split was looked at")

        blind = replace(bench, test=forbidden)
        assert blind.chosen(blind.sweeps(COSTS), windows([2.0]))

    def test_what_baselines_learnt_is_asked_for_by_recalled_rows_too(self, workload: Workload, tmp_path: Path) -> None:
        def known_after() -> dict[str, Any]:
            learnt = Learnt(Notebook(tmp_path, {"of": "what was learnt"}))

            @contextmanager
            def calibrated(pipe: Any, settings: Settings) -> Iterator[None]:
                learnt.recall(f"ratios for {settings['calls']}", lambda: [1.0])
                yield

            family = replace(fewer_steps(counts=(3, 6)), apply=calibrated)
            bench = comparison(workload, [family], Notebook(tmp_path, {"batch": 4}))
            bench.attach(bench.baselines([family.baseline({"calls": 6})]))
            return learnt.known

        assert known_after() == known_after() == {"ratios for 6": [1.0]}

    def test_interrupted_it_goes_on(self, workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        done: list[str] = []

        @contextmanager
        def counted(pipe: Any, settings: Settings) -> Iterator[None]:
            done.append(str(settings["calls"]))
            yield

        family = replace(fewer_steps(counts=(3, 6)), apply=counted)
        first = comparison(workload, [family], Notebook(tmp_path, {"batch": 4}))
        scores = first.sweeps(COSTS)[0].tried
        rows = first.baselines([family.baseline(score.settings) for score in scores])
        assert done == ["3", "6", "3", "6"]
        done.clear()
        notes = tmp_path / MEASURED
        lines = notes.read_text().splitlines()
        assert "calls=6" in lines[-1]
        notes.write_text("\n".join([*lines[:-1], lines[-1][:40]]))
        again = comparison(workload, [family], Notebook(tmp_path, {"batch": 4}))
        assert again.sweeps(COSTS)[0].tried == scores
        assert again.baselines([family.baseline(score.settings) for score in scores]) == rows
        assert done == ["6"], "what was cut off is measured again, nothing else"
        done.clear()
        comparison(workload, [family], Notebook(tmp_path, {"batch": 2})).sweeps(COSTS)
        assert done == ["3", "6"], "another batch is another measurement"
        done.clear()
        monkeypatch.setattr("hyca_calib.bench.notebook.code_of", lambda *modules: "other code")
        comparison(workload, [family], Notebook(tmp_path, {"batch": 4})).sweeps(COSTS)
        assert done == ["3", "6"], "other code is another measurement"

    def test_code_is_followed_through_its_imports(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert code_of("hyca_calib.baselines.layer_reuse") != code_of("hyca_calib.baselines.caches")
        assert code_of("torch.nn") == code_of()
        assert code_digest() != code_of(), "the digest of no file at all"
        for harness in HARNESS:
            assert code_of(harness) != code_of(), f"{harness} is no module"
        monkeypatch.setattr("hyca_calib.records.provenance.ROOT", tmp_path)
        package = tmp_path / "hyca_calib"
        package.mkdir()
        (package / "a.py").write_text("from hyca_calib.b import x\n")
        (package / "b.py").write_text("x = 1\n")
        (package / "c.py").write_text("y = 1\n")
        fresh = code_of.__wrapped__
        before = fresh("hyca_calib.a")
        (package / "c.py").write_text("y = 2\n")
        assert fresh("hyca_calib.a") == before
        (package / "b.py").write_text("x = 2\n")
        assert fresh("hyca_calib.a") != before

    def test_points_that_a_network_does_not_have_are_passed_over(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def traced(wanted: TraceOptions) -> str:
            if wanted.point != "trunk":
                raise AttachError(f"no {wanted.point}; use the point 'output'")
            return wanted.where

        monkeypatch.setattr(benching, "trace_model", traced)
        assert benching._traced(BenchOptions(out=Path("b"))) == ["b/trunk.zarr"]
        with pytest.raises(AttachError, match="no blocks"):
            benching._traced(BenchOptions(points=["blocks", "trunk:residual"]))


def row(name: str, ratio: float, psnr: tuple[float, ...], ours: bool = False) -> Row:
    mean = sum(psnr) / len(psnr)
    similar: dict[str, Any] = {"ssim": 1.0, "ssim_worst": 1.0, "latent_error": 0.1}
    figures = Figures(flops_ratio=ratio, psnr_db=mean, psnr_db_worst=min(psnr), psnr_db_each=psnr, **similar)
    return Row(name, name.split()[0], ours, figures)


class TestTable:
    ROWS = (
        row("steps 20", 2.5, (40.0, 42.0, 44.0)),
        row("steps 10", 5.05, (30.0, 32.0, 34.0)),
        row("lazy", 1.2, (90.0, 90.0, 90.0)),
        Row("broken", "broken", False, None, error="ValueError: no"),
        row("5x", 5.0, (50.0, 53.0, 53.0), ours=True),
    )

    def test_how_far_a_plan_is_ahead(self) -> None:
        ours = self.ROWS[-1].result
        assert ours is not None
        found = lead(ours, self.ROWS, (0, 1, 2))
        assert found is not None
        assert (found.mean, found.baseline) == (10.0, "steps 20"), (
            "dearer baselines count, those that spare nothing do not"
        )
        assert found.low <= 9.0 + 1e-9
        assert found.high >= 10.5
        cheap = row("1x", 1.1, (60.0,), ours=True).result
        assert cheap is not None
        assert lead(cheap, self.ROWS, (0,)) is None
        near = row("1.3x", 1.3, (91.0, 91.0, 91.0), ours=True).result
        assert near is not None
        level = lead(near, self.ROWS, (0, 1, 2))
        assert level is not None
        assert (level.mean, level.baseline) == (1.0, "lazy"), "what costs about the same does"

    def test_prompts_that_repeat_widen_the_interval(self) -> None:
        psnr = (50.0, 50.2, 50.4, 44.0, 44.2, 44.4, 47.0, 47.2, 47.4)
        ours = row("5x", 5.0, psnr, ours=True).result
        other = row("steps 10", 5.0, (40.0,) * 9)
        assert ours is not None
        alone = lead(ours, [other], tuple(range(9)))
        together = lead(ours, [other], (0, 0, 0, 1, 1, 1, 2, 2, 2))
        assert alone is not None
        assert together is not None
        assert together.high - together.low > 1.3 * (alone.high - alone.low)

    def test_what_is_written(self, workload: Workload, tmp_path: Path) -> None:
        refused = Sweep("none", "a paper", "no attention: upstream/file.py line 3", (), ())
        text = to_markdown(Bench(facts_of(workload), (0, 1, 2), self.ROWS, COSTS, (refused,)))
        assert "| 5x | 5.00 |  | **52.00** | 32.00, steps 10 (5.05x) | +20.00 (" in text
        assert ") | 42.00, steps 20 (2.50x) | +10.00 (" in text
        assert "| none | 0 | 0 | 0 | no attention: upstream/file.py line 3 | a paper |" in text
        assert "| broken | failed | ValueError: no |" in text
        table = list(csv.DictReader(io.StringIO(to_csv(self.ROWS))))
        assert [line["method"] for line in table] == [r.method for r in self.ROWS]
        assert float(table[0]["psnr_db"]) == 42.0
        assert table[3]["error"] == "ValueError: no"
        scores = [
            Score(r.method, r.family, r.result.flops_ratio, r.result.agreement_db_each) for r in self.ROWS if r.result
        ]
        draw_front(scores[-1:], scores[:-1], tmp_path / "front.png")
        plain = (tmp_path / "front.png").read_bytes()
        assert len(plain) > 10_000
        draw_front(scores[-1:], scores[:-1], tmp_path / "front.png", [Score("steps 15", "steps", 3.0, (45.0,))])
        assert (tmp_path / "front.png").read_bytes() != plain, "what was only tried is there, too"

    def test_samples_that_are_no_pictures(self, workload: Workload) -> None:
        """Their signal-to-error ratio takes the place of PSNR, under its own name."""

        def unpictured(of: Row) -> Row:
            each = of.result.agreement_db_each if of.result else ()
            told: dict[str, Any] = dict.fromkeys(("psnr_db", "psnr_db_worst", "psnr_db_each", "ssim", "ssim_worst"))
            told |= {"signal_to_error_db": 52.0, "signal_to_error_db_worst": 50.0, "signal_to_error_db_each": each}
            return replace(of, result=replace(of.result, **told)) if of.result else of

        rows = tuple(map(unpictured, self.ROWS))
        text = to_markdown(Bench(facts_of(workload), (0, 1, 2), rows, COSTS))
        assert "| 5x | 5.00 |  | **52.00** | 32.00, steps 10 (5.05x) | +20.00 (" in text
        assert "| signal-to-error ratio dB (worst) |" in text
        assert "PSNR" not in text
        line = next(csv.DictReader(io.StringIO(to_csv(rows[:1]))))
        assert (line["psnr_db"], line["ssim"], line["signal_to_error_db"]) == ("", "", "52.0")


class TestVerify:
    @pytest.mark.slow
    def test_rows_are_measured_again_in_fresh_processes(self, workload: Workload, tmp_path: Path) -> None:
        from hyca_calib.baselines import Setup, families

        setup = Setup(workload.of("fit")[:2], STEPS, lambda name, make: make(), lambda: pytest.fail("no trace"))
        family = next(f for f in families(tiny.pipeline(), setup) if f.name == "TaylorSeer")
        settings = next(iter(family.first()))
        bench = comparison(workload, [family])
        (found,) = bench.baselines([family.baseline(settings)])
        assert found.result is not None
        facts = facts_of(workload)
        Bench(facts, tuple(range(6)), (bench.full(), found)).write(tmp_path)
        forked()  # its server is a fresh process, too
        how = Verification(tmp_path, tiny.pipeline, workload)
        rows = random_rows(read_bench(tmp_path), 1.0, seed=0)
        (check,) = how.rows(rows)
        assert check.off_by < 1e-3, check
        wrong = replace(found, result=replace(found.result, psnr_db_each=(1.0,) * 6))
        dearer = replace(found, result=replace(found.result, flops_ratio=1.05 * found.result.flops_ratio))
        checks = list(how.rows([wrong, dearer]))
        assert checks[0].off_by > 1
        assert (checks[1].off_by, checks[1].told) == (float("inf"), "FLOPs 4.8 % off")
        (tmp_path / "prompts.txt").write_text("\n".join(call["prompt"] for call in tiny.prompts()))
        asked: dict[str, Any] = {"model": "tiny:pipeline", "samples": 14, "steps": STEPS, "seed": 3, "out": tmp_path}
        options = BenchOptions(prompts=tmp_path / "prompts.txt", **asked)
        assert "dB off  TaylorSeer" in verify_bench(options)
        Bench(facts, tuple(range(6)), (bench.full(), wrong)).write(tmp_path)
        with pytest.raises(StudyError, match="measure the table again"):
            verify_bench(options)
