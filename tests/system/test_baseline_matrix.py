"""What other caches do on models of the zoo; the facts hold for the versions that are named here."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from processes import forked, script

from studies.zoo import MODELS
from studies.zoo.baselines import BASELINES, BaselineVerdict, baseline_matrix, to_markdown

COMMAND = Path(__file__).parents[2] / "studies/zoo/baselines/__main__.py"
VERSION = "0.42.1"
on_that_version = pytest.mark.skipif(
    importlib.metadata.version("diffusers") != VERSION, reason=f"facts about diffusers {VERSION}"
)


def verdict(model: str, baseline: str) -> str:
    (row,) = baseline_matrix([model], [baseline])
    return row.verdict


def test_a_row_for_every_pair_in_the_order_asked_for() -> None:
    models, baselines = ["WanTransformer3DModel", "FluxTransformer2DModel"], ["HyCa", "TaylorSeer lite"]
    rows = baseline_matrix(models, baselines)
    assert [(row.model, row.baseline) for row in rows] == [
        (model, baseline) for model in models for baseline in baselines
    ]
    assert all("layers run by step: 100 100 0 100 0 100 %" in row.detail for row in rows)
    assert set(models) <= set(MODELS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        rows[0].verdict = "works"  # type: ignore[misc]


@pytest.mark.parametrize("model", ["Flux2Transformer2DModel", "SD3Transformer2DModel", "ZImageTransformer2DModel"])
@on_that_version
def test_the_runtime_works_where_first_block_cache_crashes(model: str) -> None:
    assert verdict(model, "FirstBlockCache").startswith("crashes: ")
    assert verdict(model, "HyCa") == "works"


@on_that_version
def test_taylorseer_does_nothing_on_wan_until_its_blocks_are_named() -> None:
    assert verdict("WanTransformer3DModel", "TaylorSeer") == "does nothing"
    assert verdict("WanTransformer3DModel", "TaylorSeer blocks").startswith("wrong: run after a cut-off run")
    assert verdict("WanTransformer3DModel", "HyCa") == "works"


@on_that_version
def test_unregistered_blocks_are_refused() -> None:
    (row,) = baseline_matrix(["ChromaTransformer2DModel"], ["FirstBlockCache"])
    assert row.verdict == "refused: ValueError: Model class ChromaTransformerBlock not registered."
    assert row.detail == "threshold=0.05"  # and not: the network does not run as before


@on_that_version
def test_first_block_cache_works_on_flux() -> None:
    (row,) = baseline_matrix(["FluxTransformer2DModel"], ["FirstBlockCache"])
    assert row.verdict == "works"
    assert row.notes == ()


def test_one_verdict_does_not_depend_on_those_before() -> None:
    rows = baseline_matrix(["ZImageTransformer2DModel"], ["FirstBlockCache", "MagCache"])
    assert rows[1] == baseline_matrix(["ZImageTransformer2DModel"], ["MagCache"])[0]


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert verdict("FluxTransformer2DModel", "DBCache") == "not installed"


def test_the_zoo_does_not_import_cache_dit() -> None:
    code = "import sys, studies.zoo.check, studies.zoo.baselines; print('cache_dit' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("cache_dit") is None, reason="cache-dit is not installed")
def test_cache_dit_in_a_process_of_its_own(tmp_path: Path) -> None:
    """To import it changes logging and registers attention backends."""
    baselines = [f"--baseline={name}" for name in BASELINES if name.startswith("DBCache")]
    arguments, log = ["FluxTransformer2DModel", "WanTransformer3DModel", *baselines], tmp_path / "log"
    reading, writing = forked().Pipe(duplex=False)
    process = forked().Process(target=script, args=(COMMAND, arguments, writing, log))
    process.start()
    writing.close()
    with open(reading.fileno(), closefd=False) as output:
        out = output.read()
    process.join()
    assert process.exitcode == 0, log.read_text()
    assert "| FluxTransformer2DModel | works | works |" in out
    assert "| WanTransformer3DModel | works | works |" in out
    assert "[Cache-DiT]" not in out


def test_markdown_counts_words_and_groups_reasons() -> None:
    rows = [
        BaselineVerdict("FluxTransformer2DModel", "A", "works", "layers run by step: 100 50 %"),
        BaselineVerdict(
            "FluxTransformer2DModel", "B", "wrong: run after a cut-off run: other output", notes=("a note",)
        ),
        BaselineVerdict("WanTransformer3DModel", "A", "refused: ValueError: Model class WanTransformerBlock | x"),
        BaselineVerdict("WanTransformer3DModel", "B", "wrong: output off by 7 % somewhere"),
        BaselineVerdict("SD3Transformer2DModel", "A", "refused: ValueError: Model class JointTransformerBlock | x"),
        BaselineVerdict("SD3Transformer2DModel", "B", "wrong: switched off: other output"),
    ]
    text = to_markdown(rows)
    assert "| works | 1 | 0 |" in text
    assert "| works, leaks | 0 | 1 |" in text
    assert r"| FluxTransformer2DModel | works | works, leaks \* |" in text
    assert r"| refused: ValueError: Model class ... \| x | A | Wan, SD3 |" in text
    assert "| wrong: output off by N % somewhere | B | Wan (7 %) |" in text
    assert "| wrong: switched off: other output | B | SD3 |" in text
    assert "| a note | B | Flux |" in text
    widths = [line.replace(r"\|", "").count("|") for line in text.splitlines() if line.startswith("| Class")]
    assert widths == [4]
