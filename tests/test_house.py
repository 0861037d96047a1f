"""The rules of the house that no linter knows."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"app": {"app", "streaming", "models"}, "streaming": {"streaming"}, "models": {"models"}}


def modules(package: str) -> list[Path]:
    return [p for p in (ROOT / package).rglob("*.py") if "node_modules" not in p.parts]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_downwards(package: str) -> None:
    """app → streaming, models; streaming → models.signals only; models → nothing of ours."""
    for path in modules(package):
        for name in imported(path):
            top = name.split(".")[0]
            if top not in PACKAGES or top in PACKAGES[package]:
                continue
            assert package == "streaming", f"{path} imports {name}"
            assert name.startswith("models.signals") or name == "models", f"{path} imports {name}"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_wait_swallows_a_cancellation(package: str) -> None:
    """Until Python 3.12 `asyncio.wait_for` loses one that arrives with the answer, and who was
    told to end goes on: `asyncio.timeout` does not.
    """
    for path in modules(package):
        assert "asyncio.wait_for(" not in path.read_text(), path


def test_no_python_lies_in_the_cuda_folder() -> None:
    """A package called cuda would shadow NVIDIA's."""
    assert list((ROOT / "cuda").rglob("*.py")) == []


def test_no_init_lies_below_tests() -> None:
    """Such a file makes pytest import a test folder over the package of the same name."""
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_every_package_module_says_what_it_is() -> None:
    """A newcomer finds the room for a change from names and first lines alone."""
    silent = [
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in modules(package)
        if path.read_text().strip()
        and not ast.get_docstring(ast.parse(path.read_text()))
        and "versions" not in path.parts
    ]

    assert silent == []
