"""The worker's stream: poll, decode, windows, shards; and back: results, publish, progress, commit.

Everything here runs on the event loop's thread; the network runs in the devices' threads. Work is
done in bulk: no task, future or tensor of our own for a message.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import structlog

from streaming.assemble import Assembler, Subject
from streaming.batcher import Flush
from streaming.codec import Rejected, VitalsDecoder, encode
from streaming.consumer import GroupConsumer, KafkaError, Record, TopicPartition
from streaming.deadletter import DeadLetters
from streaming.follow import Cases, Urgent
from streaming.messages import PREDICTIONS, VITALS, WINDOWS, Case, Snapshot
from streaming.model import Model
from streaming.observations import Observations
from streaming.partition import Account, Partition, Ticket
from streaming.producer import Producer
from streaming.publish import Outgoing, Publisher
from streaming.restore import restore
from streaming.shards import Done, Shard, Shards
from streaming.snapshots import Keep, encode_note
from streaming.telemetry import SILENT, Telemetry
from streaming.topics import LARGEST_LETTER_BYTES, ensure_topics
from streaming.windows import Bed, Observed, Windows

log = structlog.get_logger(__name__)

TICK_S = 0.1
COMMIT_S = 1.0
RESTORES_AT_ONCE = 3
CAPTURES_AT_ONCE = 25
"""Windows packed of one partition in one tick."""
MEASURE_S = 1.5
RETRY_S = 1.0
REVOKE_S = 3.0
"""How long a revocation waits for what is under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a worker's stream behaves; the fields are those of `app.settings.Settings`."""

    group: str
    emit: Literal["latest", "each"] = "latest"
    min_rescore_ms: int = 0
    max_skew_ms: int = 60_000
    max_lag: int = 50_000
    stuck_after_s: float = 30.0
    snapshot_every_s: float = 120.0
    session_timeout_ms: int = 30_000
    queue_limit: int = 100_000
    max_batch: int = 0
    max_wait_ms: float = 5.0
    stale_after_ms: int = 30_000
    partitions: int = 12
    replication: int = 1


class Pipeline:
    """One member of the worker's consumer group.

    Args:
        servers: Kafka.
        models: One for each device.
        options: How the stream behaves.
        telemetry: Hears what the stream tells about itself.
    """

    def __init__(
        self,
        servers: str,
        models: Sequence[Model],
        options: Options,
        telemetry: Telemetry = SILENT,
        clock: Callable[[], float] = time.monotonic,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._servers = servers
        self._options = options
        self._telemetry = telemetry
        self._clock = clock
        self._clock_ms = clock_ms
        self._model = models[0]
        self._each = options.emit == "each"
        self._spacing_s = options.min_rescore_ms / 1_000
        self._partitions: dict[int, Partition] = {}
        self._ready: dict[Account, None] = {}
        self._shards = Shards(
            models,
            self._device_failed,
            self._fail,
            options.max_batch,
            options.max_wait_ms / 1_000,
            options.queue_limit,
            telemetry,
        )
        self._windows = Windows(self._shards.owner, self._model.grid_digest)
        self._at: dict[Shard, dict[int, tuple[Bed, Account]]] = {s: {} for s in self._shards.all}
        """Whose window a slot in a shard's queue is."""
        self._timer: asyncio.TimerHandle | None = None
        self._decoder = VitalsDecoder(options.max_skew_ms, telemetry, clock_ms)
        self._tail_decoder = VitalsDecoder(options.max_skew_ms, SILENT, clock_ms)
        self._assembler = Assembler(self._model)
        self._producer = Producer(servers, max_request_bytes=LARGEST_LETTER_BYTES)
        self._publisher = Publisher(self._producer, self._acknowledged, telemetry)
        self._dead_letters = DeadLetters(self._producer, options.group, telemetry)
        self._rejected: asyncio.Queue[tuple[Partition, list[Rejected]]] = asyncio.Queue()
        self._cases = Cases(servers, self._case_changed, telemetry)
        self._urgent = Urgent(servers)
        self._consumer = GroupConsumer(
            servers,
            options.group,
            [VITALS],
            on_assigned=self._assigned,
            on_revoked=self._revoked,
            session_timeout_ms=options.session_timeout_ms,
        )
        self._restores = asyncio.Semaphore(RESTORES_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: asyncio.Future[None] | None = None
        self._held_back = False
        self._draining = False

    async def start(self) -> None:
        """Measure the batch curve, read the cases, join the group.

        Raises:
            KafkaError, TimeoutError: The cluster does not answer.
        """
        self._failure = asyncio.get_running_loop().create_future()
        await ensure_topics(self._servers, self._options.partitions, self._options.replication)
        await self._shards.start(0.0 if self._options.max_batch else MEASURE_S)
        await self._producer.start()
        await self._cases.load()
        for task in (self._cases.run(), self._urgent.run(), self._publisher.run(), self._bury()):
            self._spawn(task)
        await self._consumer.start()
        self._spawn(self._consume())
        self._spawn(self._tick())

    async def wait(self) -> None:
        """Never returns; raises what stopped the stream."""
        assert self._failure is not None
        await asyncio.shield(self._failure)

    # The hot loop.

    async def _consume(self) -> None:
        while True:
            batches = await self._consumer.poll(200)
            now_s = self._clock()
            for tp, records in batches.items():
                partition = self._partitions.get(tp.partition)
                if partition is not None and partition.restored:
                    self._ingest(partition, records, now_s)
            self._pump()
            self._hold_back()
            await asyncio.sleep(0)  # results and acknowledgements take their turn

    def _ingest(self, partition: Partition, records: Sequence[Record], now_s: float) -> None:
        take = partition.progress.take
        fresh = [record for record in records if take(record.offset)]
        observations, rejected = self._decoder.decode(fresh)
        if rejected:
            self._rejected.put_nowait((partition, rejected))
        if self._each:
            for row, bed_id in enumerate(observations.bed_ids):
                account = partition.account(bed_id, now_s)
                account.queue.append((observations, row))
                self._ready[account] = None
            self._advance(now_s)
        else:
            self._observe(partition, observations, None, now_s)

    def _observe(
        self,
        partition: Partition,
        observations: Observations,
        rows: Sequence[int] | None,
        now_s: float,
    ) -> Observed:
        """Messages go into their windows, which are due then; those that may not are done."""
        observed = self._windows.observe(
            observations, partition.number, self._clock_ms(), rows, self._each
        )
        offsets, broker_ms = observations.offsets, observations.broker_ms
        if observed.dropped:
            partition.finish(offsets[observed.dropped].tolist())
        for bed in observed.emptied:
            self._emptied(partition, bed)
        for bed, offset, ms in zip(
            observed.beds,
            offsets[observed.rows].tolist(),
            broker_ms[observed.rows].tolist(),
            strict=True,
        ):
            partition.account(bed.bed_id, now_s).accept(offset, ms)
        for reason, count in observed.skipped.items():
            self._telemetry.skipped(reason, count)
        self._offer(partition, observed.beds, now_s)
        return observed

    def _advance(self, now_s: float) -> None:
        """`emit=each`: beds whose window was gathered take their next message, all in one go."""
        while self._ready:
            ready, self._ready = self._ready, {}
            heads: dict[int, tuple[Partition, Observations, list[int]]] = {}
            for account in ready:
                if not account.partition.alive:
                    continue
                bed = self._windows.bed(account.partition.number, account.bed_id)
                if bed is not None and bed.waiting:
                    continue  # Neither a message nor a change of the case before it was gathered.
                if account.cases:
                    self._late_cases(account)
                if not account.queue:
                    continue
                observations, row = account.queue.popleft()
                key = id(observations)
                if key not in heads:
                    heads[key] = (account.partition, observations, [])
                heads[key][2].append(row)
            for partition, observations, rows in heads.values():
                rows.sort()
                observed = self._observe(partition, observations, rows, now_s)
                for row in observed.dropped:
                    self._ready[partition.accounts[observations.bed_ids[row]]] = None

    def _offer(self, partition: Partition, beds: Sequence[Bed], now_s: float) -> None:
        """Windows are due: they queue for their devices, or wait until the bed may speak again."""
        due, started = [], 0
        for bed in dict.fromkeys(beds):
            account = partition.accounts[bed.bed_id]
            if account.waits:
                continue
            wait_s = account.scored_s + self._spacing_s - now_s
            if wait_s > 0:
                account.waits = True
                started += 1
                asyncio.get_running_loop().call_later(wait_s, self._waited, account)
            else:
                self._at[bed.home][bed.slot] = (bed, account)  # type: ignore[index]
                due.append(bed)
        replaced = self._shards.offer(due, self._urgent.beds.__contains__, now_s)
        if superseded := len(beds) - (len(due) - replaced) - started:
            self._telemetry.skipped("superseded", superseded)

    def _waited(self, account: Account) -> None:
        """A bed may speak again."""
        account.waits = False
        partition = account.partition
        bed = self._windows.bed(partition.number, account.bed_id) if partition.alive else None
        if bed is not None and bed.slot >= 0 and account.open:
            self._offer(partition, [bed], self._clock())
            self._pump()

    def _pump(self) -> None:
        """Devices that have nothing to do, or whose queue is full or late, get a batch."""
        now_s = self._clock()
        busy = True
        while busy:
            busy = False
            for shard in tuple(self._shards.alive):
                while (flush := shard.take(now_s, self._draining)) is not None:
                    busy = True
                    self._submit(shard, flush, now_s)
            if self._ready:
                self._advance(now_s)
        self._set_timer(now_s)

    def _submit(self, shard: Shard, flush: Flush, now_s: float) -> None:
        """Copy a batch's windows, with what they are as of now."""
        at = self._at[shard]
        newest = shard.store.newest_ms(np.array(flush.slots, np.int32)).tolist()
        tickets = []
        for slot, ts_ms in zip(flush.slots, newest, strict=True):
            bed, account = at[slot]
            account.scored_s = now_s
            tickets.append(Ticket(account, bed.source, bed.case_id, ts_ms, account.broker_ms, bed))
            if bed.waiting:
                bed.waiting = False
                self._ready[account] = None
        self._shards.submit(shard, flush, tickets, self._predicted)

    def _set_timer(self, now_s: float) -> None:
        """Look again when the oldest entry of a busy device has waited long enough."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadlines = [
            deadline
            for shard in self._shards.alive
            if len(shard.in_flight) == 1 and (deadline := shard.batcher.deadline_s) is not None
        ]
        if deadlines:
            self._timer = asyncio.get_running_loop().call_later(
                max(0.0, min(deadlines) - now_s), self._pump
            )

    def _device_failed(self, shard: Shard) -> None:
        """The beds of a device move, windows and all; those in its queue are due again."""
        now_s = self._clock()
        for bed in self._windows.move(shard):
            self._offer(self._partitions[bed.partition], [bed], now_s)
        self._pump()

    def _predicted(self, done: Done) -> None:
        """A batch came back from its device: publish it, and give the device the next one."""
        tickets: list[Ticket] = done.tag
        subjects = [
            Subject(t.account.bed_id, t.case_id, t.ts_ms, t.account.partition.number, t.offset)
            for t in tickets
        ]
        values = self._assembler.encode(subjects, done.predictions, self._clock_ms())
        self._publisher.put(
            [
                Outgoing(PREDICTIONS, ticket.account.key, value, ticket)
                for ticket, value in zip(tickets, values, strict=True)
                if ticket.account.partition.alive
            ]
        )
        for ticket, speaks in zip(tickets, done.predictions.speaks.tolist(), strict=True):
            ticket.bed.warming = not speaks
        share = done.predictions.share.mean(0).tolist()
        self._telemetry.expert_share(dict(zip(self._model.experts, share, strict=True)))
        self._pump()

    def _acknowledged(self, messages: Sequence[Outgoing]) -> None:
        """Messages are safe: their offsets are done."""
        now_ms = self._clock_ms()
        waited = []
        for message in messages:
            ticket = message.ticket
            if isinstance(ticket, Ticket):
                partition = ticket.account.partition
                if partition.alive:
                    partition.finish(ticket.account.done(ticket.offset))
                waited.append((now_ms - ticket.broker_ms) / 1_000)
            elif ticket is not None:
                ticket()
        self._telemetry.end_to_end(waited)

    def _emptied(self, partition: Partition, bed: Bed) -> None:
        """A window was emptied by a new case: what was due of the old one is lost."""
        account = partition.accounts.get(bed.bed_id)
        if account is None:
            return
        # What the old case said is still needed, for its name, until a snapshot has it as earlier.
        account.keep.dropped()
        account.keep.due_s = min(account.keep.due_s, self._clock() + COMMIT_S)
        if not self._each and account.open:
            self._telemetry.skipped("case_ended", len(account.open))
            partition.finish(account.open)
            account.open.clear()

    # Partitions come and go.

    def _assigned(self, assigned: frozenset[TopicPartition], epoch: int) -> None:
        for number in list(self._partitions):
            self._forget(number)
        for tp in sorted(assigned):
            partition = Partition(tp.partition, epoch, self._options.snapshot_every_s)
            self._partitions[tp.partition] = partition
            self._spawn(self._restore(tp, partition))

    async def _restore(self, tp: TopicPartition, partition: Partition) -> None:
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
                    self._consumer.resume(tp)

    async def _read_back(self, tp: TopicPartition, partition: Partition) -> None:
        """One try at a partition's windows, from nothing."""
        committed = await self._consumer.committed(tp)
        if not partition.alive:
            return
        # What a try before this one left would make the log's observations pass for repeats.
        self._windows.forget(tp.partition)
        partition.accounts.clear()
        if committed is not None:
            partition.begin(committed[0])
        for bed_id, (case, ms) in self._cases.known.get(tp.partition, {}).items():
            self._windows.case(bed_id, tp.partition, case, ms)
        await restore(
            self._servers,
            tp.partition,
            committed,
            self._model.grid_digest,
            _Target(self, partition),
        )

    async def _revoked(self, revoked: frozenset[TopicPartition]) -> None:
        """Finish what is under way, commit it, forget the rest: its next owner reads it again."""
        gone = [p for tp in revoked if (p := self._partitions.get(tp.partition)) is not None]
        restored = [partition for partition in gone if partition.restored]
        for partition in gone:
            partition.restored = False
            partition.drop_queued()
        if not self._draining:
            await self._finished(restored, min(REVOKE_S, self._options.session_timeout_ms / 3_000))
            await self._commit(restored)
        for partition in gone:
            self._forget(partition.number)

    def _forget(self, number: int) -> None:
        partition = self._partitions.pop(number, None)
        if partition is not None:
            partition.alive = False
            self._windows.forget(number)

    async def _finished(self, partitions: Sequence[Partition], within_s: float) -> bool:
        """Wait until nothing in the windows is due any more; False where time ran out."""
        end = self._clock() + within_s
        while any(account.open for p in partitions for account in p.accounts.values()):
            if self._clock() > end:
                return False
            await asyncio.sleep(0.01)
        return True

    async def _commit(self, partitions: Iterable[Partition]) -> None:
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
        if offsets and await self._consumer.commit(offsets, moved[0][0].epoch):
            for partition, now in moved:
                partition.committed = now

    # Cases.

    def _case_changed(self, number: int, bed_id: str, case: Case | None, ms: int) -> None:
        partition = self._partitions.get(number)
        if partition is None:
            return
        bed = self._windows.bed(partition.number, bed_id)
        if self._each and bed is not None and bed.waiting:
            partition.account(bed_id, self._clock()).cases.append((case, ms))
        else:
            self._take_case(partition, bed_id, case, ms)

    def _late_cases(self, account: Account) -> None:
        """Changes that waited for the window to be gathered."""
        changes, account.cases = account.cases, []
        for case, ms in changes:
            self._take_case(account.partition, account.bed_id, case, ms)

    def _take_case(self, partition: Partition, bed_id: str, case: Case | None, ms: int) -> None:
        emptied = self._windows.case(bed_id, partition.number, case, ms)
        if emptied is not None:
            self._emptied(partition, emptied)
        if case is None or case.status == "closed":
            # The record of the case says what a restart has to know of it.
            if (account := partition.accounts.get(bed_id)) is not None:
                account.keep.emptied()
            self._publisher.put([Outgoing(WINDOWS, bed_id.encode(), None, None)])

    # Snapshots.

    def _capture(self, partition: Partition, every: bool, now_s: float) -> None:
        """Pack the windows that are due; they are published when their offset is committed."""
        left = len(partition.accounts) if every else CAPTURES_AT_ONCE
        for account in partition.accounts.values():
            keep = account.keep
            if keep.since < 0 or keep.waiting >= 0 or (keep.due_s > now_s and not every):
                continue
            keep.due_s = now_s + self._options.snapshot_every_s
            bed = self._windows.bed(partition.number, account.bed_id)
            if bed is None or bed.slot < 0 or bed.source < 0:
                continue
            snapshot = self._windows.snapshot(bed)
            keep.capture(bed.source)
            partition.captures.append((account, bed.source, encode(snapshot)))
            left -= 1
            if left <= 0:
                return

    def _publish_snapshots(self, partition: Partition) -> None:
        committed = partition.committed[0]
        later, out = [], []
        for account, offset, value in partition.captures:
            if account.keep.waiting != offset:
                continue  # The window was emptied meanwhile.
            if offset < committed:
                out.append(Outgoing(WINDOWS, account.key, value, _Captured(account.keep, offset)))
            else:
                later.append((account, offset, value))
        partition.captures = later
        self._publisher.put(out)

    # Once in a while.

    async def _tick(self) -> None:
        committed_s = self._clock()
        while True:
            await asyncio.sleep(TICK_S)
            now_s = self._clock()
            self._shards.watch()
            live = [p for p in self._partitions.values() if p.restored]
            for partition in live:
                self._capture(partition, False, now_s)
            if now_s - committed_s >= COMMIT_S:
                committed_s = now_s
                await self._commit(live)
                for partition in live:
                    self._publish_snapshots(partition)
                self._tell()

    def _hold_back(self) -> None:
        """Partitions pause while too much is under way, polling goes on; they resume below half."""
        load = sum(p.progress.open for p in self._partitions.values())
        limit = self._options.queue_limit
        if not self._held_back and load > limit:
            self._held_back = True
            self._consumer.pause(*self._consumer.assignment)
            log.info("paused", waiting=load)
        elif self._held_back and load < limit // 2:
            self._held_back = False
            restored = [
                TopicPartition(VITALS, n) for n, p in self._partitions.items() if p.restored
            ]
            self._consumer.resume(*restored)
            log.info("resumed", waiting=load)

    async def _bury(self) -> None:
        """Dead letters, one batch after the other; their offsets are done when acknowledged."""
        while True:
            partition, rejected = await self._rejected.get()
            while True:
                try:
                    await self._dead_letters.bury(rejected)
                    break
                except KafkaError as error:
                    if not error.retriable:
                        raise
                    log.warning("dead letters sent again", error=repr(error))
                    await asyncio.sleep(1.0)
            if partition.alive:
                partition.finish([letter.record.offset for letter in rejected])

    def _tell(self) -> None:
        for tp, lag in self._consumer.lag().items():
            self._telemetry.lag(tp.topic, tp.partition, lag)
        states = self._windows.states(self._clock_ms(), self._options.stale_after_ms)
        states["restoring"] = sum(
            len(p.accounts) for p in self._partitions.values() if not p.restored
        )
        self._telemetry.beds(states)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if self._failure is not None and not self._failure.done():
            log.error("the stream stopped", error=repr(error))
            self._failure.set_exception(error)

    # The end.

    async def drain(self, within_s: float) -> None:
        """Take nothing new, finish, commit, snapshot, leave. May be called twice."""
        if self._draining:
            return
        self._draining = True
        end = self._clock() + within_s
        partitions = [p for p in self._partitions.values() if p.restored]
        try:
            async with asyncio.timeout(max(0.1, within_s * 0.7)):
                for partition in partitions:
                    partition.restored = False
                    partition.drop_queued()
                await self._finished(partitions, within_s * 0.4)
                await self._commit(partitions)
                for partition in partitions:
                    self._capture(partition, True, self._clock())
                    self._publish_snapshots(partition)
                await self._publisher.drained()
                await self._commit(partitions)
        except TimeoutError:
            log.warning("drain ran out of time; whoever comes next does the rest again")
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for stop in (self._consumer.stop, self._producer.stop):
            try:
                await asyncio.wait_for(stop(), max(0.1, end - self._clock()))
            except (KafkaError, TimeoutError) as error:
                log.warning("did not stop in order", error=repr(error))
        await self._shards.stop(max(0.1, end - self._clock()))

    def health(self) -> Mapping[str, tuple[bool, str]]:
        """Each part's state: whether it does its work, and why not."""
        lag = max(self._consumer.lag().values(), default=0)
        stuck = self._consumer.stuck(self._options.stuck_after_s)
        restoring = sum(not p.restored for p in self._partitions.values())
        late_s = self._consumer.loop_lag_s
        failure = self._failure
        failed = failure is not None and failure.done()
        parts = {
            "kafka": (
                self._consumer.epoch > 0 and not failed,
                f"{len(self._partitions)} partitions, loop late by {late_s:.2f} s"
                if not failed
                else "stream stopped",
            ),
            "restoring": (restoring == 0, f"{restoring} partitions"),
            "lag": (lag <= self._options.max_lag, f"{lag} messages"),
            "stuck": (not stuck, f"{len(stuck)} partitions"),
            "model": (
                True,
                f"{self._model.name} {self._model.version}, kernels: torch reference",
            ),
        }
        return parts | dict(self._shards.health())


class _Captured:
    """A snapshot on its way: when it is acknowledged, restarts begin there."""

    __slots__ = ("keep", "offset")

    def __init__(self, keep: Keep, offset: int) -> None:
        self.keep = keep
        self.offset = offset

    def __call__(self) -> None:
        if self.keep.waiting == self.offset:
            self.keep.published()


class _Target:
    """A partition that is restored."""

    def __init__(self, pipeline: Pipeline, partition: Partition) -> None:
        self._pipeline = pipeline
        self._partition = partition

    @property
    def alive(self) -> bool:
        """Whether the partition is still ours."""
        return self._partition.alive

    def restore_snapshot(self, snapshot: Snapshot) -> None:
        """Take a bed's window over."""
        self._pipeline._windows.restore(snapshot)
        self._partition.account(snapshot.bed_id, self._pipeline._clock())

    def restore_tail(self, records: Sequence[Record]) -> None:
        """Apply observations, predict nothing."""
        pipeline, partition = self._pipeline, self._partition
        observations, _ = pipeline._tail_decoder.decode(records)
        now_s = pipeline._clock()
        observed = pipeline._windows.observe(observations, partition.number, pipeline._clock_ms())
        for bed in observed.emptied:
            pipeline._emptied(partition, bed)
        offsets = observations.offsets[observed.rows].tolist()
        for bed, offset in zip(observed.beds, offsets, strict=True):
            keep = partition.account(bed.bed_id, now_s).keep
            if keep.since < 0:
                keep.since = offset
