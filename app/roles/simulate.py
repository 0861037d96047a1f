"""`vitalstream simulate`: publish simulated monitors until stopped.

Cases first, then the hours behind, then every bed at `rate`, each at its own moment of the period
so that the stream is even. While the cluster is away readings are lost, as a monitor's would be;
they are counted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import structlog

from app.lifecycle import Deadline, Health
from app.settings import BadSetting, Settings
from streaming.codec import encode
from streaming.messages import CASES, VITALS, Observation
from streaming.producer import KafkaError, Producer, Sent
from streaming.simulator.ward import Ward
from streaming.telemetry import SILENT, Telemetry
from streaming.topics import ensure_topics

log = structlog.get_logger(__name__)

_SLICE_S: Final = 0.005
"""Least time between two sends of a period; at 4,000 beds a slice is 20 messages."""
_YIELD_EVERY: Final = 256
_ACK_S: Final = 30.0


class Simulate:
    """The role.

    Args:
        settings: `kafka`, `beds`, `rate`, `seed`, `history_h`, `artefacts`.
        telemetry: Hears of published and lost messages.
        now_ms: The wall clock.
    """

    name = "simulate"

    def __init__(
        self,
        settings: Settings,
        *,
        telemetry: Telemetry = SILENT,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        if settings.kafka is None:
            raise BadSetting("kafka: None is not allowed: HOST:PORT, comma-separated")
        self._settings, self._servers = settings, settings.kafka
        self._period_ms = max(1, round(1_000 / settings.rate))
        self._telemetry, self._now_ms = telemetry, now_ms
        self._producer: Producer | None = None
        self._task: asyncio.Task[None] | None = None
        self._failing = False
        self.ward: Ward | None = None
        self.sent = 0
        self.acknowledged = 0
        self.lost = 0

    async def start(self) -> None:
        """Connect, ensure the topics, publish the cases. Raises KafkaError without a broker."""
        await ensure_topics(self._servers, self._settings.partitions, self._settings.replication)
        self._producer = producer = Producer(self._servers, client_id="vitalstream-simulate")
        await producer.start()
        asked = self._settings
        self.ward = ward = Ward(
            asked.beds, asked.seed, self._now_ms(), asked.history_h, asked.artefacts
        )
        acks = [
            await producer.send(CASES, case.bed_id.encode(), encode(case)) for case in ward.cases
        ]
        async with asyncio.timeout(_ACK_S):
            await asyncio.gather(*acks)
        self._telemetry.message(CASES, "published", len(acks))
        self._task = asyncio.create_task(self._run(ward), name=self.name)

    async def wait(self) -> None:
        """Never returns by itself; raises what stopped it."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def drain(self, deadline: Deadline) -> None:
        """Stop, let what is in flight arrive, disconnect."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.flush(min(2.0, max(0.1, deadline.left_s - 0.5)))
            await producer.stop()

    def health(self) -> Mapping[str, Health]:
        """Whether readings arrive at the cluster."""
        detail = f"{self._settings.beds} beds, {self.acknowledged} sent, {self.lost} lost"
        return {"simulate": Health(not self._failing, detail)}

    async def _run(self, ward: Ward) -> None:
        for step in ward.history():
            for message in step:
                await self._send(message)
            await asyncio.sleep(0)
        period_ms = self._period_ms
        next_ms = self._now_ms()
        while True:
            messages = ward.tick(next_ms, period_ms)
            await self._spread(messages, next_ms)
            self._telemetry.message(VITALS, "published", len(messages))
            next_ms += period_ms
            behind = (self._now_ms() - next_ms) // period_ms
            if behind > 0:
                log.warning("the simulator fell behind, periods left out", periods=behind)
                next_ms += behind * period_ms
            await asyncio.sleep(max(0.0, (next_ms - self._now_ms()) / 1_000))

    async def _spread(self, messages: Sequence[Observation], start_ms: int) -> None:
        """Send a period's messages evenly over it."""
        count, done = len(messages), 0
        while done < count:
            elapsed = (self._now_ms() - start_ms) / self._period_ms
            due = min(count, int(elapsed * count) + 1)
            for k, message in enumerate(messages[done:due]):
                await self._send(message)
                if k % _YIELD_EVERY == _YIELD_EVERY - 1:
                    await asyncio.sleep(0)
            done = max(done, due)
            if done < count:
                wait_s = done / count * self._period_ms / 1_000 - (
                    (self._now_ms() - start_ms) / 1_000
                )
                await asyncio.sleep(max(_SLICE_S, wait_s))

    async def _send(self, message: Observation) -> None:
        assert self._producer is not None
        self.sent += 1
        try:
            future = await self._producer.send(VITALS, message.bed_id.encode(), encode(message))
        except KafkaError as error:
            self._lose(error)
            return
        future.add_done_callback(self._acknowledge)

    def _acknowledge(self, future: asyncio.Future[Sent]) -> None:
        error = None if future.cancelled() else future.exception()
        if future.cancelled() or error is not None:
            self._lose(error)
        else:
            self.acknowledged += 1
            self._failing = False

    def _lose(self, error: BaseException | None) -> None:
        self.lost += 1
        self._telemetry.message(VITALS, "lost")
        if not self._failing:
            log.warning("readings are being lost", error=type(error).__name__)
        self._failing = True
