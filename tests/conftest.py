"""What tests of all packages share: a real Kafka, and the rule about services that are missing.

A test whose service is missing is skipped with the reason; with CI=true it fails, for there nothing
may be missing.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from streaming.producer import Admin
from streaming.topics import TOPICS, ensure_topics


def _load(name: str) -> Any:
    """A helper module beside this file: nothing below tests/ is a package, so that none shadows
    ours.
    """
    path = Path(__file__).parent.joinpath(*name.split(".")).with_suffix(".py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


# Two busy cores: how long an example takes says nothing about it.
settings.register_profile(
    "house", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60
)
settings.load_profile("house")
kafka_server = _load("kafka_server")
PARTITIONS = 4


def _require(name: str, available: bool, reason: str) -> None:
    if available:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"{name}: {reason}", pytrace=False)
    pytest.skip(f"{name}: {reason}")


@pytest.fixture(scope="session")
def require() -> Callable[[str, bool, str], None]:
    """`require(name, available, reason)`: skips where a service is missing, fails with CI=true."""
    return _require


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real Kafka for the whole run: `.servers`, `.restart()`, `.kill()`, `.start()`, `.pid`.
    Without topics.
    """
    reason = kafka_server.resolve()
    _require("Apache Kafka", not reason, reason)
    server = kafka_server.KafkaServer(tmp_path_factory.mktemp("kafka"))
    server.start()
    try:
        yield server
    finally:
        server.stop()


@dataclass(frozen=True)
class Stream:
    """A real Kafka whose topics are new and empty; groups that begin with `group` are this test's
    own.
    """

    server: Any
    servers: str
    group: str
    partitions: int = PARTITIONS


@pytest.fixture
async def stream(kafka: Any) -> AsyncIterator[Stream]:
    """Clean topics on the real Kafka, 4 partitions each, and a group prefix of this test's own."""
    if not kafka.running:
        kafka.start()
    await remove_topics(kafka.servers)
    await ensure_topics(kafka.servers, PARTITIONS)
    yield Stream(kafka, kafka.servers, f"test-{uuid.uuid4().hex[:8]}")


async def remove_topics(servers: str) -> None:
    """Delete the product's topics and wait until they are gone."""
    async with Admin(servers) as admin:
        if found := [topic for topic in await admin.partitions() if topic in TOPICS]:
            await admin.delete(found)
        while any(topic in TOPICS for topic in await admin.partitions()):
            pass  # each look is a request: no busy loop


@pytest.fixture(scope="session")
def recorded() -> Any:
    """The module that writes made-up recorded sets."""
    return _load("support.recorded_sets")
