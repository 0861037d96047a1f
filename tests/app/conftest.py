"""Databases for the tests: SQLite and a real PostgreSQL, each test with an empty one."""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.ward import database

_SPEC = importlib.util.spec_from_file_location(
    "postgres_server", Path(__file__).parent / "postgres_server.py"
)
assert _SPEC is not None and _SPEC.loader is not None
postgres_server = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(postgres_server)
_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A running PostgreSQL; skips where there is none, fails there in CI."""
    if reason := postgres_server.missing():
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    server = postgres_server.PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ward.db'}"
    server = request.getfixturevalue("postgres")
    return str(server.create(f"ward_{next(_NUMBERS)}"))


@pytest.fixture
def database_url(empty_url: str) -> str:
    """URL of a migrated database, of each kind."""
    database.migrate(empty_url)
    return empty_url
