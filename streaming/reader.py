"""The door to reading Kafka alone, without a group."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Literal, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import ConsumerRecord as Record
from aiokafka.errors import KafkaConnectionError, KafkaError

from streaming.client import REQUEST_S, part, reading

__all__ = ["KafkaError", "Reader", "Record", "TopicPartition"]


class Reader:
    """Reads partitions without a group: a stretch to a known end (`read`), or all there is for ever
    (`follow`).

    One `read` or `follow` at a time; readers are cheap, make another one for another stretch.
    """

    def __init__(
        self, servers: str, *, max_records: int = 10_000, client_id: str = "vitalstream-reader"
    ) -> None:
        self._options = reading(servers, client_id, None, max_records)
        self._client: AIOKafkaConsumer | None = None
        self._busy = False
        self.clamped: dict[TopicPartition, tuple[int, int]] = {}
        """Partitions whose start was already deleted: (asked for, begun at). What lies between is
        lost.
        """

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Connect. Raises KafkaError where no broker answers."""
        self._client = AIOKafkaConsumer(**self._options)
        await self._client.start()

    async def stop(self) -> None:
        """Disconnect. May be called twice."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(TimeoutError):
                await part(client, REQUEST_S)

    async def partitions(self, topic: str) -> list[int]:
        """The topic's partitions, ascending. Raises KafkaError for a topic that does not exist."""
        async with asyncio.timeout(REQUEST_S):
            found = await self._live()._client._wait_on_metadata(topic)
        return sorted(found)

    async def beginning_offsets(
        self, topic: str, partitions: Iterable[int] | None = None
    ) -> dict[int, int]:
        """First offset that is still there, by partition."""
        asked = await self._topic_partitions(topic, partitions)
        async with asyncio.timeout(REQUEST_S):
            found = await self._live().beginning_offsets(asked)
        return {p.partition: offset for p, offset in found.items()}

    async def end_offsets(
        self, topic: str, partitions: Iterable[int] | None = None
    ) -> dict[int, int]:
        """Offset after the last record, by partition."""
        asked = await self._topic_partitions(topic, partitions)
        async with asyncio.timeout(REQUEST_S):
            found = await self._live().end_offsets(asked)
        return {p.partition: offset for p, offset in found.items()}

    async def offsets_for_times(
        self, topic: str, times_ms: Mapping[int, int]
    ) -> dict[int, int | None]:
        """Earliest offset with a record timestamp at or after the time, None past the end, by
        partition.
        """
        asked = {TopicPartition(topic, p): ms for p, ms in times_ms.items()}
        async with asyncio.timeout(REQUEST_S):
            found = await self._live().offsets_for_times(asked)
        return {p.partition: (at.offset if at is not None else None) for p, at in found.items()}

    async def read(
        self,
        topic: str,
        partitions: Iterable[int],
        start: Mapping[int, int] | None = None,
        until: Mapping[int, int] | None = None,
    ) -> AsyncIterator[list[Record]]:
        """Records of each partition from `start` (default: the beginning) to before `until`
        (default: the end now).

        Ends when every position has reached its end, also over gaps that compaction left. Lists
        hold records of one partition in offset order.
        """
        chosen = sorted(set(partitions))
        first = await self.beginning_offsets(topic, chosen)
        ends = dict(await self.end_offsets(topic, chosen)) | dict(until or {})
        self.clamped = {}
        todo: dict[TopicPartition, int] = {}
        for p in chosen:
            wanted = (start or {}).get(p, first[p])
            if wanted < first[p]:
                self.clamped[TopicPartition(topic, p)] = (wanted, first[p])
            if max(wanted, first[p]) < ends[p]:
                todo[TopicPartition(topic, p)] = max(wanted, first[p])
        if not todo:
            return
        client = self._take()
        try:
            client.assign(list(todo))
            for partition, offset in todo.items():
                client.seek(partition, offset)
            open_ = set(todo)
            while open_:
                batches = await client.getmany(*open_, timeout_ms=200)
                for partition, records in batches.items():
                    end = ends[partition.partition]
                    wanted_records = (
                        records
                        if records[-1].offset < end
                        else [r for r in records if r.offset < end]
                    )
                    if wanted_records:
                        yield wanted_records
                for partition in list(open_):
                    if await client.position(partition) >= ends[partition.partition]:
                        open_.discard(partition)
                        client.pause(partition)
        finally:
            self._busy = False

    async def follow(
        self,
        topics: Sequence[str],
        start: Literal["beginning", "end"] | int | Mapping[TopicPartition, int] = "end",
    ) -> AsyncIterator[list[Record]]:
        """Records of all partitions of the topics for ever, new partitions included (from their
        beginning).

        Args:
            topics: Existing topics.
            start: `beginning`, `end`, a record timestamp in milliseconds, or the offset of each
                partition (the beginning of those that it leaves out).

        Yields:
            Records of one partition in offset order; an empty list about every second where nothing
            arrives, so that the caller can look after itself.
        """
        positions: dict[TopicPartition, int] = {}
        for topic in topics:
            if start == "end":
                found: Mapping[int, int | None] = await self.end_offsets(topic)
            else:
                found = await self.beginning_offsets(topic)
                if isinstance(start, Mapping):
                    found = {p: start.get(TopicPartition(topic, p), o) for p, o in found.items()}
                elif not isinstance(start, str):
                    ends = await self.end_offsets(topic)
                    at = await self.offsets_for_times(topic, dict.fromkeys(found, start))
                    found = {p: ends[p] if offset is None else offset for p, offset in at.items()}
            positions.update({TopicPartition(topic, p): o or 0 for p, o in found.items()})
        client = self._take()
        try:
            self._assign(positions)
            looked = time.monotonic()
            while True:
                batches = await client.getmany(timeout_ms=1_000)
                for partition, records in batches.items():
                    positions[partition] = records[-1].offset + 1
                    yield records
                if not batches:
                    yield []
                if time.monotonic() - looked > 5:
                    looked = time.monotonic()
                    fresh = self._unknown_partitions(topics, positions)
                    if fresh:
                        positions.update(dict.fromkeys(fresh, 0))
                        self._assign(positions)
        finally:
            self._busy = False

    def lag(self) -> int | None:
        """Records that `follow` has not delivered yet, as of the last fetches; None before each
        partition was fetched.
        """
        client, total = self._live(), 0
        for partition in client.assignment():
            end = client.highwater(partition)
            state = client._subscription.subscription.assignment.state_value(partition)
            if end is None or not state.has_valid_position:
                return None
            total += max(0, end - state.position)
        return total

    def _assign(self, positions: Mapping[TopicPartition, int]) -> None:
        client = self._live()
        client.assign(list(positions))
        for partition, offset in positions.items():
            client.seek(partition, offset)

    def _unknown_partitions(
        self, topics: Sequence[str], known: Mapping[TopicPartition, int]
    ) -> list[TopicPartition]:
        client = self._live()
        there = (
            TopicPartition(topic, p)
            for topic in topics
            for p in client.partitions_for_topic(topic) or ()
        )
        return [partition for partition in there if partition not in known]

    def _live(self) -> AIOKafkaConsumer:
        if self._client is None:
            raise KafkaConnectionError("reader: not connected")
        return self._client

    def _take(self) -> AIOKafkaConsumer:
        if self._busy:
            raise RuntimeError("a reader reads one stretch at a time")
        self._busy = True
        return self._live()

    async def _topic_partitions(
        self, topic: str, partitions: Iterable[int] | None
    ) -> list[TopicPartition]:
        chosen = await self.partitions(topic) if partitions is None else partitions
        return [TopicPartition(topic, p) for p in chosen]
