"""Made-up recorded sets for the roles' tests."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def recorded():
    """The module that writes made-up sets; loaded by path, because tests are no package."""
    path = Path(__file__).parents[2] / "support" / "recorded_sets.py"
    spec = importlib.util.spec_from_file_location("recorded_sets", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
