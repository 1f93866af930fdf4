"""Commands as a user types them, in a folder with prompts."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from hyca_calib.cli import app

MODEL = ("--model", "tiny:pipeline")
WORDS = ("red heart", "blue cat", "green dog", "red star", "blue square", "green heart", "red cat")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def write_prompts(folder: Path) -> Path:
    path = folder / "prompts.txt"
    path.write_text("\n".join(WORDS))
    return path


def write_trace(folder: Path, samples: int, steps: int) -> Path:
    """A trace of the tiny model in `folder`, with the prompts; returns its path."""
    write_prompts(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = run("trace", *MODEL, "--prompts", "prompts.txt", "--samples", samples, "--steps", steps)
    assert done.exit_code == 0, done.output
    return folder / done.stdout.strip()
