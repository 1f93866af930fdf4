"""The architecture, read from the imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LAYERS = (
    (
        "hyca_runtime.command",
        "hyca_runtime.errors",
        "hyca_runtime.moment",
        "hyca_runtime.registry",
        "hyca_runtime.table",
        "hyca_runtime.feature",
    ),
    ("hyca_runtime.point", "hyca_runtime.group", "hyca_runtime.schedule", "hyca_runtime.history"),
    (
        "hyca_runtime.solvers",
        "hyca_runtime.policies",
        "hyca_runtime.combine",
        "hyca_runtime.combine_triton",
        "hyca_runtime.watch",
        "hyca_runtime.adaptive",
    ),
    ("hyca_runtime.section",),
    ("hyca_runtime.plan", "hyca_runtime.plan_cache"),
    ("hyca_runtime.attach",),
    ("hyca_runtime.report", "hyca_runtime.track"),
    ("hyca_runtime.recipe",),
    ("hyca_runtime.follower",),
    ("hyca_runtime.session",),
    ("hyca_runtime",),
    (
        "hyca_calib.atomic",
        "hyca_calib.provenance",
        "hyca_calib.console",
        "hyca_calib.workload",
        "hyca_calib.demo",
        "hyca_calib.cost",
        "hyca_calib.memory",
        "hyca_calib.zoo",
    ),
    ("hyca_calib.models", "hyca_calib.defaults", "hyca_calib.rollout", "hyca_calib.branches", "hyca_calib.shapes"),
    ("hyca_calib.trace",),
    ("hyca_calib.features", "hyca_calib.clusters"),
    ("hyca_calib.replay", "hyca_calib.budget", "hyca_calib.metrics", "hyca_calib.study", "hyca_calib.solver_table"),
    ("hyca_calib.search",),
    ("hyca_calib.evaluate", "hyca_calib.peers", "hyca_calib.report"),
    ("hyca_calib.bench", "hyca_calib.runtime_bench"),
    ("hyca_calib.commands",),
    ("hyca_calib.cli",),
    ("hyca_calib.__main__",),
    ("studies.paper",),
)
"""Bottom up. A file imports only its own layer and lower ones; the longest prefix decides."""

FILES = sorted(p for package in ("hyca_runtime", "hyca_calib", "studies/paper") for p in (ROOT / package).rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> int:
    found = [(len(p), i) for i, layer in enumerate(LAYERS) for p in layer if f"{module}.".startswith(f"{p}.")]
    if not found or (module != "hyca_runtime" and max(found)[0] == len("hyca_runtime")):
        pytest.fail(f"{module} belongs to no layer; add it to LAYERS")
    return max(found)[1]


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            bare = node.module == "hyca_calib"
            found.extend([f"{node.module}.{alias.name}" for alias in node.names] if bare else [node.module])
        elif isinstance(node, ast.Import):
            found.extend(alias.name for alias in node.names)
    return found


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_point_down(path: Path) -> None:
    module = module_of(path)
    if module == "hyca_calib":
        assert imports(path) == []
        return
    here = layer_of(module)
    for name in imports(path):
        if name.startswith(("hyca_runtime", "hyca_calib", "studies")):
            assert layer_of(name) <= here, f"{module} imports {name}, which lies above it"
        if module.startswith("hyca_runtime"):
            allowed = {*sys.stdlib_module_names, "hyca_runtime", "torch", "numpy", "pydantic"}
            own = {"triton"} if module == "hyca_runtime.combine_triton" else set()  # torch brings it
            assert name.split(".")[0] in allowed | own


def test_runtime_is_light() -> None:
    heavy = "diffusers", "zarr", "optuna", "sklearn", "scipy", "matplotlib", "typer", "rich", "hyca_calib"
    code = f"import sys, hyca_runtime; print([m for m in {heavy!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("path", [p for p in FILES if "hyca_runtime" in p.parts], ids=module_of)
def test_runtime_files_stay_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 250
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
            assert node.end_lineno - node.lineno <= 45, f"{node.name} is long"


@pytest.mark.parametrize("path", [p for p in FILES if "studies" in p.parts], ids=module_of)
def test_files_of_the_study_stay_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 250
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
            assert node.end_lineno - node.lineno <= 60, f"{node.name} is long"


def test_ci_runs_the_command_of_the_readme() -> None:
    install = "python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt -e . -e './hyca_calib[dev]'"
    for name in ("README.md", ".ci/run"):
        assert f'\n{install} && .venv/bin/pytest -n auto -m "not gpu"\n' in (ROOT / name).read_text()
