"""The ward on a real Kafka with SQLite and a real PostgreSQL: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.lifecycle import Deadline
from app.roles.ward import Ward
from app.settings import Settings
from app.ward import database
from app.ward.database import NotMigrated
from app.ward.ledger import Ledger
from app.ward.store import Store
from streaming.messages import (
    ALERTS,
    CASES,
    PREDICTIONS,
    VITALS,
    Alert,
    Case,
    Input,
    Prediction,
    Risk,
    Source,
)
from streaming.producer import Producer
from streaming.reader import Reader

pytestmark = pytest.mark.integration

BEDS = [f"bed-{i}" for i in range(8)]
MINUTE_MS = 60_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@asynccontextmanager
async def ward_on(stream: Any, url: str, **options: Any) -> AsyncIterator[Ward]:
    """A running ward, drained at the end."""
    fields = {"kafka": stream.servers, "database": url, "group": stream.group, **options}
    ward = Ward(Settings(**fields))
    await ward.start()
    waiting = asyncio.create_task(ward.wait())
    try:
        yield ward
        assert not waiting.done(), waiting.exception()
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await ward.drain(Deadline(9.0))


async def until(true: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Ask until the answer is true; returns it."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(database.DatabaseGone):
            if found := await asyncio.to_thread(true):
                return found
        assert time.monotonic() < end, "it did not come true"
        await asyncio.sleep(0.05)


def prediction(bed_id: str, ts_ms: int, source: int, low: bool) -> bytes:
    return msgspec.json.encode(
        Prediction(
            bed_id=bed_id,
            case_id=f"case-{bed_id}",
            ts_ms=ts_ms,
            produced_ms=ts_ms + 10,
            model="m",
            model_version="1",
            status="ok",
            risks={"hypotension": Risk(0.9 if low else 0.1, 0.0, 1.0, low)},
            experts={},
            novelty=0.0,
            scores={},
            inputs={"map": Input(55.0, 0)},
            drivers=[],
            source=Source(0, source),
        )
    )


def observation(bed_id: str, ts_ms: int, hr: float) -> bytes:
    return msgspec.json.encode({"bed_id": bed_id, "ts_ms": ts_ms, "values": {"hr": hr}})


async def publish(producer: Producer, start_ms: int, first: int, seconds: int) -> None:
    """Every bed, each second: an observation and the prediction made from it, low pressure."""
    for i in range(first, first + seconds):
        ts_ms = start_ms + i * 1_000
        for bed_id in BEDS:
            key = bed_id.encode()
            await producer.send(VITALS, key, observation(bed_id, ts_ms, 60.0 + i % 60))
            await producer.send(PREDICTIONS, key, prediction(bed_id, ts_ms, i, low=True))
    assert await producer.flush()


async def published_alerts(stream: Any) -> list[Alert]:
    async with Reader(stream.servers) as reader:
        partitions = await reader.partitions(ALERTS)
        return [
            msgspec.json.decode(record.value, type=Alert)
            async for records in reader.read(ALERTS, partitions)
            for record in records
        ]


def expected_minutes(start_ms: int, seconds: int) -> dict[int, list[float]]:
    minutes: dict[int, list[float]] = {}
    for i in range(seconds):
        ts_ms = start_ms + i * 1_000
        minutes.setdefault(ts_ms - ts_ms % MINUTE_MS, []).append(60.0 + i % 60)
    return minutes


def check_all(store: Store, start_ms: int, seconds: int) -> bool:
    """Whether all is in the trends, every minute in the history, and each bed alarmed once."""
    minutes = expected_minutes(start_ms, seconds)
    for bed_id in BEDS:
        found = store.trends(bed_id, ["hr"], start_ms, start_ms + seconds * 1_000, 60)["hr"]
        wanted = [
            (at, pytest.approx(sum(vs) / len(vs)), min(vs), max(vs)) for at, vs in minutes.items()
        ]
        if found != wanted:
            return False
        kept = {p.ts_ms - p.ts_ms % MINUTE_MS for p in store.predictions(bed_id)}
        if kept != set(minutes):
            return False
        alerts = store.alerts("open", bed_id)
        if [a.kind for a in alerts] != ["hypotension"] or len(alerts[0].history) != 1:
            return False
    return True


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_crash_and_a_restart_write_everything_once(
    stream: Any, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A ward that ends without a word and one that follows it write what one ward would have."""
    if kind == "sqlite":
        url = f"sqlite:///{tmp_path / 'ward.db'}"
    else:
        url = request.getfixturevalue("postgres").create(f"crash_{os.getpid()}")
        database.migrate(url)
    store = Store(url)
    start_ms = now_ms() - 100_000
    async with Producer(stream.servers) as producer:
        async with ward_on(stream, url) as ward:
            await publish(producer, start_ms, 0, 50)
            await until(lambda: store.latest())
            # What a crash leaves undone: nothing of memory is written, nobody is told.
            ward._desk.write = lambda *_: False  # type: ignore[method-assign]
            await publish(producer, start_ms, 50, 30)
            await asyncio.sleep(0.3)
        async with ward_on(stream, url):
            await publish(producer, start_ms, 80, 21)
            await until(lambda: check_all(store, start_ms, 101))
            (alert, *_) = store.alerts("open", BEDS[0])
            store.act(alert.id, "acknowledge", "nurse", "seen", now_ms=now_ms())
            case = Case(BEDS[1], "next", "open", now_ms())
            key = BEDS[1].encode()
            await producer.send(CASES, key, msgspec.json.encode(case))
            await until(lambda: store.alerts("closed", BEDS[1]))
            end = time.monotonic() + 10
            while True:
                last = {alert.bed_id: alert for alert in await published_alerts(stream)}
                states = {bed_id: alert.state for bed_id, alert in last.items()}
                if states.get(BEDS[0]) == "acknowledged" and states.get(BEDS[1]) == "closed":
                    break
                assert time.monotonic() < end, states
                await asyncio.sleep(0.1)
            assert set(states) == set(BEDS)
            assert last[BEDS[0]] == store.alert(alert.id)
    store.close()


async def test_two_wards_share_the_beds_and_lose_nothing(stream: Any, postgres: Any) -> None:
    """A second ward joins and leaves under load: each bed has one ward, each alert opens once."""
    url = postgres.create(f"shared_{os.getpid()}")
    database.migrate(url)
    store = Store(url)
    start_ms = now_ms() - 100_000
    async with Producer(stream.servers) as producer, ward_on(stream, url) as first:
        await publish(producer, start_ms, 0, 30)
        async with ward_on(stream, url) as second:
            await publish(producer, start_ms, 30, 30)
            await until(lambda: first._desk.partitions and second._desk.partitions)
            await until(lambda: not first._desk.partitions & second._desk.partitions)
            await publish(producer, start_ms, 60, 30)
        await publish(producer, start_ms, 90, 11)
        await until(lambda: check_all(store, start_ms, 101))
    store.close()


async def test_database_gone_and_back_loses_nothing(stream: Any, postgres: Any) -> None:
    """While PostgreSQL is away reading waits and health says so; then all is written once."""
    url = postgres.create(f"gone_{os.getpid()}")
    database.migrate(url)
    store = Store(url)
    start_ms = now_ms() - 100_000
    async with Producer(stream.servers) as producer, ward_on(stream, url) as ward:
        await publish(producer, start_ms, 0, 30)
        await until(lambda: len(store.latest()) == len(BEDS))
        await until(lambda: all(part.ok for part in ward.health().values()))
        postgres.stop()
        try:
            await publish(producer, start_ms, 30, 30)
            await until(lambda: not ward.health()["database"].ok)
            await publish(producer, start_ms, 60, 41)
            await asyncio.sleep(10)
            assert not ward.health()["database"].ok
        finally:
            postgres.start()
        await until(lambda: check_all(store, start_ms, 101))
        await until(lambda: all(part.ok for part in ward.health().values()))
    store.close()


async def test_partitions_taken_by_a_late_ward_are_taken_back(stream: Any, postgres: Any) -> None:
    """A ward that was away and claims what is not its own any more cannot make anybody lose."""
    url = postgres.create(f"late_{os.getpid()}")
    database.migrate(url)
    store, late = Store(url), Ledger(url)
    start_ms = now_ms() - 100_000
    async with Producer(stream.servers) as producer, ward_on(stream, url):
        await publish(producer, start_ms, 0, 30)
        await until(lambda: len(store.latest()) == len(BEDS))
        late.renew()
        for topic in (VITALS, PREDICTIONS):
            late.claim("alerts", [(topic, p) for p in range(stream.partitions)])
        late.claim("trends", [(VITALS, p) for p in range(stream.partitions)])
        await publish(producer, start_ms, 30, 71)
        await until(lambda: check_all(store, start_ms, 101))
    store.close()
    late.close()


async def test_silence_is_told_and_ends(stream: Any, tmp_path: Path) -> None:
    """A bed that stops speaking has a technical alert within seconds, which its next word ends."""
    url = f"sqlite:///{tmp_path / 'ward.db'}"
    store = Store(url)
    async with (
        Producer(stream.servers) as producer,
        ward_on(stream, url, stale_after_ms=1_000),
    ):
        await (await producer.send(VITALS, b"A", observation("A", now_ms(), 80.0)))
        (alert,) = await until(lambda: store.alerts("open", "A"))
        assert (alert.kind, alert.priority, alert.threshold) == ("silence", "low", 1_000.0)
        await (await producer.send(VITALS, b"A", observation("A", now_ms(), 80.0)))
        closed = await until(lambda: store.alerts("closed", "A"))
        assert [c.action for c in closed[0].history] == ["open", "ended"]
    store.close()


async def test_unmigrated_postgresql_stops_the_start(stream: Any, postgres: Any) -> None:
    """The ward does not make tables in a PostgreSQL by itself: it says which command does."""
    url = postgres.create(f"bare_{os.getpid()}")
    ward = Ward(Settings(kafka=stream.servers, database=url, group=stream.group))
    with pytest.raises(NotMigrated, match="vitalstream migrate"):
        await ward.start()
    await ward.drain(Deadline(9.0))
