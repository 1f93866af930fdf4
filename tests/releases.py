"""The source text of what hosts release, where it is at hand."""

from __future__ import annotations

import ast
import os
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest

WHEELS = "HYCA_HOST_WHEELS"
"""The environment's name for a folder of wheels: ``pip download --no-deps -d FOLDER vllm-omni sglang xfuser``."""


class Release:
    """The files of a distribution, installed or as a wheel; the test is skipped if neither is there."""

    def __init__(self, name: str) -> None:
        self.name, self._wheel = name, None
        stem = name.replace("-", "_")
        found = sorted(Path(os.environ.get(WHEELS, "")).glob(f"{stem}-*.whl")) if os.environ.get(WHEELS) else []
        if found:
            self._wheel, self.version = zipfile.ZipFile(found[-1]), found[-1].name.split("-")[1]
            return
        try:
            self._installed = distribution(name)
        except PackageNotFoundError:
            pytest.skip(f"{name} is not installed, and no wheel of it is in ${WHEELS}")
        self.version = self._installed.version

    def text(self, path: str) -> str:
        """The source of a file."""
        if self._wheel is not None:
            assert path in self._wheel.namelist(), self.told(f"there is no {path}")
            return self._wheel.read(path).decode()
        file = Path(str(self._installed.locate_file(path)))
        assert file.is_file(), self.told(f"there is no {path}")
        return file.read_text()

    def told(self, what: str) -> str:
        """What is wrong, and what is to be done."""
        module = {"xfuser": "parallel"}.get(self.name, self.name.replace("-", "_"))
        mend = f"read its interface again, mend hyca_runtime/integrations/{module}.py, then its pin in hosts.py"
        return f"{self.name} {self.version}: {what}; {mend}"

    def arguments(self, path: str, name: str) -> list[str]:
        """Of a function or, as ``Class.method``, of a method; those with a default as ``name=default``."""
        found = self._node(path, name, ast.FunctionDef).args
        names = [argument.arg for argument in found.args]
        plain = len(names) - len(found.defaults)
        told = [f"{name}={ast.unparse(value)}" for name, value in zip(names[plain:], found.defaults, strict=True)]
        return names[:plain] + told

    def fields(self, path: str, name: str) -> set[str]:
        """Of a dataclass."""
        body = self._node(path, name, ast.ClassDef).body
        return {
            node.target.id for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        }

    def run(self, path: str, names: tuple[str, ...], given: dict[str, Any]) -> dict[str, Any]:
        """The parts of a file of those names, made alone.

        Args:
            given: what they use of others.
        """
        wanted = [node for node in ast.parse(self.text(path)).body if _names(node) & {*names}]
        assert {name for node in wanted for name in _names(node)} >= {*names}, self.told(f"{path} lacks one of {names}")
        space = {"__name__": __name__, **given}  # where dataclasses look names up
        future = ast.parse("from __future__ import annotations").body
        exec(compile(ast.Module(future + wanted, []), path, "exec"), space)  # noqa: S102  # of a release, in a test
        return space

    def _node(self, path: str, name: str, kind: type[Any]) -> Any:
        body = ast.parse(self.text(path)).body
        for part in name.split("."):
            node = next((n for n in body if part in _names(n)), None)
            assert node is not None, self.told(f"{path} has no {name}")
            body = getattr(node, "body", [])
        assert isinstance(node, kind), self.told(f"{name} of {path} is no {kind.__name__}")
        return node


def _names(node: ast.AST) -> set[str]:
    """What a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}
