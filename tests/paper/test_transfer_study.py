"""The chapter on transfer runs on a real pipeline, and its verdicts follow its numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from diffusers import ImagePipelineOutput

from hyca_calib.demo.emoji.pipeline import EmojiPipeline, pack, unpack
from hyca_calib.pipelines.workload import Workload
from hyca_calib.search.check_plan import decide
from hyca_calib.search.problem import Problem
from hyca_calib.trace.store import Trace
from studies.paper.chapter import Chapter, Claim, Context
from studies.paper.transfer import TRANSFER, Row, gain, rulings
from studies.paper.transfer.situations import OWN_PROMPTS, UNSEEN, fine_tuned, recoloured, situations


@pytest.fixture(scope="module")
def context(recorded: Trace, workload: Workload, tmp_path_factory: pytest.TempPathFactory) -> Context:
    folder: Path = tmp_path_factory.mktemp("transfer")
    return Context("tiny", tiny.pipeline(), Problem(recorded), workload, folder, seed=3, quick=True)


@pytest.fixture(scope="module")
def chapter(context: Context) -> Chapter:
    return TRANSFER.chapter("transfer", context)


def row(kind: str, plan: float, redone: float, check: str = "holds", measured: str = "holds") -> dict[str, Any]:
    """An outcome of three samples."""
    ways = {"plan": plan, "refit": plan - 0.5, "redone": redone}
    psnr = {name: [value - 0.1, value, value + 0.1] for name, value in ways.items()}
    facts = {"name": kind, "kind": kind, "psnr_db": psnr, "relative_flops": 2.25}
    return facts | {"check": {"verdict": check}, "measured": {"verdict": measured}}


def decided(*rows: Row) -> list[Claim]:
    """What is decided of these outcomes."""
    return [Claim(text, *ruling) for text, ruling in rulings({"situations": dict(enumerate(rows))}).items()]


class TestClaims:
    def test_follow_from_the_gain_of_making_it_again(self) -> None:
        rows = [row("guidance", 40, 44), row("weights", 40, 40.9), row("steps", 40, 47)]
        found = {claim.text: claim.verdict for claim in decided(*rows)}
        assert found["A plan holds under other guidance."] == "fails"
        assert found["A plan holds on a fine-tuned copy of its model."] == "holds"
        assert found["A plan must be made again for other numbers of steps."] == "holds"
        assert not any("resolution" in text for text in found)
        mixed = [*rows, row("guidance", 40, 40), row("steps", 40, 40)]
        found = {claim.text: claim.verdict for claim in decided(*mixed)}
        assert found["A plan holds under other guidance."] == "partly"
        assert found["A plan must be made again for other numbers of steps."] == "partly"
        open_ = row("guidance", 40, 41)
        open_["psnr_db"]["redone"] = [39.0, 41.0, 43.0]
        assert decided(open_, row("steps", 40, 47))[0].verdict == "not decided"

    @pytest.mark.parametrize(("unseen", "verdict"), [(40.0, "holds"), (39.0, "not decided"), (38.0, "fails")])
    def test_unseen_prompts_are_held_against_its_own(self, unseen: float, verdict: str) -> None:
        own, others = row("samples", 40, 40) | {"name": OWN_PROMPTS}, row("samples", unseen, 40) | {"name": UNSEEN}
        found = decided(own, others, row("steps", 40, 47))[0]
        assert "unseen prompts" in found.text
        assert found.verdict == verdict

    def test_small_to_large(self) -> None:
        large = row("resolution", 40, 40.1)
        large["psnr_db"]["refined here"] = [40.2, 40.3, 40.4]
        rows = [row("nothing", 42, 42), row("steps", 40, 47), large]
        found = [c for c in decided(*rows) if "small resolution" in c.text]
        assert [claim.verdict for claim in found] == ["holds"]
        assert "gain 0.3 (0.3 to 0.3) dB" in found[0].evidence
        assert "0.5 (0.5 to 0.5) dB above taps only fitted there" in found[0].evidence
        assert "2.2 times" in found[0].evidence
        np.testing.assert_allclose(gain(large, of="refined here"), 0.3)

    def test_the_check_is_held_to_account(self) -> None:
        right = [row("steps", 40, 47, "refit", "refit"), row("samples", 40, 40)]
        assert decided(*right)[-1].verdict == "holds"
        remedy = [row("steps", 40, 47, "redo", "refit"), row("samples", 40, 40)]
        assert "1 with their remedy" in decided(*remedy)[-1].evidence
        assert decided(row("steps", 40, 47, "holds"), row("samples", 40, 40, "redo"))[-1].verdict == "fails"
        needless = [*right, row("weights", 40, 40, "refit", "refit")]
        assert decided(*needless)[-1].verdict == "partly"  # rollouts with fitted taps agree, the work earned nothing


class TestTuned:
    def test_a_copy_learns_and_the_model_stays(self, context: Context, tmp_path: Path) -> None:
        pipe: EmojiPipeline = context.pipe
        before = {name: value.clone() for name, value in pipe.transformer.state_dict().items()}
        jobs = context.workload.of("fit")[:3]
        twins = [fine_tuned(pipe, jobs, 2, 5, tmp_path / f"{i}.safetensors") for i in range(2)]
        again = fine_tuned(pipe, jobs, 99, 5, tmp_path / "0.safetensors")  # kept: not trained again
        for name, value in pipe.transformer.state_dict().items():
            assert torch.equal(value, before[name])
            assert torch.equal(twins[0].transformer.state_dict()[name], twins[1].transformer.state_dict()[name])
            assert torch.equal(twins[0].transformer.state_dict()[name], again.transformer.state_dict()[name])
        assert any(not torch.equal(v, before[n]) for n, v in twins[0].transformer.state_dict().items())

    def test_recoloured(self) -> None:
        picture = torch.rand(1, 3, 16, 16)
        turned = unpack(recoloured(pack(picture)))
        torch.testing.assert_close(turned, picture[:, [2, 0, 1]])


class TestLarger:
    def test_any_multiple_of_a_patch(self, pipe: EmojiPipeline) -> None:
        def drawn(height: int | None = None, width: int | None = None) -> torch.Tensor:
            generator = torch.Generator().manual_seed(0)
            size: dict[str, Any] = {"height": height, "width": width} if height else {}
            found = pipe("red heart", num_inference_steps=2, generator=generator, output_type="pt", **size)
            assert isinstance(found, ImagePipelineOutput)
            assert isinstance(found.images, torch.Tensor)
            return found.images

        assert drawn(height=24, width=32).shape == (1, 3, 24, 32)
        assert torch.equal(drawn(height=16, width=16), drawn())
        with pytest.raises(ValueError, match="height: expected a positive multiple of 4, got 18"):
            drawn(height=18)


class TestChapter:
    def test_every_situation_is_judged(self, chapter: Chapter, context: Context) -> None:
        rows = chapter.numbers["situations"]
        assert list(rows) == list(situations(context))
        assert {r["kind"] for r in rows.values()} == {
            "nothing",
            "samples",
            "steps",
            "guidance",
            "resolution",
            "weights",
        }
        for found in rows.values():
            assert {len(values) for values in found["psnr_db"].values()} == {2}
            measured = found["measured"]
            assert measured["verdict"] == decide(measured["taps_db"], measured["schedule_db"])
            assert ("redone" in found["psnr_db"]) == (found["kind"] != "nothing")
        assert rows["24 steps"]["psnr_db"]["plan"] == rows["24 steps"]["psnr_db"]["closed"]
        assert rows["its own"]["check"]["verdict"] == "holds"
        assert rows["24 x 24 pixels"]["relative_flops"] > 1.5
        assert rows["fine-tuned copy"]["check"]["changes"][0] == "other weights"
        assert "refined here" in rows["24 x 24 pixels"]["psnr_db"]

    def test_survives_strict_json(self, chapter: Chapter, context: Context) -> None:
        again = Chapter.model_validate(json.loads(json.dumps(chapter.model_dump(), allow_nan=False)))
        assert again.to_markdown() == chapter.to_markdown()
        assert (context.folder / chapter.figures[0][0]).read_bytes().startswith(b"\x89PNG")
        for table in chapter.tables:
            assert all(len(line) == len(table.head) for line in table.rows)

    def test_an_interrupted_run_goes_on(self, chapter: Chapter, context: Context) -> None:
        news: list[float] = []
        (context.folder / "outcomes" / "its-own.json").unlink()
        again = TRANSFER.chapter("transfer", replace(context, tell=lambda share, _: news.append(share)))
        ignored = {"seconds": 0.0}
        for name, found in again.numbers["situations"].items():
            assert found | ignored == chapter.numbers["situations"][name] | ignored
        assert again.claims == chapter.claims
        assert news == sorted(news)
        assert news[-1] < 1
