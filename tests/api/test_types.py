"""The types that the API shows to a program's type checker."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

FILES = ("api", "browse/open.py", "images/opened.py")  # the API, and what its classes consist of


def inferred(source: str) -> Iterator[str]:
    """The public attributes of objects whose type a checker has to infer from a call."""
    nodes = list(ast.walk(ast.parse(source)))
    declared = {
        name for one in nodes if isinstance(one, ast.AnnAssign) for name in _public(one.target)
    }
    for method in nodes:
        if isinstance(method, ast.FunctionDef) and method.name == "__init__":
            for one in ast.walk(method):
                if isinstance(one, ast.Assign) and not isinstance(one.value, ast.Name):
                    found = (name for target in one.targets for name in _public(target))
                    yield from (name for name in found if name not in declared)


def _public(target: ast.expr) -> list[str]:
    if isinstance(target, ast.Attribute) and not target.attr.startswith("_"):
        return [target.attr]
    return []


@pytest.mark.parametrize("name", FILES)
def test_attributes_have_declared_types(project: Path, name: str) -> None:
    """Checkers infer differently; pyright calls a class of a py.typed package unknown for it."""
    place = project / "src/unionmount" / name
    paths = sorted(place.glob("*.py")) if place.is_dir() else [place]
    assert paths
    found = {path.name: list(inferred(path.read_text(encoding="utf-8"))) for path in paths}
    assert not {path: names for path, names in found.items() if names}
