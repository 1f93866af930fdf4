"""What the two distributions hold, and what a runtime without the toolkit says."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TOOLKIT = ROOT / "hyca_calib"
RUNTIME_BYTES = 400_000
ALONE = "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f)]; "
"""The toolkit is not found through this environment's editable installation."""


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True)


def built(source: Path, kind: str, out: Path) -> Path:
    """The wheel or sdist of a copy, for building writes beside its source."""
    out.mkdir()
    done = python(f"from setuptools import build_meta; print(build_meta.build_{kind}({str(out)!r}))", source)
    assert done.returncode == 0, done.stderr[-2000:]
    return out / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("copy") / "hyca"
    skipped = shutil.ignore_patterns(".*", "*.egg-info", "build", "weights", "*.zarr", "__pycache__", "traces")
    return Path(shutil.copytree(ROOT, source, ignore=skipped))


def test_the_runtime_is_small_and_alone(copy: Path, tmp_path: Path) -> None:
    wheel = built(copy, "wheel", tmp_path / "out")
    with zipfile.ZipFile(wheel) as content:
        assert {name.split("/")[0] for name in content.namelist()} == {"hyca_runtime", "hyca-0.1.0.dist-info"}
    assert wheel.stat().st_size < RUNTIME_BYTES
    shutil.unpack_archive(wheel, tmp_path / "site", "zip")
    first = f"sys.path.insert(0, {str(tmp_path / 'site')!r}); "
    done = python(ALONE + first + "from hyca_runtime.command import main; main()", tmp_path)
    assert done.returncode == 2
    assert "pip install 'hyca[calib]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_source_archive_carries_tests_and_documents(copy: Path, tmp_path: Path) -> None:
    with tarfile.open(built(copy, "sdist", tmp_path / "out")) as content:
        names = {name.partition("/")[2] for name in content.getnames()}
    assert {"constraints.txt", "docs/plan.md", "tests/conftest.py", "hyca_runtime/plan.py", "LICENSE"} <= names
    assert {"studies/zoo/__main__.py", "studies/paper/__main__.py", "studies/training/loop.py"} <= names
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", (copy / "README.md").read_text())
    assert pictures, "README has pictures"
    assert {"README.md", *pictures} <= names, "and shows them from the archive, too"


def test_an_index_shows_a_page_without_broken_pictures() -> None:
    page = (ROOT / project(ROOT)["project"]["readme"]).read_text()
    assert "](" not in page, "nothing on it is relative to the repository"


def project(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text())


def test_the_toolkit_lists_its_packages() -> None:
    there = [path.parent.relative_to(ROOT).parts for path in TOOLKIT.rglob("__init__.py")]
    assert sorted(project(TOOLKIT)["tool"]["setuptools"]["packages"]) == sorted(map(".".join, there))


def test_both_have_one_version() -> None:
    runtime, toolkit = project(ROOT)["project"], project(TOOLKIT)["project"]
    assert runtime["version"] == toolkit["version"]
    assert f"hyca=={runtime['version']}" in toolkit["dependencies"]
    assert all(f"=={toolkit['version']}" in one for one in runtime["optional-dependencies"]["calib"])
