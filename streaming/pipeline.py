"""The worker's stream: its parts put together, started, looked after and ended.

`Membership` says which partitions are ours, `Intake` takes their records into the windows,
`Scoring` predicts the windows that are due, `Stays` follows the beds' cases, `Captures` keeps
snapshots. All of it runs on the event loop's thread; the network runs in the devices' threads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import structlog

from streaming.captures import Captures
from streaming.consumer import KafkaError
from streaming.deadletter import DeadLetters
from streaming.follow import Cases, Urgent
from streaming.intake import Intake
from streaming.membership import Membership
from streaming.model import Model
from streaming.options import Options
from streaming.producer import Producer
from streaming.scoring import Scoring
from streaming.stays import Stays
from streaming.telemetry import SILENT, Telemetry
from streaming.topics import LARGEST_LETTER_BYTES, ensure_topics

__all__ = ["Options", "Pipeline"]

log = structlog.get_logger(__name__)

TICK_S = 0.1
COMMIT_S = 1.0
MEASURE_S = 1.5
CASES_TO_BEDS = 4
"""Beds whose cases are remembered, to each that a worker may have: it knows all workers' cases."""


def wall_ms() -> int:
    """The wall clock."""
    return time.time_ns() // 1_000_000


class Pipeline:
    """One member of the worker's consumer group.

    Args:
        servers: Kafka.
        models: One for each device.
        options: How the stream behaves.
        telemetry: Hears what the stream tells about itself.
        clock: Seconds.
        clock_ms: The wall clock.
    """

    def __init__(
        self,
        servers: str,
        models: Sequence[Model],
        options: Options,
        telemetry: Telemetry = SILENT,
        clock: Callable[[], float] = time.monotonic,
        clock_ms: Callable[[], int] = wall_ms,
    ) -> None:
        self._servers = servers
        self._options = options
        self._telemetry = telemetry
        self._clock = clock
        self._clock_ms = clock_ms
        self._model = model = models[0]
        self._producer = Producer(servers, max_request_bytes=LARGEST_LETTER_BYTES)
        self._urgent = Urgent(servers)
        self._cases = Cases(
            servers,
            lambda *change: self.stays.changed(*change),
            telemetry,
            CASES_TO_BEDS * options.max_beds,
            lambda partition, bed_id: self.scoring.windows.bed(partition, bed_id) is not None,
        )
        self.scoring = Scoring(
            models,
            self._producer,
            options,
            self._urgent.beds,
            self._cases.known,
            self._fail,
            telemetry,
            clock,
            clock_ms,
        )
        windows, publisher = self.scoring.windows, self.scoring.publisher
        self.stays = Stays(windows, self.scoring.partitions, publisher, options, telemetry, clock)
        letters = DeadLetters(self._producer, options.group, telemetry)
        self.intake = Intake(self.scoring, self.stays, letters, options, telemetry, clock_ms)
        self.scoring.advance = self.intake.advance
        self.captures = Captures(windows, publisher, options)
        self.membership = Membership(
            servers,
            model.grid_digest,
            self.scoring,
            self.stays,
            options,
            self._spawn,
            telemetry,
            clock,
            clock_ms,
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Measure the batch curve, read the cases, join the group.

        Raises:
            KafkaError, TimeoutError: The cluster does not answer.
        """
        self._failure = asyncio.get_running_loop().create_future()
        await ensure_topics(self._servers, self._options.partitions, self._options.replication)
        await self.scoring.shards.start(0.0 if self._options.max_batch else MEASURE_S)
        await self._producer.start()
        await self._cases.load()
        publisher = self.scoring.publisher
        for task in (self._cases.run(), self._urgent.run(), publisher.run(), self.intake.bury()):
            self._spawn(task)
        await self.membership.consumer.start()
        self._spawn(self._consume())
        self._spawn(self._tick())

    async def wait(self) -> None:
        """Never returns; raises what stopped the stream."""
        assert self._failure is not None
        await asyncio.shield(self._failure)

    async def _consume(self) -> None:
        """The hot loop."""
        membership, intake, scoring = self.membership, self.intake, self.scoring
        while True:
            batches = await membership.consumer.poll(200)
            now_s = self._clock()
            for tp, records in batches.items():
                partition = scoring.partitions.get(tp.partition)
                if partition is not None and partition.restored:
                    intake.take(partition, records, now_s)
            scoring.pump()
            membership.hold_back()
            await asyncio.sleep(0)  # results and acknowledgements take their turn

    async def _tick(self) -> None:
        """Once in a while: devices, snapshots, commits, beds that are silent for days."""
        committed_s = self._clock()
        turn = 0
        while True:
            await asyncio.sleep(TICK_S)
            now_s = self._clock()
            self.scoring.shards.watch()
            live = self.membership.restored
            for partition in live:
                self.captures.take(partition, now_s)
            if now_s - committed_s >= COMMIT_S:
                committed_s = now_s
                await self.membership.commit(live)
                for partition in live:
                    self.captures.publish(partition)
                if live:
                    turn += 1
                    self.captures.forget(live[turn % len(live)], self._clock_ms())
                self._tell()

    def _tell(self) -> None:
        for tp, lag in self.membership.consumer.lag().items():
            self._telemetry.lag(tp.topic, tp.partition, lag)
        states = self.scoring.windows.states(self._clock_ms(), self._options.stale_after_ms)
        states["restoring"] = sum(
            len(p.accounts) for p in self.scoring.partitions.values() if not p.restored
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

    async def drain(self, within_s: float) -> None:
        """Take nothing new, finish, commit, snapshot, leave. May be called twice."""
        if self.scoring.draining:
            return
        self.scoring.draining = True
        end = self._clock() + within_s
        membership, captures = self.membership, self.captures
        partitions = membership.restored
        try:
            async with asyncio.timeout(max(0.1, within_s * 0.7)):
                for partition in partitions:
                    partition.restored = False
                    partition.drop_queued()
                await membership.finished(partitions, within_s * 0.4)
                await membership.commit(partitions)
                for partition in partitions:
                    captures.take(partition, self._clock(), every=True)
                    captures.publish(partition)
                await self.scoring.publisher.drained()
                await membership.commit(partitions)
        except TimeoutError:
            log.warning("drain ran out of time; whoever comes next does the rest again")
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for stop in (membership.consumer.stop, self._producer.stop):
            try:
                async with asyncio.timeout(max(0.1, end - self._clock())):
                    await stop()
            except (KafkaError, TimeoutError) as error:
                log.warning("did not stop in order", error=repr(error))
        await self.scoring.shards.stop(max(0.1, end - self._clock()))

    def health(self) -> Mapping[str, tuple[bool, str]]:
        """Each part's state: whether it does its work, and why not."""
        consumer, partitions = self.membership.consumer, self.scoring.partitions
        lag = max(consumer.lag().values(), default=0)
        stuck = consumer.stuck(self._options.stuck_after_s)
        restoring = sum(not p.restored for p in partitions.values())
        late_s = consumer.loop_lag_s
        failed = self._failure is not None and self._failure.done()
        beds, most = len(self.scoring.windows), self._options.max_beds
        parts = {
            "kafka": (
                consumer.epoch > 0 and not failed and consumer.answered,
                "stream stopped"
                if failed
                else f"{len(partitions)} partitions, loop late by {late_s:.2f} s"
                if consumer.answered
                else "does not answer",
            ),
            "restoring": (restoring == 0, f"{restoring} partitions"),
            "lag": (lag <= self._options.max_lag, f"{lag} messages"),
            "stuck": (not stuck, f"{len(stuck)} partitions"),
            "beds": (beds < most, f"{beds} of at most {most}"),
            "model": (
                True,
                f"{self._model.name} {self._model.version}, "
                f"{getattr(self._model, 'engine', 'own')} engine",
            ),
        }
        return parts | dict(self.scoring.shards.health())
