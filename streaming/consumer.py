"""The door to reading Kafka: `GroupConsumer` shares partitions with others, `Reader` reads them
alone.

What aiokafka does differently from what a stream needs is dealt with here and nowhere else: it
delivers records while the assignment callback still runs, sends no heartbeat meanwhile, swallows
what the callback raises, forgets `pause` and positions at every rebalance, and may stop without a
word after a broker's restart. So a `GroupConsumer` pauses whatever it is assigned before anything
else, and delivers nothing of a partition until its owner resumes it.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Self

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka import ConsumerRecord as Record
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaConnectionError, KafkaError

__all__ = ["ConsumerFailed", "GroupConsumer", "KafkaError", "Reader", "Record", "TopicPartition"]

log = structlog.get_logger(__name__)

REQUEST_S = 15.0
"""Longest wait for a single answer of the cluster."""
JOIN_S = 120.0
"""Longest wait for the first assignment: others may have to finish first."""
PAUSE_S = 2.0
"""Longest time between polls in which a standstill is held against the client."""
WATCH_S = 0.25
ENDS_EVERY_S = 2.0
FETCH_BYTES = 4 << 20
"""Fetched of one partition at once; a larger message still arrives, alone."""

OnAssigned = Callable[[frozenset[TopicPartition], int], None]
OnRevoked = Callable[[frozenset[TopicPartition]], Awaitable[None] | None]


class ConsumerFailed(RuntimeError):
    """A callback of the owner failed, or the consumer cannot be revived: its state is not to be
    trusted.
    """


class GroupConsumer:
    """A member of a consumer group whose partitions start paused and are resumed one by one.

    Every assignment has a new `epoch`; after one, all positions are the committed ones again and
    all partitions are paused. `on_assigned(partitions, epoch)` is called synchronously: it may call
    `resume`, start tasks, and must return at once. `on_revoked(partitions)` may be a coroutine
    function (commit what is done), within the rebalance timeout. What either raises comes out of
    the next `poll` as `ConsumerFailed`.
    """

    def __init__(
        self,
        servers: str,
        group: str,
        topics: Sequence[str],
        *,
        on_assigned: OnAssigned,
        on_revoked: OnRevoked | None = None,
        max_poll_records: int = 5_000,
        session_timeout_ms: int = 30_000,
        rebalance_timeout_ms: int = 60_000,
        max_poll_interval_ms: int = 300_000,
        revive_after_s: float = 20.0,
        client_id: str = "vitalstream",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options: dict[str, Any] = {
            "bootstrap_servers": servers,
            "group_id": group,
            "client_id": client_id,
            "enable_auto_commit": False,
            # Partition p of every topic speaks of the same beds: one member has them all.
            "partition_assignment_strategy": (RangePartitionAssignor,),
            "auto_offset_reset": "earliest",
            "max_poll_records": max_poll_records,
            "session_timeout_ms": session_timeout_ms,
            "heartbeat_interval_ms": max(100, min(3_000, session_timeout_ms // 5)),
            "rebalance_timeout_ms": max(rebalance_timeout_ms, session_timeout_ms),
            "max_poll_interval_ms": max_poll_interval_ms,
            "max_partition_fetch_bytes": FETCH_BYTES,
            # One fetch is in flight at a time: a partition that was just resumed waits for it.
            "fetch_max_wait_ms": 100,
            "request_timeout_ms": 40_000,
            "retry_backoff_ms": 100,
            "metadata_max_age_ms": 30_000,
        }
        self.group = group
        self.topics = tuple(topics)
        self.epoch = 0
        self.failure: BaseException | None = None
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked
        self._revive_after_s = revive_after_s
        self._clock = clock
        self._client: AIOKafkaConsumer | None = None
        self._watch: asyncio.Task[None] | None = None
        self._owned: frozenset[TopicPartition] = frozenset()
        self._open: set[TopicPartition] = set()
        self._ends: dict[TopicPartition, int] = {}
        self._marks: dict[TopicPartition, tuple[int, float]] = {}
        self._ends_at = -math.inf
        self._polled = -math.inf
        self._lags: deque[tuple[float, float]] = deque(maxlen=int(30 / WATCH_S))
        self.revived = 0

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
        """Join the group; returns after the first assignment (`on_assigned` was called)."""
        await self._connect()
        self._watch = asyncio.create_task(self._watching(), name=f"{self.group} watch")

    async def stop(self) -> None:
        """Leave the group. May be called twice."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            self._watch = None
        await self._disconnect()

    @property
    def assignment(self) -> frozenset[TopicPartition]:
        """The partitions owned in this epoch."""
        return self._owned

    async def poll(
        self, timeout_ms: int = 200, max_records: int | None = None
    ) -> dict[TopicPartition, list[Record]]:
        """Records of resumed partitions, in offset order; {} after `timeout_ms`. Call it also while
        all are paused.

        Raises:
            ConsumerFailed: A callback failed, or the cluster refuses this consumer.
        """
        if self.failure is not None or self._watch is None:
            raise ConsumerFailed(
                f"{self.group}: {self.failure or 'not started'!r}"
            ) from self.failure
        now = self._clock()
        if now - self._polled > PAUSE_S:  # a standstill of the caller, not of the client
            self._marks = {p: (offset, now) for p, (offset, _) in self._marks.items()}
        self._polled = now
        if why := self._why_dead():
            await self._revive(why)
            return {}
        try:
            batches = await self._getmany(timeout_ms, max_records)
        except KafkaError as error:
            if not error.retriable:
                await self._revive(repr(error))
            else:
                log.warning("poll failed", group=self.group, error=repr(error))
                await asyncio.sleep(0.2)
            return {}
        if self.failure is not None:
            raise ConsumerFailed(f"{self.group}: {self.failure!r}") from self.failure
        for partition in [p for p in batches if p not in self._open]:
            records = batches.pop(partition)
            if partition in self._owned and records:
                self._seek_back(partition, records[0].offset)
        now = self._clock()
        for partition, records in batches.items():
            self._marks[partition] = (records[-1].offset + 1, now)
        return batches

    def resume(self, *partitions: TopicPartition) -> None:
        """Let records of owned partitions flow; others are ignored."""
        now = self._clock()
        for partition in self._owned.intersection(partitions):
            self._open.add(partition)
            self._marks[partition] = (-1, now)
            self._live().resume(partition)

    def pause(self, *partitions: TopicPartition) -> None:
        """Hold back records of owned partitions; others are ignored."""
        for partition in self._owned.intersection(partitions):
            self._open.discard(partition)
            self._live().pause(partition)

    def paused(self) -> frozenset[TopicPartition]:
        """Owned partitions that are not resumed."""
        return self._owned - self._open

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Deliver from `offset` on next. Raises KeyError for a partition that is not owned."""
        if partition not in self._owned:
            raise KeyError(partition)
        self._live().seek(partition, offset)
        self._marks[partition] = (offset, self._clock())

    async def position(self, partition: TopicPartition) -> int:
        """Offset of the next record. Raises KeyError for a partition that is not owned,
        TimeoutError.
        """
        if partition not in self._owned:
            raise KeyError(partition)
        return int(await asyncio.wait_for(self._live().position(partition), REQUEST_S))

    async def commit(
        self, offsets: Mapping[TopicPartition, tuple[int, str]], epoch: int | None = None
    ) -> bool:
        """Commit the next offset and a note for owned partitions; others are left out.

        Returns:
            False (logged) where the group moved on or the cluster did not answer: nothing is lost,
            the new owner starts at the commit before.
        """
        mine = {p: offset for p, offset in offsets.items() if p in self._owned}
        if (epoch is not None and epoch != self.epoch) or len(mine) < len(offsets):
            log.info("commit of partitions that are gone", group=self.group, epoch=self.epoch)
            if epoch is not None and epoch != self.epoch:
                return False
        if not mine:
            return not offsets
        try:
            await asyncio.wait_for(self._live().commit(mine), REQUEST_S)
        except (CommitFailedError, IllegalStateError, KafkaError, TimeoutError) as error:
            log.warning("commit refused", group=self.group, epoch=self.epoch, error=repr(error))
            return False
        return len(mine) == len(offsets)

    async def committed(self, partition: TopicPartition) -> tuple[int, str] | None:
        """The committed next offset and its note, None where nothing was committed. Raises
        TimeoutError, KafkaError.
        """
        coordinator = self._live()._coordinator
        answer = await asyncio.wait_for(coordinator.fetch_committed_offsets([partition]), REQUEST_S)
        found = answer.get(partition)
        if found is None or found.offset < 0:
            return None
        return int(found.offset), str(found.metadata or "")

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The offsets after the last record. Raises TimeoutError, KafkaError."""
        return dict(await asyncio.wait_for(self._live().end_offsets(list(partitions)), REQUEST_S))

    def lag(self) -> dict[TopicPartition, int]:
        """Records between position and end, of the owned partitions where both are known."""
        lags = {}
        for partition in self._owned:
            position, end = self._position(partition), self._ends.get(partition)
            if position is not None and end is not None:
                lags[partition] = max(0, end - position)
        return lags

    def stuck(self, after_s: float) -> frozenset[TopicPartition]:
        """Resumed partitions that did not move for `after_s` though there is something to read."""
        now = self._clock()
        return frozenset(
            partition
            for partition in self._open
            if (end := self._ends.get(partition)) is not None
            and end > (self._position(partition) or 0)
            and now - self._marks.get(partition, (0, now))[1] > after_s
        )

    @property
    def loop_lag_s(self) -> float:
        """The longest that the event loop was late in the last 30 s; a blocked loop loses the
        membership.
        """
        return max((late for _, late in self._lags), default=0.0)

    def _live(self) -> AIOKafkaConsumer:
        if self._client is None:
            raise KafkaConnectionError(f"{self.group}: not connected")
        return self._client

    def _position(self, partition: TopicPartition) -> int | None:
        if self._client is None:
            return None
        subscription = self._client._subscription.subscription
        assignment = subscription.assignment if subscription is not None else None
        if assignment is None or partition not in assignment.tps:
            return None
        state = assignment.state_value(partition)
        return int(state.position) if state.has_valid_position else None

    async def _getmany(
        self, timeout_ms: int, max_records: int | None
    ) -> dict[TopicPartition, list[Record]]:
        client = self._live()
        subscription = client._subscription
        if subscription.reassignment_in_progress:  # aiokafka would wait for its end, however long
            await asyncio.wait([subscription.wait_for_assignment()], timeout=timeout_ms / 1_000)
            return {}
        fetches = subscription._fetch_count
        try:
            found = await client.getmany(timeout_ms=timeout_ms, max_records=max_records)
        except BaseException:
            # aiokafka counts a fetch that was cancelled or failed as running for ever, and with it
            # switches off `max_poll_interval_ms`.
            subscription._fetch_count = fetches
            raise
        return dict(found)

    def _seek_back(self, partition: TopicPartition, offset: int) -> None:
        try:
            self._live().seek(partition, offset)
            self._live().pause(partition)
        except IllegalStateError:
            log.info("partition went before it was resumed", group=self.group)

    def _is_current(self, client: AIOKafkaConsumer) -> bool:
        return client is self._client

    async def _connect(self) -> None:
        client = AIOKafkaConsumer(**self._options)
        self._client = client
        client.subscribe(self.topics, listener=_Listener(self, client))
        await asyncio.wait_for(client.start(), JOIN_S)

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        self._owned, self._open = frozenset(), set()
        self._ends = {}
        if client is None:
            return
        try:
            await asyncio.wait_for(client.stop(), REQUEST_S)
        except (KafkaError, TimeoutError) as error:
            log.warning("consumer did not stop cleanly", group=self.group, error=repr(error))

    async def _revive(self, why: str) -> None:
        """Join anew with a new client; where the cluster does not answer, the next poll tries
        again.
        """
        log.error("consumer stopped consuming, made anew", group=self.group, reason=why)
        self.revived += 1
        await self._disconnect()
        try:
            await self._connect()
        except (KafkaError, TimeoutError) as error:
            await self._disconnect()
            if isinstance(error, KafkaError) and not error.retriable:
                self.failure = error
                raise ConsumerFailed(f"{self.group}: {error!r}") from error
            await asyncio.sleep(1.0)

    def _why_dead(self) -> str:
        """Why this client will not deliver any more, "" where it will. An unreachable cluster is
        not a reason.
        """
        if self._client is None:
            return "not connected"
        task = getattr(self._client._coordinator, "_coordination_task", None)
        if task is not None and task.done():
            return "the coordination ended"
        if self._clock() - self._ends_at < 3 * ENDS_EVERY_S and self.stuck(self._revive_after_s):
            return "no progress"
        return ""

    async def _watching(self) -> None:
        """Measure the loop's lag and the partitions' ends; a broker that does not answer leaves the
        ends as they are.
        """
        asked = 0.0
        asking: asyncio.Task[dict[TopicPartition, int]] | None = None
        try:
            while True:
                before = time.monotonic()
                await asyncio.sleep(WATCH_S)
                late = time.monotonic() - before - WATCH_S
                self._lags.append((before, late))
                if late * 3_000 > self._options["session_timeout_ms"]:
                    log.error("event loop was blocked", group=self.group, late_s=round(late, 3))
                if asking is not None and asking.done():
                    if asking.exception() is None:
                        self._note_ends(asking.result())
                    else:
                        log.warning(
                            "no end offsets", group=self.group, error=repr(asking.exception())
                        )
                    asking = None
                if (
                    asking is None
                    and self._owned
                    and before - asked > ENDS_EVERY_S
                    and self._client
                ):
                    asked = before
                    asking = asyncio.create_task(self.end_offsets(self._owned))
        finally:
            if asking is not None:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)

    def _note_ends(self, ends: Mapping[TopicPartition, int]) -> None:
        self._ends_at = now = self._clock()
        for partition, end in ends.items():
            if partition not in self._owned:
                continue
            self._ends[partition] = end
            position = self._position(partition)
            if position is not None and (
                position >= end or self._marks.get(partition, (-1, 0.0))[0] != position
            ):
                self._marks[partition] = (position, now)

    async def _revoked(self, client: AIOKafkaConsumer, revoked: Iterable[TopicPartition]) -> None:
        if not self._is_current(client):
            return
        self._open.clear()
        try:
            if self._on_revoked is not None and (gone := frozenset(revoked)):
                result = self._on_revoked(gone)
                if inspect.isawaitable(result):
                    await result
        except Exception as error:
            log.exception("revocation failed", group=self.group)
            self.failure = error
        finally:
            self._owned = frozenset()

    def _assigned(self, client: AIOKafkaConsumer, assigned: Iterable[TopicPartition]) -> None:
        if not self._is_current(client):
            return
        partitions = frozenset(assigned)
        client.pause(*partitions)
        self._open.clear()
        self._marks.clear()
        self._ends = {}
        self._owned = partitions
        self.epoch += 1
        log.info("assigned", group=self.group, partitions=len(partitions), epoch=self.epoch)
        try:
            self._on_assigned(partitions, self.epoch)
        except Exception as error:
            log.exception("assignment failed", group=self.group)
            self.failure = error


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Hands the callbacks on, with the client they belong to: a client that was replaced has no
    say.
    """

    def __init__(self, owner: GroupConsumer, client: AIOKafkaConsumer) -> None:
        self._owner = owner
        self._client = client

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self._owner._revoked(self._client, revoked)

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._owner._assigned(self._client, assigned)


class Reader:
    """Reads partitions without a group: a stretch to a known end (`read`), or all there is for ever
    (`follow`).

    One `read` or `follow` at a time; readers are cheap, make another one for another stretch.
    """

    def __init__(
        self, servers: str, *, max_records: int = 10_000, client_id: str = "vitalstream-reader"
    ) -> None:
        self._options: dict[str, Any] = {
            "bootstrap_servers": servers,
            "group_id": None,
            "client_id": client_id,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "max_poll_records": max_records,
            "max_partition_fetch_bytes": FETCH_BYTES,
            "fetch_max_wait_ms": 100,
            "retry_backoff_ms": 100,
            "metadata_max_age_ms": 30_000,
        }
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
            await client.stop()

    async def partitions(self, topic: str) -> list[int]:
        """The topic's partitions, ascending. Raises KafkaError for a topic that does not exist."""
        found = await asyncio.wait_for(self._live()._client._wait_on_metadata(topic), REQUEST_S)
        return sorted(found)

    async def beginning_offsets(
        self, topic: str, partitions: Iterable[int] | None = None
    ) -> dict[int, int]:
        """First offset that is still there, by partition."""
        asked = await self._topic_partitions(topic, partitions)
        found = await asyncio.wait_for(self._live().beginning_offsets(asked), REQUEST_S)
        return {p.partition: offset for p, offset in found.items()}

    async def end_offsets(
        self, topic: str, partitions: Iterable[int] | None = None
    ) -> dict[int, int]:
        """Offset after the last record, by partition."""
        asked = await self._topic_partitions(topic, partitions)
        found = await asyncio.wait_for(self._live().end_offsets(asked), REQUEST_S)
        return {p.partition: offset for p, offset in found.items()}

    async def offsets_for_times(
        self, topic: str, times_ms: Mapping[int, int]
    ) -> dict[int, int | None]:
        """Earliest offset with a record timestamp at or after the time, None past the end, by
        partition.
        """
        asked = {TopicPartition(topic, p): ms for p, ms in times_ms.items()}
        found = await asyncio.wait_for(self._live().offsets_for_times(asked), REQUEST_S)
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
