"""The ward's role on the embedded broker: it starts, keeps books, tells its state, and stops."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from app.lifecycle import Deadline
from app.metrics import CONTENT_TYPE, Metrics
from app.roles.migrate import migrate
from app.roles.ward import Ward
from app.settings import BadSetting, Settings
from app.ward.store import Store
from streaming.broker import EmbeddedBroker
from streaming.messages import VITALS
from streaming.producer import Producer


def minute() -> int:
    now_ms = time.time_ns() // 1_000_000
    return now_ms - now_ms % 60_000


async def mean_of(store: Store, value: float, seconds: float = 20.0) -> None:
    """Wait until bed A's heart rate of the last minutes has this mean."""
    end = time.monotonic() + seconds
    found: Any = None
    while time.monotonic() < end:
        found = store.trends("A", ["hr"], minute() - 60_000, minute(), 3_600)["hr"]
        if found and found[0][1] == pytest.approx(value):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(found)


async def publish(servers: str, first_ms: int, *rates: float) -> None:
    async with Producer(servers) as producer:
        for i, rate in enumerate(rates):
            body = {"bed_id": "A", "ts_ms": first_ms + i * 1_000, "values": {"hr": rate}}
            await (await producer.send(VITALS, b"A", json.dumps(body).encode()))


async def test_new_broker_under_an_old_database_is_read_from_its_beginning(tmp_path: Path) -> None:
    """The embedded broker forgets at exit, the database does not: the next run is not ignored."""
    url = f"sqlite:///{tmp_path / 'data' / 'ward.db'}"
    metrics = Metrics()
    store = Store(url)
    first_ms = minute() - 30_000
    for start, rates, mean in ((0, (60.0, 70.0, 80.0), 70.0), (5_000, (90.0, 150.0), 90.0)):
        async with EmbeddedBroker() as broker:
            settings = Settings(kafka=broker.servers, database=url)
            ward = Ward(settings, metrics, lambda: (b"x 1\n", CONTENT_TYPE))
            await ward.start()
            waiting = asyncio.create_task(ward.wait())
            await publish(broker.servers, first_ms + start, *rates)
            await mean_of(store, mean)
            assert ward._ops is not None
            answer = await asyncio.to_thread(
                lambda port: urlopen(f"http://127.0.0.1:{port}/health/ready").read(),
                ward._ops.port,
            )
            assert set(json.loads(answer)["parts"]) >= {"database", "kafka", "lag"}
            assert not waiting.done()
            waiting.cancel()
            began = time.monotonic()
            await ward.drain(Deadline(9.0))
            await ward.drain(Deadline(9.0))
            assert time.monotonic() - began < 9.0
    store.close()


@pytest.mark.parametrize("turns", range(6))
async def test_a_change_in_the_moment_of_the_end_keeps_nobody(tmp_path: Path, turns: int) -> None:
    """Who publishes ends when told to, however close to an alert's change it is told."""
    ward = Ward(Settings(kafka="127.0.0.1:1", database=f"sqlite:///{tmp_path / 'ward.db'}"))
    publishing = asyncio.create_task(ward._publish())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    ward._changed.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    publishing.cancel()
    _, late = await asyncio.wait({publishing}, timeout=5.0)
    publishing.cancel()
    await ward.drain(Deadline(0.5))
    assert not late


async def test_ward_needs_a_broker(tmp_path: Path) -> None:
    """Without a broker the ward does not start, and says which setting is missing."""
    with pytest.raises(BadSetting, match="kafka"):
        Ward(Settings(data_dir=tmp_path))
    assert not (tmp_path / "vitalstream.db").exists()


async def test_migrate_makes_the_default_database(tmp_path: Path) -> None:
    """`migrate` on the default makes the file and can be called again."""
    settings = Settings(data_dir=tmp_path / "new")
    assert await migrate(settings) == await migrate(settings)
    store = Store(settings.database_url)
    store.ping()
    store.close()
