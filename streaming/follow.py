"""Compacted topics followed whole: who lies in which bed, which beds have an open high alert."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from streaming.beds import Recorded
from streaming.codec import decode_alert, decode_case
from streaming.messages import ALERTS, CASES, Case
from streaming.reader import KafkaError, Reader, Record
from streaming.refusals import BadMessage
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
        telemetry: Hears of records.
        most: Beds whose cases are remembered. Of others nothing is known, but of those that are
            `heard`.
        heard: Whether a partition's bed is being watched.
    """

    def __init__(
        self,
        servers: str,
        changed: Callable[[int, str, Case | None, int], None],
        telemetry: Telemetry = SILENT,
        most: int = 1_000_000,
        heard: Callable[[int, str], bool] = lambda partition, bed_id: False,
    ) -> None:
        self._follower = Follower(servers, CASES, self._take)
        self._changed = changed
        self._telemetry = telemetry
        self._most = most
        self._heard = heard
        self._count = 0
        self._live = False
        self._known: dict[int, dict[str, Recorded]] = {}

    def known(self, partition: int, bed_id: str) -> Recorded | None:
        """What is on record of a bed."""
        return self._known.get(partition, {}).get(bed_id)

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
        known = self._known.setdefault(record.partition, {})
        before = known.get(bed_id)
        if before is None:
            if self._count >= self._most and not self._heard(record.partition, bed_id):
                self._telemetry.message(CASES, "refused")
                return
            self._count += 1
            before = Recorded()
        self._telemetry.message(CASES, "accepted")
        known[bed_id] = before.after(case, record.timestamp)
        if self._live:
            self._changed(record.partition, bed_id, case, record.timestamp)


class Urgent:
    """Beds with an open high alert, which are predicted first."""

    def __init__(self, servers: str) -> None:
        self._follower = Follower(servers, ALERTS, self._take)
        self.beds: dict[str, set[str]] = {}
        """Beds, and their open high alerts."""

    async def run(self) -> None:
        """Follow alerts for ever."""
        await self._follower.run()

    def _take(self, record: Record) -> None:
        bed_id = bytes(record.key or b"").decode(errors="replace")
        if record.value is None:
            self.beds.pop(bed_id, None)
            return
        try:
            alert = decode_alert(record.value)
        except BadMessage as error:
            log.warning("not an alert", offset=record.offset, reason=error.reason)
            return
        if alert.priority == "high" and alert.state in ("open", "escalated"):
            self.beds.setdefault(alert.bed_id, set()).add(alert.id)
        elif (known := self.beds.get(alert.bed_id)) is not None:
            known.discard(alert.id)
            if not known:
                del self.beds[alert.bed_id]
