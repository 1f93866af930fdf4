"""Commands as a user types them, in a folder with prompts."""

from __future__ import annotations

from pathlib import Path

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
