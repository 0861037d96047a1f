"""The ward's process: Kafka in, alerts, history and trends into the database, changed alerts back
to Kafka.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import structlog

from app import card
from app.lifecycle import Deadline, Health
from app.ops import Ops
from app.settings import BadSetting, Settings
from app.ward import database, retention
from app.ward.database import DatabaseGone
from app.ward.desk import TOPICS, Desk
from app.ward.ledger import Fenced, Ledger
from streaming.codec import encode
from streaming.consumer import GroupConsumer, KafkaError, Record, TopicPartition
from streaming.messages import ALERTS, PREDICTIONS, VITALS
from streaming.producer import Producer
from streaming.telemetry import SILENT, Telemetry

log = structlog.get_logger(__name__)
_T = TypeVar("_T")

POLL_S: Final = 0.1
"""Records are taken in bulk: a thread hop for each costs more than a tenth of a second's wait."""
TICK_S: Final = 1.0
PUBLISH_S: Final = 1.0
COMMIT_S: Final = 10.0
PURGE_S: Final = 600.0
BACKOFF_S: Final = (0.2, 0.5, 1.0, 2.0, 3.0)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Ward:
    """The role `ward`. All books are kept by one thread; the loop only waits.

    Args:
        settings: The broker, the database, the group, the limits and the retention.
        telemetry: Hears of opened alerts and of the lag.
        metrics: Prometheus text and its content type; where given, an operations server is started
            on `ops_port`.
        now_ms: The wall clock.
    """

    name = "ward"

    def __init__(
        self,
        settings: Settings,
        telemetry: Telemetry = SILENT,
        metrics: Callable[[], tuple[bytes, str]] | None = None,
        now_ms: Callable[[], int] = _now_ms,
    ) -> None:
        if settings.kafka is None:
            raise BadSetting("kafka: None is not allowed: HOST:PORT, comma-separated")
        self._settings = settings
        self._telemetry = telemetry
        self._now_ms = now_ms
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ward")
        self._ledger = Ledger(settings.database_url)
        self._idle_ms = int(settings.bed_idle_h * 3_600_000)
        self._desk = Desk(
            self._ledger,
            settings.stale_after_ms,
            settings.max_skew_ms,
            telemetry,
            settings.max_beds,
            self._idle_ms,
            card.thresholds(settings.model),
        )
        self._consumer = GroupConsumer(
            settings.kafka,
            f"{settings.group}-ward",
            TOPICS,
            on_assigned=self._on_assigned,
            on_revoked=self._on_revoked,
            session_timeout_ms=settings.session_timeout_ms,
            client_id="vitalstream-ward",
        )
        self._producer = Producer(settings.kafka, client_id="vitalstream-ward")
        self._ops = (
            None if metrics is None else Ops(settings.host, settings.ops_port, metrics, self.health)
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._assigning: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._ready = False
        self._failures = 0
        self._retry_at = 0.0
        self._turn = 0
        self._database = Health(False, "not asked yet")
        self._kafka = Health(False, "not connected yet")
        self._heard_since: dict[int, int] = {}
        self._ticked = self._committed = 0.0
        self._closed = False

    async def start(self) -> None:
        """Join the group. Raises NotMigrated, BadDatabase, KafkaError; a database that is away is
        awaited.
        """
        if self._ops is not None:
            await self._ops.start()
        url = self._settings.database_url
        try:
            if url.startswith("sqlite"):
                await self._do(database.migrate, url)
            await self._do(self._ledger.check)
            self._database = Health(True)
        except DatabaseGone as error:
            self._away(error)
        await self._producer.start()
        await self._consumer.start()
        self._tasks = [
            asyncio.create_task(work(), name=f"ward {work.__name__}")
            for work in (self._consume, self._publish, self._probe, self._purge)
        ]

    async def wait(self) -> None:
        """Raise when a part has failed."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()

    async def drain(self, deadline: Deadline) -> None:
        """Stop reading, write and publish what is there, leave the group."""
        if self._closed:
            return
        self._closed = True
        self._stopping.set()
        for task in (*self._tasks, *((self._assigning,) if self._assigning else ())):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(max(0.1, deadline.left_s - 2.0)):
                await self._leave()
        except (DatabaseGone, Fenced, KafkaError, TimeoutError) as error:
            log.warning("not all was written; the next ward reads it again", error=repr(error))
        self._desk_ready(False)
        for stop in (self._consumer.stop, self._producer.stop):
            try:
                async with asyncio.timeout(max(0.1, deadline.left_s)):
                    await stop()
            except (KafkaError, TimeoutError) as error:
                log.warning("kafka did not part cleanly", error=repr(error))
        if self._ops is not None:
            await self._ops.stop()
        self._thread.shutdown(wait=False)
        self._ledger.close()

    def health(self) -> Mapping[str, Health]:
        """`database`, `kafka` and `lag`."""
        lag = self._consumer.lag() if self._tasks and not self._closed else {}
        behind = sum(lag.values())
        if not self._ready:
            lagging = Health(False, "partitions are being taken over")
        elif behind > self._settings.max_lag:
            lagging = Health(False, f"{behind} messages behind")
        else:
            lagging = Health(True, f"{behind} messages behind")
        return {"database": self._database, "kafka": self._kafka, "lag": lagging}

    async def _do(self, work: Callable[..., _T], *given: object) -> _T:
        """Run something in the books' thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *given)

    async def _consume(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            if self._assigning is not None and self._assigning.done():
                if not self._assigning.cancelled():
                    self._assigning.result()
                self._assigning = None
            batches = await self._consumer.poll(timeout_ms=200)
            turn = self._turn  # what is delivered now was resumed in this turn
            if batches:
                for partition, offset in (await self._do(self._take, batches, turn)).items():
                    if turn == self._turn and partition in self._consumer.assignment:
                        self._consumer.seek(partition, offset)
            await self._write()
            await asyncio.sleep(max(0.0, POLL_S - (time.monotonic() - began)))

    def _take(
        self, batches: Mapping[TopicPartition, list[Record]], turn: int
    ) -> dict[TopicPartition, int]:
        now_ms = self._now_ms()
        back: dict[TopicPartition, int] = {}
        for at, records in batches.items():
            offset = self._desk.take((at.topic, at.partition), records, turn, now_ms)
            if offset is not None:
                back[at] = offset
        return back

    async def _write(self) -> None:
        """Let the desk write what is due; while the database is away hold the partitions back."""
        now = time.monotonic()
        if not self._ready or now < self._retry_at:
            return
        ticks = now - self._ticked >= TICK_S
        self._ticked = now if ticks else self._ticked
        try:
            changed = await self._do(self._work, ticks)
        except DatabaseGone as error:
            self._away(error)
            self._consumer.pause(*self._consumer.assignment)
            self._heard_since.clear()
            return
        except Fenced as error:
            log.error("partitions are taken over again", error=str(error))
            self._on_assigned(self._consumer.assignment, self._consumer.epoch)
            return
        if self._failures:
            log.info("database answers again")
            self._consumer.resume(*self._consumer.assignment)
        self._failures = 0
        self._database = Health(True)
        if changed:
            self._changed.set()
        if now - self._committed >= COMMIT_S:
            self._committed = now
            await self._commit()

    def _work(self, ticks: bool) -> bool:
        now_ms = self._now_ms()
        if ticks:
            self._desk.tick(now_ms, self._heard_since)
        return self._desk.write(now_ms)

    def _away(self, error: Exception) -> None:
        wait_s = BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
        if not self._failures:
            log.warning("database does not answer; reading waits", error=repr(error.__cause__))
        self._failures += 1
        self._retry_at = time.monotonic() + wait_s
        self._database = Health(False, "does not answer")

    async def _commit(self) -> None:
        """Tell the group how far was read, for whoever watches its lag; the database's offsets are
        the ones that count.
        """
        epoch = self._consumer.epoch
        offsets = {
            at: (offset, "")
            for at in self._consumer.assignment
            if (offset := self._desk.next_offset((at.topic, at.partition))) > 0
        }
        await self._consumer.commit(offsets, epoch)

    def _on_assigned(self, partitions: frozenset[TopicPartition], epoch: int) -> None:
        self._desk_ready(False)
        self._turn += 1
        self._consumer.pause(*partitions)
        if self._assigning is not None:
            self._assigning.cancel()
        self._assigning = asyncio.create_task(
            self._assign(partitions, epoch, self._turn), name="ward assign"
        )

    async def _assign(self, partitions: frozenset[TopicPartition], epoch: int, turn: int) -> None:
        numbers = sorted({at.partition for at in partitions})
        failures = 0
        while not self._stopping.is_set():
            try:
                ends = {
                    (at.topic, at.partition): end
                    for at, end in (await self._consumer.end_offsets(partitions)).items()
                }
                starts = await self._do(self._desk.assign, turn, numbers, ends)
                break
            except (DatabaseGone, KafkaError, TimeoutError) as error:
                if isinstance(error, DatabaseGone):
                    self._database = Health(False, "does not answer")
                log.warning("partitions not taken over yet", error=repr(error))
                await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
                failures += 1
            if epoch != self._consumer.epoch:
                return
        if epoch != self._consumer.epoch or self._stopping.is_set():
            return
        for at in self._consumer.assignment:
            self._consumer.seek(at, starts[at.topic, at.partition])
        self._consumer.resume(*self._consumer.assignment)
        self._database = Health(True)
        self._failures = 0
        self._retry_at = 0.0
        self._desk_ready(True)

    async def _on_revoked(self, _: frozenset[TopicPartition]) -> None:
        self._desk_ready(False)
        if self._assigning is not None:
            self._assigning.cancel()
        try:
            await self._do(self._desk.write, self._now_ms(), True)
        except (DatabaseGone, Fenced) as error:
            log.warning("not all was written; the next ward reads it again", error=repr(error))
        await self._do(self._desk.release)

    def _desk_ready(self, ready: bool) -> None:
        self._ready = ready
        self._heard_since.clear()

    async def _publish(self) -> None:
        """Give Kafka every alert that changed, and the engine what people did."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PUBLISH_S):
                    await self._changed.wait()
            self._changed.clear()
            if not self._ready or self._failures:
                continue
            try:
                await self._publish_once()
            except DatabaseGone:
                await asyncio.sleep(PUBLISH_S)  # the writing side tells of it
            except (KafkaError, TimeoutError) as error:
                log.warning("alerts not published yet", error=repr(error))

    async def _publish_once(self) -> None:
        alerts = await self._do(self._desk.outbox)
        if not alerts:
            return
        sent = [
            await self._producer.send(ALERTS, alert.bed_id.encode(), encode(alert))
            for alert in alerts
        ]
        await asyncio.gather(*sent)
        self._telemetry.message(ALERTS, "published", len(sent))
        await self._do(self._desk.published)

    async def _probe(self) -> None:
        """Find out whether Kafka answers and who is read to the end: silence counts only there."""
        every_s = min(5.0, self._settings.stale_after_ms / 6_000)
        while True:
            owned = [at for at in self._consumer.assignment if at.topic == VITALS]
            try:
                async with asyncio.timeout(5.0):
                    ends = await self._consumer.end_offsets(owned)
                self._kafka = Health(True)
            except (KafkaError, TimeoutError, OSError):
                self._kafka = Health(False, "does not answer")
                ends = {}
            self._note_heard(ends)
            for at, lag in self._consumer.lag().items():
                if at.topic == PREDICTIONS:
                    self._telemetry.lag(at.topic, at.partition, lag)
            await asyncio.sleep(every_s)

    def _note_heard(self, ends: Mapping[TopicPartition, int]) -> None:
        now_ms = self._now_ms()
        reading = self._ready and not self._failures
        current = {
            at.partition
            for at, end in ends.items()
            if self._desk.next_offset((VITALS, at.partition)) >= end
            or now_ms - self._desk.newest_ms((VITALS, at.partition)) < 5_000
        }
        for partition in set(self._heard_since) - (current if reading else set()):
            del self._heard_since[partition]
        if reading:
            for partition in current:
                self._heard_since.setdefault(partition, now_ms)

    async def _purge(self) -> None:
        """Delete what is older than the retention, a batch at a time."""
        wait_s = PURGE_S
        while True:
            await asyncio.sleep(wait_s)
            now_ms = self._now_ms()
            before_ms = now_ms - self._settings.retention_days * retention.DAY_MS
            wait_s = PURGE_S
            if self._ready and not self._failures:
                try:
                    gone = await self._do(
                        retention.purge,
                        self._ledger.engine,
                        before_ms,
                        retention.BATCH,
                        now_ms - self._idle_ms,
                    )
                    wait_s = 1.0 if gone else PURGE_S
                except DatabaseGone:
                    log.info("nothing deleted while the database is away")

    async def _leave(self) -> None:
        await self._do(self._desk.write, self._now_ms(), True)
        await self._commit()
        await self._publish_once()
