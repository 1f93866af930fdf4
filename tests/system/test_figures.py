"""Figures in README.md and docs/: each is rendered from a result file, and none of ours stands elsewhere."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hyca_calib.bench.documents.blocks import BLOCK, RENDERERS, documents, publish, rendered
from hyca_calib.bench.documents.running_costs import demo_sentence, runtime_sentence, runtime_tables
from hyca_calib.bench.documents.standing import (
    benches_below,
    families_table,
    few_steps_table,
    gains_table,
    standing_list,
)
from hyca_calib.bench.equivalence import Outcome
from hyca_calib.bench.figures import Figures
from hyca_calib.bench.picture_quality import PictureQuality
from hyca_calib.bench.results import DEMO_RUN, Bench, BenchFacts, DemoRun, Row
from hyca_calib.bench.sweep import Sweep
from hyca_calib.quality.evaluate import Evaluation
from hyca_calib.records.atomic import write_json
from hyca_runtime.errors import StudyError

ROOT = Path(__file__).parents[2]

GENERATED = ("models.md", "baselines.md", "solvers.md")
"""Whole documents that a command writes; tests of their own look at them."""

NUMBER = r"(?:\d+(?:\.\d+)?)"
WORDS = "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|twenty|thirty|forty|fifty|sixty"
OURS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{NUMBER}\s*(?:dB|decibels?)\b",
        r"\d+\.\d+x\b",
        rf"{NUMBER}x\s+(?:fewer|less|faster|cheaper|of)\b",
        rf"{NUMBER}\s*(?:%|per\s?cent)",
        rf"(?:{NUMBER}|\b(?:{WORDS}))\s+(?:minutes?|seconds?|hours?)\b",
        rf"{NUMBER}\s*(?:ms|min)\b",
        r"\d+\.\d+\s*s\b",
        rf"{NUMBER}\s*(?:pictures|images|samples)/s",
        rf"{NUMBER}\s*(?:[kMG]i?B)\b",
        r"(?<!\w)[+-]\d+\.\d+",
    )
)
"""What looks like a measurement."""

DEFINITIONS = ("| above 50 |", "DDIM 50")
"""Rows that explain a scale rather than report a result."""


def prose(text: str) -> str:
    """Without blocks, fenced and inline code, link targets."""
    for pattern in (BLOCK, re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE), re.compile(r"`[^`\n]*`")):
        text = pattern.sub(" CODE ", text)
    return re.sub(r"\]\([^)]*\)", "]", text)


def figures_in(text: str) -> list[str]:
    lines = [line for line in prose(text).splitlines() if not line.startswith(DEFINITIONS)]
    return [found.group() for pattern in OURS for found in pattern.finditer("\n".join(lines))]


@pytest.mark.parametrize("path", documents(ROOT), ids=lambda path: path.name)
def test_blocks_are_what_the_results_say(path: Path) -> None:
    text = path.read_text()
    assert text == rendered(text, ROOT), "result files say something else; run `hyca bench --publish`"


@pytest.mark.parametrize("path", [p for p in documents(ROOT) if p.name not in GENERATED], ids=lambda path: path.name)
def test_no_figure_of_ours_stands_outside_a_block(path: Path) -> None:
    assert figures_in(path.read_text()) == []


@pytest.mark.parametrize(
    "sentence",
    [
        "Run the main job (no download, no GPU, about ten minutes with the installation):",
        "`hyca demo` makes such a plan in nine minutes of one thread",
        "5.50x fewer FLOPs",
        "5x less wall time (batch 8)",
        "71.8 dB on the 48 test prompts",
        "early errors heal (15 %\nof one is left in the end)",
        "Tracing costs 6.9 % of sampling time",
        "| `fast`, 9 of 50 | 0.23 to 0.25 s | 4.5x to 4.8x |",
        "3.7 to 3.9 pictures/s",
        "32 ms when it is parsed",
        "resident memory 509 to 579 MiB",
        "| demo | +14.7 |",
        "Our goal of 6\ndB",
    ],
)
def test_a_figure_without_a_source_is_found(sentence: str) -> None:
    assert figures_in(sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "`--budget 1.5x,2x`",
        "```\nhyca bench  # 9 of 50, 3.1x fewer\n```",
        "`5x` means a fifth",
        "python 3.11, Apache-2.0",
    ],
)
def test_a_budget_or_a_command_is_no_figure(sentence: str) -> None:
    assert figures_in(sentence) == []


def test_every_renderer_has_its_place() -> None:
    used = {found["name"] for path in documents(ROOT) for found in BLOCK.finditer(path.read_text())}
    assert used == set(RENDERERS)


# ------------------------------------------------------------------------------------------------ made-up results

FACTS: dict[str, Any] = {
    "commit": "0123456789ab",
    "code": "ba9876543210",
    "date": "2026-11-28",
    "device": "cpu",
    "processor": "a slow CPU",
    "threads": 1,
    "versions": {"torch": "2.13.0", "diffusers": "0.42.1", "cache-dit": "1.5.3", "hyca": "0.1.0"},
}


SIMILAR: dict[str, Any] = {"ssim": 1.0, "ssim_worst": 1.0, "latent_error": 0.0}


def row(method: str, family: str, ratio: float, each: tuple[float, ...], ours: bool = False) -> Row:
    mean = sum(each) / len(each)
    figures = Figures(flops_ratio=ratio, psnr_db=mean, psnr_db_worst=min(each), psnr_db_each=each, **SIMILAR)
    return Row(method, family, ours, figures)


def bench(*rows: Row, sweeps: tuple[Sweep, ...] = ()) -> Bench:
    full = row("full run", "full run", 1.0, (150.0,) * 4)
    workload = {"num_steps": 50, "seed": 0, "num_samples": 9, "num_prompts": 4, "digest": "", "prompts_digest": ""}
    own = {"model": "demo", "workload": workload, "batch": 8, "weights": "0"}
    return Bench(BenchFacts.model_validate({**FACTS, **own}), (0, 0, 1, 1), (full, *rows), sweeps=sweeps)


def at(mean: float) -> tuple[float, ...]:
    return (mean - 0.1, mean, mean, mean + 0.1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two models: one plan wins, one is beaten by what costs more, one by what costs the same, one is too close."""
    made = {
        "one": bench(
            row("HyCa plan 2x", "HyCa", 2.0, at(60.0), ours=True),
            row("HyCa plan 3x", "HyCa", 3.0, at(50.0), ours=True),
            row("Rival 1", "Rival", 1.9, at(52.0)),
            row("Rival 2", "Rival", 2.9, at(41.0)),
        ),
        "two": bench(
            row("HyCa plan 3x", "HyCa", 3.0, at(30.0), ours=True),
            row("HyCa plan 5x", "HyCa", 5.0, (28.5, 30.5, 29.5, 29.5), ours=True),
            row("Other 1", "Other", 2.9, at(33.0)),
            row("Other 2", "Other", 4.9, (29.5, 29.5, 28.5, 30.5)),
        ),
    }
    for name, results in made.items():
        folder = tmp_path / "studies" / "bench" / name
        folder.mkdir(parents=True)
        results.write(folder)
    (tmp_path / "docs").mkdir()
    return tmp_path


def test_both_sides_are_counted(root: Path) -> None:
    text = " ".join(standing_list(root).split())
    assert "**At equal cost our plans are ahead in 2 of 4 pairs of model and budget, and behind in 1, 1 within" in text
    assert "`one` from +8.0 dB at 2x to +9.0 dB at 3x; `two` from -3.0 dB at 3x to +0.0 dB at 5x." in text
    assert "ahead in 1 of 4 pairs of model and budget, and behind in 3.**" in text
    assert "`one` from -2.0 dB at 3x to +8.0 dB at 2x; `two` from -3.5 dB at 5x to -3.0 dB at 3x." in text
    assert "is met in 0 of 3 pairs.**" in text


def test_the_table_has_every_plan_and_its_source(root: Path) -> None:
    text = gains_table(root)
    wins, loses = (next(line for line in text.splitlines() if f"| {name} |" in line) for name in ("one, 2x", "one, 3x"))
    assert "**60.0** | 52.0, Rival 1 (1.90x) | +8.0 (+8.0 to +8.0) | the same |" in wins
    assert (
        "**50.0** | 41.0, Rival 2 (2.90x) | +9.0 (+9.0 to +9.0) | 52.0, Rival 1 (1.90x) | -2.0 (-2.0 to -2.0) |"
        in loses
    )
    words = " ".join(text.split())
    assert "`one` (4 samples of 2 prompts) and `two` (4 samples of 2 prompts): 50 steps, seed 0, a slow CPU" in words
    assert "cache-dit 1.5.3, 2026-11-28, commit 0123456789ab." in words


def test_pictures_are_as_good_only_where_that_was_shown(root: Path) -> None:
    assert "Pictures on their own" not in standing_list(root)
    outcomes: tuple[Outcome, ...] = ("as good", "cannot tell")
    plans = [
        replace(
            row(f"HyCa plan {i}x", "HyCa", float(i), at(60.0), ours=True), quality=PictureQuality(1.0, 1.0, outcome=way)
        )
        for i, way in enumerate(outcomes, 2)
    ]
    bench(*plans).write(root / "studies" / "bench" / "one")
    text = " ".join(standing_list(root).split())
    assert "of 2 plans**: as good: 1 (`one` at 2x); worse: 0; cannot tell: 1 (`one` at 3x)." in text


def test_results_without_code_and_day_are_not_shown(root: Path) -> None:
    path = root / "studies" / "bench" / "two" / "bench.json"
    content = json.loads(path.read_text())
    del content["facts"]["commit"]
    path.write_text(json.dumps(content))
    for render in (gains_table, standing_list, families_table):
        assert "the results of `two` say neither commit nor day" in " ".join(render(root).split())
        assert not re.search(r"\d", render(root))


def test_few_steps_have_a_table_of_their_own(root: Path) -> None:
    before, made = gains_table(root), root / "studies" / "bench" / "few"
    found = bench(
        row("HyCa plan 1.1x", "HyCa", 1.1, at(60.0), ours=True),
        row("HyCa plan 1.6x", "HyCa", 1.6, at(50.0), ours=True),
        row("Cache 1", "Cache", 1.05, at(58.0)),
        row("Cache that never acts", "Cache", 1.0, at(150.0)),
        row("Cache 2", "Cache", 1.55, at(49.0)),
        row("fewer steps 5", "fewer steps", 1.6, at(52.0)),
    )
    workload = found.facts.workload.model_copy(update={"num_steps": 8})
    made.mkdir()
    replace(found, facts=found.facts.model_copy(update={"workload": workload})).write(made)
    assert gains_table(root) == before, "long runs are as they were"
    first, second = (line for line in few_steps_table(root).splitlines() if line.startswith("| few"))
    assert "| 58.0, Cache 1 (1.05x) | +2.0 (+2.0 to +2.0) | none |  | something |" in first
    assert "| 49.0, Cache 2 (1.55x) | +1.0 (" in second
    assert second.endswith("| 52.0, fewer steps 5 (1.60x) | -2.0 (-2.0 to -2.0) | nothing can be gained here |")


def test_families_say_what_was_tried(root: Path) -> None:
    sweeps = (
        Sweep("Rival", "a paper", "", (), ("Rival 1: threshold",)),
        Sweep("Refused", "another", "its class is unknown", (), ()),
    )
    bench(row("Rival 1", "Rival", 1.9, at(52.0)), sweeps=sweeps).write(root / "studies" / "bench" / "one")
    text = families_table(root)
    assert "| Rival | a paper | 0 tried, 1 shown, open | not tried |" in text
    assert "| Refused | another | cannot attach | not tried |" in text
    assert "| Other |  | not tried | 2 shown |" in text


def test_the_committed_results_can_be_read() -> None:
    """All of them say of which code and day they are, or no figure is shown."""
    assert all(bench.facts.known for bench in benches_below(ROOT).values())


def test_what_the_demo_takes(tmp_path: Path) -> None:
    assert "being measured again" in " ".join(demo_sentence(tmp_path).split())
    found = Evaluation(
        flops_ratio=5.5,
        psnr_db=71.25,
        psnr_db_worst=64.7,
        psnr_db_each=(64.7, 77.8),
        **SIMILAR,
        wall_ratio=5.42,
        steps_total=50,
        steps_computed=9,
        cache_bytes=1024,
        num_samples=2,
        batch=8,
    )
    run = DemoRun(**FACTS, budget="5x", minutes=8.94, result=found)
    write_json(tmp_path / DEMO_RUN, run)
    assert DemoRun.model_validate_json((tmp_path / DEMO_RUN).read_text()) == run
    text = " ".join(demo_sentence(tmp_path).split())
    assert "took 8.9 minutes" in text
    assert "5.50x fewer FLOPs, 5.42x less wall time (batch 8), 71.2 dB" in text
    assert "64.7 dB the worst (a slow CPU, 1 CPU thread" in text


SPEEDS = {"sum_gb_per_s": 93.0, "copy_gb_per_s": 100.0, "share": 0.93}
REALISED = {
    "network": "flux-dev",
    "dtype": "bfloat16",
    "parameters": 11_900_000_000,
    "steps": 50,
    "computed": 10,
    "ideal": 5.0,
    "speed_up": 4.87,
    "share": 0.974,
    "full_step_ms": 900.0,
    "predicted_step_ms": 6.5,
    "added_bytes": 2**20,
    "weight_bytes": 2**30,
    "rivals": [
        {"name": "fast", "computed": 10, "speed_up": 4.99, "error": ""},
        {"name": "slow", "computed": 10, "speed_up": 3.5, "error": ""},
        {"name": "broken", "computed": 0, "speed_up": 0.0, "error": "no hooks"},
    ],
}


def test_what_the_runtime_costs(tmp_path: Path) -> None:
    folder = tmp_path / "studies" / "bench"
    folder.mkdir(parents=True)
    facts = {
        **FACTS,
        "device": "a fast GPU",
        "sum": [{"shape": [1, 8, 4], "dtype": "bfloat16", "taps": 2, **SPEEDS}],
        "overhead": {"network": "narrow", "blocks": 57, "network_ms": 20.0, "added_ms": 0.17},
        "realised": [REALISED],
    }
    (folder / "runtime-cuda.json").write_text(json.dumps(facts))
    (folder / "runtime-cpu.json").write_text(json.dumps({name: facts[name] for name in facts if name != "commit"}))
    assert runtime_sentence(tmp_path) == (
        "On a fast GPU, networks of published sizes with random weights run faster under a plan: flux-dev 4.87x "
        "(ideal 5.00x;\nfast, 10 steps computed, 4.99x)."
    )
    text = runtime_tables(tmp_path)
    assert "| flux-dev | 11.90 G, bfloat16 | 10 of 50 | 4.87x of 5.00x (97.4 %) | 900.0 | 6.50 | 1 |" in text
    assert "| flux-dev | slow | 10 | 3.50x |" in text
    assert "| flux-dev | broken | failed | no hooks |" in text
    assert "| 1 x 8 x 4 | bfloat16 | 2 | 93 % |" in text


def test_publish_writes_what_changed_and_then_nothing(root: Path) -> None:
    text = "# A\n\nBefore.\n\n<!-- figures: standing -->\nold\n<!-- end -->\n\nAfter.\n"
    (root / "README.md").write_text(text)
    (root / "docs" / "plain.md").write_text("Nothing here.\n")
    assert publish(root) == [root / "README.md"]
    now = (root / "README.md").read_text()
    assert now.startswith("# A\n\nBefore.\n\n<!-- figures: standing -->\n- **At equal cost")
    assert now.endswith("<!-- end -->\n\nAfter.\n")
    assert "old" not in now
    assert publish(root) == []
    shutil.rmtree(root / "studies" / "bench" / "two")
    assert publish(root) == [root / "README.md"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- figures: wishes -->\n<!-- end -->", "no figures are called 'wishes'"),
        ("<!-- figures: standing -->\n", "1 blocks begin with '<!-- figures: NAME -->', 0 of them have an end"),
        ("<!-- figures: standing -->\n<!-- figures: gains -->\n<!-- end -->", "2 blocks begin"),
    ],
)
def test_a_broken_block_is_refused(root: Path, text: str, message: str) -> None:
    with pytest.raises(StudyError, match=re.escape(message)):
        rendered(text, root)
