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
        "hyca_runtime.plan_part",
        "hyca_runtime.plan_facts",
        "hyca_runtime.stacked",
        "hyca_runtime.registry",
        "hyca_runtime.settings",
        "hyca_runtime.table",
        "hyca_runtime.flop_count",
        "hyca_runtime.feature",
        "hyca_runtime.agreement",
    ),
    ("hyca_runtime.integrations.plan_index",),
    ("hyca_runtime.integrations.hub",),
    (
        "hyca_runtime.point",
        "hyca_runtime.group",
        "hyca_runtime.schedule",
        "hyca_runtime.history",
    ),
    (
        "hyca_runtime.solvers",
        "hyca_runtime.variant",
        "hyca_runtime.streaming",
        "hyca_runtime.policies",
        "hyca_runtime.combine",
        "hyca_runtime.combine_triton",
        "hyca_runtime.finite_guard",
        "hyca_runtime.fingerprint",
        "hyca_runtime.precision",
        "hyca_runtime.adaptive",
    ),
    (
        "hyca_runtime.placed_weights",
        "hyca_runtime.chunking",
        "hyca_runtime.probes",
        "hyca_runtime.forecast",
        "hyca_runtime.network_plan",
        "hyca_runtime.plain_section",
        "hyca_runtime.testing",
    ),
    ("hyca_runtime.noise_gain",),
    (
        "hyca_runtime.certified",
        "hyca_runtime.fit",
        "hyca_runtime.version_2",
        "hyca_runtime.plan_faults",
        "hyca_runtime.plan",
        "hyca_runtime.plan_cache",
    ),
    ("hyca_runtime.attach",),
    (
        "hyca_runtime.report",
        "hyca_runtime.branches",
        "hyca_runtime.time_grids",
        "hyca_runtime.step_tracker",
        "hyca_runtime.run_tracker",
        "hyca_runtime.free_tracker",
        "hyca_runtime.calls",
    ),
    ("hyca_runtime.compiled_plan", "hyca_runtime.deciding", "hyca_runtime.stream_state", "hyca_runtime.doing"),
    ("hyca_runtime.lane",),
    ("hyca_runtime.lanes", "hyca_runtime.chunk_parts"),
    ("hyca_runtime.forecasting", "hyca_runtime.surprise", "hyca_runtime.cost_ratio"),
    ("hyca_runtime.complaints",),
    ("hyca_runtime.on_the_way",),
    ("hyca_runtime.decisions",),
    ("hyca_runtime.chunks_together",),
    ("hyca_runtime.chunk_calls",),
    ("hyca_runtime.executor",),
    ("hyca_runtime.account",),
    ("hyca_runtime.session", "hyca_runtime.starter"),
    ("hyca_runtime.apply",),
    ("hyca_runtime.samplers",),
    ("hyca_runtime.integrations",),
    ("hyca_runtime",),
    ("hyca_calib.records", "hyca_calib.costs", "hyca_calib.demo", "hyca_calib.callable_package"),
    ("hyca_calib.pipelines",),
    ("hyca_calib.quality",),
    ("hyca_calib.trace",),
    ("hyca_calib.features", "hyca_calib.clusters", "hyca_calib.testing"),
    ("hyca_calib.search",),
    ("hyca_calib.baselines", "hyca_calib.report", "hyca_calib.lanes"),
    ("hyca_calib.bench",),
    ("hyca_calib.commands",),
    ("hyca_calib.cli", "hyca_calib.api"),
    ("hyca_calib.__main__",),
    ("studies.zoo", "studies.training"),
    ("studies.paper", "studies.starter", "studies.curves", "studies.precision", "studies.streaming", "studies.sound"),
)
"""Bottom up. A file imports only its own layer and lower ones; the longest prefix decides."""

FACE = {"importlib", "typing", "hyca_calib.api"}
"""What the toolkit's own ``__init__.py`` imports, the last for type checkers alone."""
LIGHT = {*sys.stdlib_module_names, "hyca_runtime", "torch", "numpy", "pydantic"}
"""What the runtime may import."""

HOSTS = {
    "hyca_runtime.combine_triton": {"triton"},  # torch brings it
    "hyca_runtime.attach.quantised": {"torchao"},  # plans with variants ask for it
    "hyca_runtime.integrations.hub": {"huggingface_hub"},
    "hyca_runtime.integrations.comfyui": {"comfy"},
}
"""What single files import beside that, where it is used."""

FILES = sorted(p for package in ("hyca_runtime", "hyca_calib", "studies") for p in (ROOT / package).rglob("*.py"))


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


def test_imports_point_down() -> None:
    offences = []
    for path in FILES:
        module = module_of(path)
        found = imports(path)
        if module == "hyca_calib":
            offences += [f"{module} imports {name}, expected what its face names" for name in found if name not in FACE]
            continue
        here = layer_of(module)
        ours = [name for name in found if name.startswith(("hyca_runtime", "hyca_calib", "studies"))]
        offences += [f"{module} imports {name}, which lies above it" for name in ours if layer_of(name) > here]
        if module.startswith("hyca_runtime"):
            own = set().union(*(names for host, names in HOSTS.items() if f"{module}.".startswith(f"{host}.")))
            offences += [f"{module} imports {name}" for name in found if name.split(".")[0] not in LIGHT | own]
    assert offences == []


def test_runtime_is_light() -> None:
    heavy = (
        "diffusers",
        "zarr",
        "optuna",
        "sklearn",
        "scipy",
        "matplotlib",
        "typer",
        "rich",
        "hyca_calib",
        "huggingface_hub",
    )
    hosts = "import hyca_runtime.integrations.parallel, hyca_runtime.integrations.comfyui"
    code = f"import sys, hyca_runtime; {hosts}; print([m for m in {heavy!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_toolkit_does_nothing_when_it_is_imported() -> None:
    heavy = "torch", "numpy", "diffusers", "zarr", "optuna", "hyca_runtime", "typer", "rich", "hyca_calib.api"
    code = (
        "import sys, hyca_calib; print(sorted(set(hyca_calib.__all__) - set(dir(hyca_calib))));"
        f"from hyca_calib import trace, search; print([m for m in {heavy!r} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["[]", "[]"]


def test_files_and_functions_stay_small() -> None:
    offences = []
    for path in FILES:
        text = path.read_text()
        lines, longest = (250, 45) if "hyca_runtime" in path.parts else (300, 60)
        if len(text.splitlines()) > lines:
            offences.append(f"{path.relative_to(ROOT)} has more than {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                length = node.end_lineno - node.lineno + 1
                if length > longest:
                    offences.append(f"{path.relative_to(ROOT)}: {node.name} has {length} lines, more than {longest}")
    assert offences == []


def test_ci_runs_the_command_of_the_readme() -> None:
    install = "python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt -e . -e './hyca_calib[dev]'"
    for name in ("README.md", ".ci/run"):
        assert f'\n{install} && .venv/bin/pytest -n auto -m "not gpu"\n' in (ROOT / name).read_text()
