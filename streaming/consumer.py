"""The door to reading Kafka with others: a member of a consumer group. `streaming.reader` reads
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
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Self

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka import ConsumerRecord as Record
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaConnectionError, KafkaError

from streaming.client import REQUEST_S, part, reading
from streaming.watch import ENDS_EVERY_S, Watch

__all__ = ["ConsumerFailed", "GroupConsumer", "KafkaError", "Record", "TopicPartition"]

log = structlog.get_logger(__name__)

JOIN_S = 120.0
"""Longest wait for the first assignment: others may have to finish first."""
WATCH_S = 0.25

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
        self._options = reading(servers, client_id, group, max_poll_records) | {
            # Partition p of every topic speaks of the same beds: one member has them all.
            "partition_assignment_strategy": (RangePartitionAssignor,),
            "session_timeout_ms": session_timeout_ms,
            "heartbeat_interval_ms": max(100, min(3_000, session_timeout_ms // 5)),
            "rebalance_timeout_ms": max(rebalance_timeout_ms, session_timeout_ms),
            "max_poll_interval_ms": max_poll_interval_ms,
            "request_timeout_ms": 40_000,
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
        self._watching: asyncio.Task[None] | None = None
        self._watch: Watch[TopicPartition] = Watch(clock)
        self._owned: frozenset[TopicPartition] = frozenset()
        self._open: set[TopicPartition] = set()
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
        self._watching = asyncio.create_task(self._look(), name=f"{self.group} watch")

    async def stop(self) -> None:
        """Leave the group. May be called twice."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
            self._watching = None
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
        if self.failure is not None or self._watching is None:
            raise ConsumerFailed(
                f"{self.group}: {self.failure or 'not started'!r}"
            ) from self.failure
        self._watch.polled()
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
        for partition, records in batches.items():
            self._watch.moved(partition, records[-1].offset + 1)
        return batches

    def resume(self, *partitions: TopicPartition) -> None:
        """Let records of owned partitions flow; others are ignored."""
        for partition in self._owned.intersection(partitions):
            self._open.add(partition)
            self._watch.moved(partition, -1)
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
        self._watch.moved(partition, offset)

    async def position(self, partition: TopicPartition) -> int:
        """Offset of the next record. Raises KeyError for a partition that is not owned,
        TimeoutError.
        """
        if partition not in self._owned:
            raise KeyError(partition)
        async with asyncio.timeout(REQUEST_S):
            return int(await self._live().position(partition))

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
            async with asyncio.timeout(REQUEST_S):
                await self._live().commit(mine)
        except (CommitFailedError, IllegalStateError, KafkaError, TimeoutError) as error:
            log.warning("commit refused", group=self.group, epoch=self.epoch, error=repr(error))
            return False
        return len(mine) == len(offsets)

    async def committed(self, partition: TopicPartition) -> tuple[int, str] | None:
        """The committed next offset and its note, None where nothing was committed. Raises
        TimeoutError, KafkaError.
        """
        coordinator = self._live()._coordinator
        async with asyncio.timeout(REQUEST_S):
            answer = await coordinator.fetch_committed_offsets([partition])
        found = answer.get(partition)
        if found is None or found.offset < 0:
            return None
        return int(found.offset), str(found.metadata or "")

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The offsets after the last record. Raises TimeoutError, KafkaError."""
        async with asyncio.timeout(REQUEST_S):
            return dict(await self._live().end_offsets(list(partitions)))

    def lag(self) -> dict[TopicPartition, int]:
        """Records between position and end, of the owned partitions where both are known."""
        return self._watch.lag(self._positions())

    def stuck(self, after_s: float) -> frozenset[TopicPartition]:
        """Resumed partitions that did not move for `after_s` though there is something to read."""
        return self._watch.stuck(self._positions(), self._open, after_s)

    @property
    def answered(self) -> bool:
        """Whether the cluster has answered lately; who owns nothing asks it nothing."""
        return not self._owned or self._watch.answered

    @property
    def loop_lag_s(self) -> float:
        """The longest that the event loop was late in the last 30 s; a blocked loop loses the
        membership.
        """
        return self._watch.loop_lag_s

    def _live(self) -> AIOKafkaConsumer:
        if self._client is None:
            raise KafkaConnectionError(f"{self.group}: not connected")
        return self._client

    def _positions(self) -> dict[TopicPartition, int | None]:
        """Offset of the next record of each owned partition, None where it is not known yet."""
        subscription = self._client and self._client._subscription.subscription
        assignment = subscription.assignment if subscription else None
        positions: dict[TopicPartition, int | None] = {}
        for partition in self._owned:
            positions[partition] = None
            if assignment is not None and partition in assignment.tps:
                state = assignment.state_value(partition)
                if state.has_valid_position:
                    positions[partition] = int(state.position)
        return positions

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
        async with asyncio.timeout(JOIN_S):
            await client.start()

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        self._owned, self._open = frozenset(), set()
        self._watch.unknown()
        if client is None:
            return
        try:
            await part(client, REQUEST_S)
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
        if self._watch.informed and self.stuck(self._revive_after_s):
            return "no progress"
        return ""

    async def _look(self) -> None:
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
                self._watch.loop_was_late(late)
                if late * 3_000 > self._options["session_timeout_ms"]:
                    log.error("event loop was blocked", group=self.group, late_s=round(late, 3))
                if asking is not None and asking.done():
                    if asking.exception() is None:
                        self._watch.ends(asking.result(), self._positions())
                    else:
                        log.warning(
                            "no end offsets", group=self.group, error=repr(asking.exception())
                        )
                    asking = None
                due = self._owned and self._client and before - asked > ENDS_EVERY_S
                if asking is None and due:
                    asked = before
                    asking = asyncio.create_task(self.end_offsets(self._owned))
        finally:
            if asking is not None:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)

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
        self._watch.begin()
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
