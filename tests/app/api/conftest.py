"""An application over real parts: a database, a view and a broadcaster; only Kafka is a list."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.api.application import application
from app.api.services import Services
from app.api.stream import Broadcaster
from app.api.view import LatestView
from app.lifecycle import Health
from app.metrics import Metrics
from app.ward import database
from app.ward.store import Store

TOKEN = "test-token-1234"
NOW = 1_795_000_000_000


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Any]:
    """`.client`, `.services`, `.published`, `.parts`, `.token`."""
    url = f"sqlite:///{tmp_path / 'ward.db'}"
    database.migrate(url)
    store = Store(url)
    broadcaster = Broadcaster()
    published: list[tuple[str, str, bytes | None]] = []
    parts = {"stream": Health(True)}

    async def publish(topic: str, key: str, value: bytes | None) -> None:
        published.append((topic, key, value))

    view = LatestView(30_000, broadcaster.predicted, broadcaster.changed, broadcaster.alerted)
    view_flush = broadcaster.flush
    broadcaster.flush = lambda: None  # type: ignore[method-assign]
    metrics = Metrics()
    services = Services(
        view=view,
        broadcaster=broadcaster,
        store=store,
        metrics=metrics,
        publish=publish,
        health=lambda: parts,
        card=lambda: {"loaded": {}},
        clock_ms=lambda: NOW,
    )
    app = application(services, TOKEN)
    with TestClient(app, raise_server_exceptions=False) as client:
        client.headers["authorization"] = f"Bearer {TOKEN}"
        yield SimpleNamespace(
            client=client,
            app=app,
            services=services,
            published=published,
            parts=parts,
            token=TOKEN,
            flush=view_flush,
            now=NOW,
        )
    store.close()
