"""How the view comes back after a restart: from the topics, and from what the database kept."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from app.api.feed import Feed
from app.api.view import LatestView
from app.lifecycle import Health
from streaming.broker import EmbeddedBroker
from streaming.codec import encode
from streaming.messages import ALERTS, CASES, Alert, Case, Prediction, Source
from streaming.producer import Producer
from streaming.telemetry import SILENT
from streaming.watch import SILENT_S


def now_ms() -> int:
    """The wall clock, as the broker has it."""
    return time.time_ns() // 1_000_000


def prediction(case_id: str, ts_ms: int, offset: int = 5) -> Prediction:
    """A prediction of bed A."""
    said: dict[str, Any] = {"risks": {}, "experts": {}, "scores": {}, "inputs": {}}
    return Prediction(
        "A", case_id, ts_ms, ts_ms, "m", "1", "ok", **said,
        novelty=0.0, drivers=[], source=Source(0, offset),
    )  # fmt: skip


def alert(name: str, updated_ms: int) -> Alert:
    """An open alert of bed A."""
    return Alert(name, "A", "c2", name, "high", "open", updated_ms, updated_ms, 0.5, 0.3)


async def restarted(
    case: Case, told: Alert, predictions: list[Prediction], alerts: list[Alert]
) -> LatestView:
    """A view that read a topic with one case and one with one alert, and was told the rest."""
    view = LatestView(30_000)
    async with EmbeddedBroker() as broker:
        async with Producer(broker.servers) as producer:
            for topic, message in ((CASES, case), (ALERTS, told)):
                await (await producer.send(topic, b"A", encode(message)))
        await Feed(broker.servers, view, SILENT).start(predictions, alerts)
    return view


async def test_a_case_that_only_observations_named_is_not_undone_by_an_older_record() -> None:
    """What the database kept last is newer than a case on record for long."""
    before_ms = now_ms() - 60_000
    later = prediction("c2", now_ms() + 60_000)
    view = await restarted(Case("A", "c1", "open", before_ms), alert("a1", before_ms), [later], [])

    bed = view.bed("A", now_ms())
    assert bed is not None and (bed.case_id, bed.case) == ("c2", None)
    newer = prediction("c2", later.ts_ms + 1_000, 6)
    assert view.prediction(encode(newer), newer.ts_ms, newer.ts_ms)


async def test_a_case_newer_than_what_the_database_kept_replaces_it() -> None:
    """A bed never shows another patient's risks."""
    before_ms = now_ms() - 60_000
    view = await restarted(
        Case("A", "c2", "open", before_ms),
        alert("a1", before_ms),
        [prediction("c1", before_ms)],
        [],
    )

    bed = view.bed("A", now_ms())
    assert bed is not None and (bed.case_id, bed.prediction) == ("c2", None)


async def test_a_broker_that_is_gone_is_told_from_a_silent_ward() -> None:
    """Nothing arrives in either case; only one of them answers."""
    now_s = 0.0
    feed = Feed("", LatestView(30_000), SILENT, lambda: now_s)
    async with EmbeddedBroker() as broker:
        feed._servers = broker.servers
        await feed.start()
        now_s = 2 * SILENT_S
        assert feed.health() == Health(False, "kafka does not answer")
        following = asyncio.create_task(feed.run())
        async with asyncio.timeout(10):
            while not feed.health().ok:  # noqa: ASYNC110 - a state that the broker's answer changes
                await asyncio.sleep(0.01)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_every_open_alert_of_a_bed_comes_back() -> None:
    """The topic is compacted by bed: of several alerts it keeps the one that changed last."""
    at_ms = now_ms()
    view = await restarted(
        Case("A", "c2", "open", at_ms),
        alert("a2", at_ms),
        [],
        [alert("a1", at_ms - 10), alert("a2", at_ms - 5)],
    )

    bed = view.bed("A", at_ms)
    assert bed is not None and {(a.id, a.updated_ms) for a in bed.alerts} == {
        ("a1", at_ms - 10),
        ("a2", at_ms),
    }
