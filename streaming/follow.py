"""Compacted topics followed whole: who lies in which bed, which beds have an open high alert."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from streaming.codec import BadMessage, decode_alert, decode_case
from streaming.consumer import KafkaError, Reader, Record
from streaming.messages import ALERTS, CASES, Case
from streaming.telemetry import SILENT, Telemetry

log = structlog.get_logger(__name__)

AGAIN_S = 1.0


class Follower:
    """Reads a topic to its end (`load`), then goes on for ever (`run`), without a group.

    Every worker follows all partitions: the topics hold a few records a bed, and nothing has to be
    handed over when partitions move.
    """

    def __init__(self, servers: str, topic: str, take: Callable[[Record], None]) -> None:
        self._servers = servers
        self._topic = topic
        self._take = take
        self._next: dict[int, int] = {}

    async def load(self) -> None:
        """Read what is there. Raises KafkaError, TimeoutError."""
        async with Reader(self._servers) as reader:
            async for records in reader.read(self._topic, await reader.partitions(self._topic)):
                self._taken(records)

    async def run(self) -> None:
        """Go on reading; a cluster that does not answer is asked again."""
        while True:
            try:
                async with Reader(self._servers) as reader:
                    async for records in reader.follow([self._topic], "beginning"):
                        self._taken(records)
            except (KafkaError, TimeoutError) as error:
                log.warning("following again", topic=self._topic, error=repr(error))
            await asyncio.sleep(AGAIN_S)

    def _taken(self, records: list[Record]) -> None:
        for record in records:
            if record.offset >= self._next.get(record.partition, 0):
                self._next[record.partition] = record.offset + 1
                self._take(record)


class Cases:
    """The newest case of every bed.

    Args:
        servers: Kafka.
        changed: Called after `load` with the partition, the bed, its case (None: tombstone) and the
            record's time in ms.
    """

    def __init__(
        self,
        servers: str,
        changed: Callable[[int, str, Case | None, int], None],
        telemetry: Telemetry = SILENT,
    ) -> None:
        self._follower = Follower(servers, CASES, self._take)
        self._changed = changed
        self._telemetry = telemetry
        self._live = False
        self.known: dict[int, dict[str, tuple[Case | None, int]]] = {}
        """Partition, bed: the newest case, None after a tombstone, and the time of the record."""

    async def load(self) -> None:
        """Read all cases. Raises KafkaError, TimeoutError."""
        await self._follower.load()
        self._live = True

    async def run(self) -> None:
        """Follow changes for ever."""
        await self._follower.run()

    def _take(self, record: Record) -> None:
        try:
            bed_id = bytes(record.key or b"").decode()
            case = None if record.value is None else decode_case(record.value, record.key)
        except (BadMessage, UnicodeDecodeError) as error:
            self._telemetry.message(CASES, "rejected")
            log.warning(
                "not a case",
                partition=record.partition,
                offset=record.offset,
                reason=getattr(error, "reason", "not_utf8"),
            )
            return
        self._telemetry.message(CASES, "accepted")
        self.known.setdefault(record.partition, {})[bed_id] = (case, record.timestamp)
        if self._live:
            self._changed(record.partition, bed_id, case, record.timestamp)


class Urgent:
    """Beds with an open high alert, which are predicted first."""

    def __init__(self, servers: str) -> None:
        self._follower = Follower(servers, ALERTS, self._take)
        self._alerts: dict[str, str] = {}
        self.beds: set[str] = set()

    async def run(self) -> None:
        """Follow alerts for ever."""
        await self._follower.run()

    def _take(self, record: Record) -> None:
        bed_id = bytes(record.key or b"").decode(errors="replace")
        if record.value is None:
            gone = [a for a, bed in self._alerts.items() if bed == bed_id]
            for alert_id in gone:
                del self._alerts[alert_id]
        else:
            try:
                alert = decode_alert(record.value)
            except BadMessage as error:
                log.warning("not an alert", offset=record.offset, reason=error.reason)
                return
            bed_id = alert.bed_id
            if alert.priority == "high" and alert.state in ("open", "escalated"):
                self._alerts[alert.id] = bed_id
            else:
                self._alerts.pop(alert.id, None)
        if bed_id in self._alerts.values():
            self.beds.add(bed_id)
        else:
            self.beds.discard(bed_id)
