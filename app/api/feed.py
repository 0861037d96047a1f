"""From Kafka into the view: cases and alerts from the beginning, predictions from near the end."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
import structlog

from app.api.view import LatestView
from app.lifecycle import Health
from streaming.codec import decode_alert, decode_case, encode
from streaming.messages import ALERTS, CASES, PREDICTIONS, Alert, Prediction
from streaming.reader import KafkaError, Reader, Record, TopicPartition
from streaming.refusals import BadMessage
from streaming.telemetry import Telemetry
from streaming.watch import ENDS_EVERY_S, SILENT_S

log = structlog.get_logger(__name__)

BACK: Final = 5_000
"""Predictions read again of a partition: a minute of a large ward, hours of a small one."""
AGAIN_S: Final = 0.5
_AWAY: Final = "kafka does not answer"
_TOPICS: Final = (CASES, ALERTS, PREDICTIONS)


class Feed:
    """Keeps a view up to date.

    Args:
        servers: Kafka.
        view: What is kept.
        telemetry: Hears of what was read, and how far behind this is.
        clock: Seconds.
    """

    def __init__(
        self,
        servers: str,
        view: LatestView,
        telemetry: Telemetry,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._answered_s = -math.inf
        self._servers = servers
        self._view = view
        self._telemetry = telemetry
        self._next: dict[TopicPartition, int] = {}
        self._ready = False
        self._failure = "not connected yet"
        self._looked_s = 0.0

    async def start(
        self, predictions: Iterable[Prediction] = (), alerts: Iterable[Alert] = ()
    ) -> None:
        """Catch up. Raises KafkaError, TimeoutError where the cluster does not answer.

        Args:
            predictions: Each bed's newest that the database kept. They are taken after the cases:
                the newer of a case on record and a case that was only predicted is the bed's.
            alerts: Those that are not closed: the topic, compacted by bed, keeps one of a bed.
        """
        async with Reader(self._servers) as reader:
            for topic in _TOPICS:
                if topic == PREDICTIONS:
                    self._recall(predictions, alerts)
                begin = await reader.beginning_offsets(topic)
                end = await reader.end_offsets(topic)
                start = {
                    p: max(begin[p], end[p] - BACK) if topic == PREDICTIONS else begin[p]
                    for p in begin
                }
                async for records in reader.read(topic, start, start, end):
                    self._take(records)
                for p, offset in end.items():
                    at = TopicPartition(topic, p)
                    self._next[at] = max(self._next.get(at, 0), offset)
        self._ready, self._failure = True, ""
        self._answered_s = self._clock()

    async def run(self) -> None:
        """Follow for ever; a cluster that does not answer is asked again."""
        while True:
            try:
                async with Reader(self._servers) as reader:
                    asking = asyncio.create_task(self._ask(reader))
                    try:
                        async for records in reader.follow(_TOPICS, self._next):
                            self._failure = ""
                            if records:
                                self._take(records)
                            self._look(reader)
                    finally:
                        asking.cancel()
                        await asyncio.gather(asking, return_exceptions=True)
            except (KafkaError, TimeoutError, OSError) as error:
                log.warning("the ward is followed again", error=repr(error))
                self._failure = _AWAY
            await asyncio.sleep(AGAIN_S)

    def health(self) -> Health:
        """Whether the view follows the topics."""
        if self._ready and not self._failure and self._clock() - self._answered_s > SILENT_S:
            return Health(False, _AWAY)
        return Health(self._ready and not self._failure, self._failure)

    async def _ask(self, reader: Reader) -> None:
        """A fetch that brings nothing does not tell a silent ward from a broker that is gone."""
        while True:
            with contextlib.suppress(KafkaError, TimeoutError):
                await reader.end_offsets(PREDICTIONS)
                self._answered_s = self._clock()
            await asyncio.sleep(ENDS_EVERY_S)

    def _recall(self, predictions: Iterable[Prediction], alerts: Iterable[Alert]) -> None:
        now_ms = _now_ms()
        for prediction in predictions:
            self._view.prediction(encode(prediction), prediction.produced_ms, now_ms)
        for alert in alerts:
            self._view.alert(alert, now_ms)

    def _look(self, reader: Reader) -> None:
        now_s = time.monotonic()
        if now_s - self._looked_s > 2.0:
            self._looked_s = now_s
            self._telemetry.view_lag(reader.lag() or 0)

    def _take(self, records: list[Record]) -> None:
        topic, partition = records[0].topic, records[0].partition
        at = TopicPartition(topic, partition)
        first = self._next.get(at, 0)
        self._next[at] = records[-1].offset + 1
        now_ms = _now_ms()
        take = {PREDICTIONS: self._prediction, CASES: self._case, ALERTS: self._alert}[topic]
        accepted = rejected = 0
        for record in records:
            if record.offset < first:
                continue
            try:
                take(record, now_ms)
                accepted += 1
            except (BadMessage, msgspec.DecodeError, UnicodeDecodeError):
                rejected += 1
                log.warning(
                    "not a message of this topic",
                    topic=topic,
                    partition=partition,
                    offset=record.offset,
                )
        self._telemetry.message(topic, "accepted", accepted)
        if rejected:
            self._telemetry.message(topic, "rejected", rejected)

    def _prediction(self, record: Record, now_ms: int) -> None:
        self._view.prediction(record.value or b"", record.timestamp, now_ms)

    def _case(self, record: Record, now_ms: int) -> None:
        bed_id = bytes(record.key or b"").decode()
        case = None if record.value is None else decode_case(record.value, record.key)
        self._view.case(bed_id, case, record.timestamp, now_ms)

    def _alert(self, record: Record, now_ms: int) -> None:
        if record.value is not None:
            self._view.alert(decode_alert(record.value), now_ms)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
