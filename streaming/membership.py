"""Partitions come and go: the worker's place in its group, what it restores and what it commits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

import structlog

from streaming.codec import VitalsDecoder
from streaming.consumer import GroupConsumer, KafkaError, Record, TopicPartition
from streaming.messages import VITALS, Snapshot
from streaming.options import Options
from streaming.partition import Partition
from streaming.refusals import TOO_MANY_BEDS
from streaming.restore import restore
from streaming.scoring import Scoring
from streaming.snapshots import encode_note
from streaming.stays import Stays
from streaming.telemetry import SILENT, Telemetry

log = structlog.get_logger(__name__)

RESTORES_AT_ONCE = 3
RETRY_S = 1.0
REVOKE_S = 3.0
"""How long a revocation waits for what is under way."""


class Membership:
    """One member of the worker's consumer group.

    Args:
        servers: Kafka.
        grid: Digest of the model's grid.
        scoring: The windows, and the partitions that are owned.
        stays: Hears of beds that a restore emptied.
        options: How the stream behaves.
        spawn: Runs a coroutine, and stops the stream where it fails.
        telemetry: Hears of observations that a restore leaves out.
        clock: Seconds.
        clock_ms: The wall clock.
    """

    def __init__(
        self,
        servers: str,
        grid: str,
        scoring: Scoring,
        stays: Stays,
        options: Options,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        telemetry: Telemetry,
        clock: Callable[[], float],
        clock_ms: Callable[[], int],
    ) -> None:
        self._servers = servers
        self._grid = grid
        self._windows = scoring.windows
        self._partitions = scoring.partitions
        self._scoring = scoring
        self._stays = stays
        self._options = options
        self._spawn = spawn
        self._telemetry = telemetry
        self._clock = clock
        self._clock_ms = clock_ms
        self._decoder = VitalsDecoder(options.max_skew_ms, SILENT, clock_ms)
        self._restores = asyncio.Semaphore(RESTORES_AT_ONCE)
        self._held_back = False
        self.consumer = GroupConsumer(
            servers,
            options.group,
            [VITALS],
            on_assigned=self._assigned,
            on_revoked=self._revoked,
            session_timeout_ms=options.session_timeout_ms,
        )

    @property
    def restored(self) -> list[Partition]:
        """The partitions that work."""
        return [partition for partition in self._partitions.values() if partition.restored]

    def hold_back(self) -> None:
        """Partitions pause while too much is under way, polling goes on; they resume below half."""
        load = sum(p.progress.open for p in self._partitions.values())
        limit = self._options.queue_limit
        if not self._held_back and load > limit:
            self._held_back = True
            self.consumer.pause(*self.consumer.assignment)
            log.info("paused", waiting=load)
        elif self._held_back and load < limit // 2:
            self._held_back = False
            self.consumer.resume(*(TopicPartition(VITALS, p.number) for p in self.restored))
            log.info("resumed", waiting=load)

    async def finished(self, partitions: Sequence[Partition], within_s: float) -> bool:
        """Wait until nothing in the windows is due any more; False where time ran out."""
        end = self._clock() + within_s
        while any(account.due for p in partitions for account in p.accounts.values()):
            if self._clock() > end:
                return False
            await asyncio.sleep(0.01)
        return True

    async def commit(self, partitions: Iterable[Partition]) -> None:
        """Commit what is done, with the lowest offset that a restart needs."""
        offsets: dict[TopicPartition, tuple[int, str]] = {}
        moved: list[tuple[Partition, tuple[int, int]]] = []
        for partition in partitions:
            position = partition.progress.position
            now = (position, partition.needed(position))
            if partition.alive and position > 0 and now != partition.committed:
                offsets[TopicPartition(VITALS, partition.number)] = (
                    position,
                    encode_note(now[1]),
                )
                moved.append((partition, now))
        if offsets and await self.consumer.commit(offsets, moved[0][0].epoch):
            for partition, now in moved:
                partition.committed = now

    def forget(self, number: int) -> None:
        """A partition is another's now."""
        partition = self._partitions.pop(number, None)
        if partition is not None:
            partition.alive = False
            self._windows.forget(number)

    def _assigned(self, assigned: frozenset[TopicPartition], epoch: int) -> None:
        for number in list(self._partitions):
            self.forget(number)
        for tp in sorted(assigned):
            partition = Partition(tp.partition, epoch, self._options.snapshot_every_s)
            self._partitions[tp.partition] = partition
            self._spawn(self.restore(tp, partition))

    async def restore(self, tp: TopicPartition, partition: Partition) -> None:
        """Bring a partition's windows back and let its records flow.

        Raises:
            KafkaError: The log cannot be read, however often it is tried.
        """
        async with self._restores:
            while partition.alive:
                try:
                    await self._read_back(tp, partition)
                    break
                except (KafkaError, TimeoutError) as error:
                    if not getattr(error, "retriable", True):
                        raise
                    log.warning("restoring again", partition=tp.partition, error=repr(error))
                    await asyncio.sleep(RETRY_S)
            if partition.alive:
                partition.restored = True
                if not self._held_back:
                    self.consumer.resume(tp)

    async def _read_back(self, tp: TopicPartition, partition: Partition) -> None:
        """One try at a partition's windows, from nothing."""
        committed = await self.consumer.committed(tp)
        if not partition.alive:
            return
        # What a try before this one left would make the log's observations pass for repeats.
        self._windows.forget(tp.partition)
        partition.accounts.clear()
        if committed is not None:
            partition.begin(committed[0])
        target = _Target(self, partition)
        await restore(self._servers, tp.partition, committed, self._grid, target)

    async def _revoked(self, revoked: frozenset[TopicPartition]) -> None:
        """Finish what is under way, commit it, forget the rest: its next owner reads it again."""
        gone = [p for tp in revoked if (p := self._partitions.get(tp.partition)) is not None]
        restored = [partition for partition in gone if partition.restored]
        for partition in gone:
            partition.restored = False
            partition.drop_queued()
        if not self._scoring.draining:
            await self.finished(restored, min(REVOKE_S, self._options.session_timeout_ms / 3_000))
            await self.commit(restored)
        for partition in gone:
            self.forget(partition.number)


class _Target:
    """A partition that is restored."""

    def __init__(self, owner: Membership, partition: Partition) -> None:
        self._owner = owner
        self._partition = partition

    @property
    def alive(self) -> bool:
        """Whether the partition is still ours."""
        return self._partition.alive

    def restore_snapshot(self, snapshot: Snapshot) -> None:
        """Take a bed's window over."""
        owner = self._owner
        bed = owner._windows.restore(snapshot)
        if bed.heard_ms < 0:
            bed.heard_ms = owner._clock_ms()
        self._partition.account(snapshot.bed_id, owner._clock())

    def restore_tail(self, records: Sequence[Record]) -> None:
        """Apply observations, predict nothing."""
        owner, partition = self._owner, self._partition
        observations, _ = owner._decoder.decode(records)
        rows: Sequence[int] | None = None
        most = owner._options.max_beds
        if refused := owner._windows.beyond(observations, partition.number, most):
            owner._telemetry.skipped(TOO_MANY_BEDS, len(refused))
            rows = sorted(set(range(observations.n)).difference(refused))
        now_s = owner._clock()
        observed = owner._windows.observe(observations, partition.number, owner._clock_ms(), rows)
        for bed in observed.emptied:
            owner._stays.emptied(partition, bed)
        offsets = observations.offsets[observed.rows].tolist()
        for bed, offset in zip(observed.beds, offsets, strict=True):
            keep = partition.account(bed.bed_id, now_s).keep
            if keep.since < 0:
                keep.since = offset
