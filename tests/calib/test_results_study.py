"""The chapter on results: its rules on made-up scores, and the whole of it on the tiny model."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hyca_calib.budget import Budget
from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.peers import Peer
from hyca_calib.peers.score import Score, undominated
from hyca_calib.science.chapter import Chapter, Context
from hyca_calib.science.league.claims import claims
from hyca_calib.science.league.rivals import chosen
from hyca_calib.science.league.standings import Standing, table
from hyca_calib.science.results import results
from hyca_calib.search.problem import Problem
from hyca_calib.trace.store import Trace
from hyca_calib.workload import Workload

NOISE = np.random.default_rng(0).normal(size=40)


def scored(method: str, family: str, ratio: float, db: float, exact: float = 30.0) -> Score:
    """Forty samples that are easy and hard alike for every method."""
    psnr = tuple((db + NOISE).tolist())
    return Score(method, family, ratio, psnr, (0.9,) * 40, tuple((exact + NOISE[:10]).tolist()))


def standing(budget: str, ours: Score, peers: Sequence[Score], presets: Sequence[Score] = ()) -> Standing:
    return Standing(Budget.parse(budget), ours, tuple(presets), tuple(peers), seed=0)


OURS = scored("HyCa best", "HyCa best", 5.0, 50.0, 40.0)
PEERS = (
    scored("a cheaper", "a", 6.0, 60.0),
    scored("a equal", "a", 5.05, 38.0, 35.0),
    scored("b equal", "b", 4.5, 39.0, 45.0),
    scored("b dearer", "b", 2.0, 44.0),
    scored("b idle", "b", 1.01, 99.0),
    Score("c", "c", 0.0, (), (), error="ValueError: no"),
)


class TestRules:
    def test_cheaper_settings_are_no_rivals(self) -> None:
        found = standing("5x", OURS, PEERS)
        assert found.best_equal is PEERS[2]
        assert found.best_dearer is PEERS[3]
        assert found.most_exact is PEERS[2]
        assert found.best_hyca is None

    def test_differences_are_paired(self) -> None:
        mean, low, high = standing("5x", OURS, PEERS).ahead(PEERS[2])
        np.testing.assert_allclose((mean, low, high), 11.0)

    def test_verdicts_follow_the_margins(self) -> None:
        presets = [scored("preset hyca a", "p", 5.0, 49.0), scored("preset hold", "p", 5.0, 70.0)]
        found = claims([standing("5x", OURS, PEERS, presets)])
        assert [claim.verdict for claim in found] == ["holds", "partly", "partly", "fails"]
        assert ["b equal" in claim.evidence for claim in found] == [True, False, False, True]
        assert "preset hyca a" in found[2].evidence
        worse = claims([standing("5x", replace(OURS, psnr_db=PEERS[2].psnr_db), PEERS)])
        assert [claim.verdict for claim in worse[:2]] == ["fails", "fails"]

    def test_seven_against_five(self) -> None:
        ours = scored("HyCa best", "HyCa best", 7.0, 41.0)
        assert claims([standing("7x", ours, PEERS[1:])])[0].verdict == "holds"  # a 4.5x rival is no fivefold one
        assert claims([standing("7x", ours, PEERS)])[0].verdict == "fails"

    def test_table_shows_each_family_at_both_costs(self) -> None:
        rows = {row[0]: row for row in table(standing("5x", OURS, PEERS)).rows}
        assert [rows[name][1] for name in ("HyCa best", "a equal", "b equal", "b dearer")] == [
            "budget",
            "equal",
            "equal",
            "dearer",
        ]
        assert "a cheaper" not in rows
        assert rows["b dearer"][5] == "+6.00 (+6.00 to +6.00)"

    def test_screening_takes_two_of_each_family_and_the_most_exact(self) -> None:
        found = [(Peer(s.method, s.family, 5, lambda: None), s) for s in PEERS]  # type: ignore[arg-type, return-value]
        more = [scored(f"b {i}", "b", 4.6, 20.0 + i, 30.0 - i) for i in range(4)]
        found += [(Peer(s.method, s.family, 5, lambda: None), s) for s in more]  # type: ignore[arg-type, return-value]
        names = {peer.name for peer in chosen(found, [OURS])}
        assert names == {"a cheaper", "a equal", "b equal", "b dearer", "b 3"}
        exact = [(peer, replace(score, exact_db=(99.0,)) if score.method == "b 0" else score) for peer, score in found]
        assert {peer.name for peer in chosen(exact, [OURS])} == names | {"b 0"}

    def test_dominated_settings_are_dropped(self) -> None:
        worse = scored("a worse", "a", 5.0, 37.0)
        assert [s.method for s in undominated([*PEERS, worse])] == ["a cheaper", "b equal", "b dearer", "b idle"]


@pytest.fixture(scope="module")
def context(recorded: Trace, workload: Workload, tmp_path_factory: pytest.TempPathFactory) -> Context:
    import tiny

    folder: Path = tmp_path_factory.mktemp("results")
    return Context("tiny", tiny.pipeline(), Problem(recorded), workload, folder, seed=3, quick=True)


@pytest.fixture(scope="module")
def chapter(context: Context) -> Chapter:
    return results(context)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class TestChapter:
    def test_every_method_is_measured(self, chapter: Chapter) -> None:
        measured = chapter.numbers["test"]
        for budget in ("3x", "5x"):
            ours = measured[f"HyCa best at {budget}"]
            assert ours["flops_ratio"] >= float(budget[:-1])
            assert ours["psnr_db"][1] <= ours["psnr_db"][0] <= ours["psnr_db"][2]
            for recipe in ("hyca anchored", "hyca recursive", "hyca recursive, every block", "foca anchored"):
                assert f"preset {recipe} at {budget}" in measured
        recipe = "preset hyca anchored"
        ratios = [measured[f"{name} at 3x"]["flops_ratio"] for name in (recipe, f"{recipe}, shorter interval")]
        assert ratios[1] < measured["HyCa best at 3x"]["flops_ratio"] < ratios[0]
        assert {entry["family"] for entry in measured.values()} >= {"TaylorSeer", "DPM-Solver++"}

    def test_tells_where_each_plan_forecasts(self, chapter: Chapter) -> None:
        told = next(text for text in chapter.text if "two cache points" in text)
        assert "3x `trunk" in told
        assert "5x `trunk" in told

    def test_survives_strict_json(self, chapter: Chapter) -> None:
        again = Chapter.from_json(json.loads(json.dumps(chapter.to_json(), allow_nan=False)))
        assert again.to_markdown() == chapter.to_markdown()

    def test_picture_exists(self, chapter: Chapter, context: Context) -> None:
        ((name, caption),) = chapter.figures
        assert caption
        assert (context.folder / name).read_bytes().startswith(b"\x89PNG")

    def test_goes_on_where_it_stopped(
        self, chapter: Chapter, context: Context, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lost = next((context.folder / "measured" / "test").glob("preset_hold*.json"))
        lost.unlink()
        sampled: list[int] = []
        original = EmojiPipeline.__call__

        @functools.wraps(original)
        def counted(pipe: EmojiPipeline, *args: object, **kwargs: object) -> object:
            sampled.append(1)
            return original(pipe, *args, **kwargs)

        monkeypatch.setattr(EmojiPipeline, "__call__", counted)
        again = results(context)
        assert again.numbers == chapter.numbers
        assert again.claims == chapter.claims
        assert lost.exists()
        assert 0 < len(sampled) <= 3  # the lost method, and the noise levels of the full run

    def test_other_samples_are_measured_anew(self, chapter: Chapter, context: Context) -> None:
        kept = context.folder / "measured" / "select" / "full.safetensors"
        before = kept.read_bytes()
        other = replace(context, workload=replace(context.workload, seed=5))
        from hyca_calib.science.league.ground import Ground

        Ground.of(other, other.workload.of("select")[:2], kept.parent, 2)
        assert kept.read_bytes() != before
