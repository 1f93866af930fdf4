from __future__ import annotations

from pathlib import Path

import pytest
from commands import write_prompts


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with prompts.txt in it."""
    monkeypatch.chdir(tmp_path)
    write_prompts(tmp_path)
    return tmp_path
