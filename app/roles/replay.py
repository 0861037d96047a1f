"""`vitalstream replay`: publish a recorded set as if its monitors were here now.

The bed is the record's id. The case is acknowledged before the bed's first message is sent; then
comes one message for every row or distinct minute, in order, also where nothing was measured.
Labels and outcomes are never read.

Event times keep the record's own spacing and never lie ahead of the clock. At `max` a record ends
now. At speed s all records start together and each message leaves when its time since the first
has passed at that speed; a record of length D is shifted so that it ends at the moment it was all
sent, D / s after the start (for s = 1 every event time is the moment of sending; below 1 the first
message's is).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from app.lifecycle import Deadline, Health
from app.settings import BadSetting, Settings
from models.data import Stay, open_set
from models.signals import NAMES
from streaming.codec import encode
from streaming.messages import CASES, VITALS, Case, Observation
from streaming.producer import Producer, Sent
from streaming.telemetry import SILENT, Telemetry
from streaming.topics import ensure_topics

log = structlog.get_logger(__name__)

_CHUNK: Final = 128
"""Stays read ahead at `max`: their cases are out before the messages of the chunk before."""
_CASE_LEAD_S: Final = 0.5
"""From the first cases' acknowledgement to the first message: two topics have no common order."""
_YIELD_EVERY: Final = 256
_FOLDERS: Final = {"eicu-demo": "eicu-crd-demo"}


class Undelivered(RuntimeError):
    """Messages that the cluster did not acknowledge."""


def case_of(stay: Stay, base_ms: int) -> Case:
    """The case of a stay that was admitted at `base_ms`; a repeated replay is a new case."""
    known = stay.case
    before_ms = known.hospital_admitted_ms
    return Case(
        bed_id=stay.record,
        case_id=f"{stay.set_name}-{stay.record}-{base_ms}",
        status="open",
        admitted_ms=base_ms,
        hospital_admitted_ms=None if before_ms is None else max(0, base_ms + before_ms),
        age_years=known.age_years,
        sex=known.sex,
        unit_type=known.unit_type,
        weight_kg=known.weight_kg,
        height_cm=known.height_cm,
        problems=known.problems,
        spo2_scale=known.spo2_scale,
    )


def observations(stay: Stay, base_ms: int, case_id: str) -> Iterator[Observation]:
    """One message for each of the stay's times, in order, also where nothing was measured."""
    # The shortest decimal that is this float32: what the record's own text said.
    numbers = stay.value.astype("U32").astype(np.float64).tolist()
    names = [NAMES[i] for i in stay.signal.tolist()]
    ends = np.searchsorted(stay.row, np.arange(1, len(stay.times_ms) + 1)).tolist()
    start = 0
    for seq, (time_ms, end) in enumerate(zip(stay.times_ms.tolist(), ends, strict=True)):
        values: dict[str, float | None] = dict(
            zip(names[start:end], numbers[start:end], strict=True)
        )
        yield Observation(stay.record, base_ms + time_ms, values, case_id, seq=seq)
        start = end


def base_at_speed(stay: Stay, start_ms: int, speed: float) -> int:
    """Admission time of a stay whose first message leaves at `start_ms`; see the module's text."""
    first_ms, last_ms = int(stay.times_ms[0]), int(stay.times_ms[-1])
    length_ms = last_ms - first_ms
    return start_ms - first_ms + min(0, int(length_ms / speed) - length_ms)


def due_ms(stays: Sequence[Stay], speed: float) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """When each message leaves since the start, and whose it is, in order: float64[n], int32[n]."""
    waits = [(stay.times_ms - stay.times_ms[0]) / speed for stay in stays]
    owner = np.repeat(np.arange(len(stays), dtype=np.int32), [len(w) for w in waits])
    wait = np.concatenate(waits)
    order = np.argsort(wait, kind="stable")
    return wait[order], owner[order]


class Replay:
    """The role. Ends when all is acknowledged; `wait` raises Undelivered where something was not.

    Args:
        settings: `kafka`; `data` where no path is given.
        dataset: One of `models.data.SETS`.
        paths: Archives, folders or single records.
        speed: Times real time; None is as fast as it goes.
        limit: Records to publish at most.
        progress: Whether to draw a progress bar.
        now_ms: The wall clock.
    """

    name = "replay"

    def __init__(
        self,
        settings: Settings,
        dataset: str,
        paths: Sequence[Path] = (),
        *,
        speed: float | None = 1.0,
        limit: int | None = None,
        progress: bool = True,
        telemetry: Telemetry = SILENT,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        if settings.kafka is None:
            raise BadSetting("kafka: None is not allowed: HOST:PORT, comma-separated")
        if speed is not None and not 0 < speed < float("inf"):
            raise BadSetting(f"speed: {speed} is not allowed: a positive number, or max")
        if limit is not None and limit < 1:
            raise BadSetting(f"limit: {limit} is not allowed: at least 1")
        self._settings, self._servers = settings, settings.kafka
        self._paths = list(paths)
        if not paths and settings.data is not None:
            self._paths = [settings.data / _FOLDERS.get(dataset, dataset)]
        try:
            self._set = open_set(dataset, self._paths)
        except ValueError as error:
            raise BadSetting(f"dataset: {error}") from error
        if not self._paths:
            raise BadSetting("paths: none is not allowed: archives or folders of the recorded set")
        if absent := next((path for path in self._paths if not path.exists()), None):
            raise BadSetting(f"paths: '{absent}' is not allowed: no such file or folder")
        self._speed, self._limit = speed, limit
        self._telemetry, self._now_ms = telemetry, now_ms
        self._producer: Producer | None = None
        self._task: asyncio.Task[None] | None = None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f} acknowledged, {task.fields[stays]:,} records"),
            TimeElapsedColumn(),
            disable=not progress,
        )
        self._line = self._bar.add_task(f"replay {dataset}", total=None, stays=0)
        self.sent = 0
        self.acknowledged = 0
        self.stays = 0
        self._failed: BaseException | None = None

    async def start(self) -> None:
        """Connect, make sure of the topics, begin. Raises KafkaError where no broker answers."""
        await ensure_topics(self._servers, self._settings.partitions, self._settings.replication)
        self._producer = Producer(self._servers, client_id="vitalstream-replay")
        await self._producer.start()
        self._bar.start()
        self._task = asyncio.create_task(self._run(), name=self.name)

    async def wait(self) -> None:
        """Return when all is acknowledged. Raises Undelivered, or what stopped the reading."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def drain(self, deadline: Deadline) -> None:
        """Stop publishing, let what is in flight arrive, disconnect."""
        task, self._task = self._task, None
        if task is not None and not task.done():
            task.cancel()
        if task is not None:
            await asyncio.gather(task, return_exceptions=True)
        self._bar.stop()
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.flush(max(0.1, deadline.left_s - 0.5))
            await producer.stop()

    def health(self) -> Mapping[str, Health]:
        """Whether it publishes."""
        if self._failed is not None:
            return {"replay": Health(False, f"undelivered: {type(self._failed).__name__}")}
        return {"replay": Health(True, f"{self.acknowledged} of {self.sent} acknowledged")}

    async def _run(self) -> None:
        if self._speed is None:
            await self._at_once()
        else:
            await self._in_time(self._speed)
        producer = self._producer
        while producer is not None and self.acknowledged < self.sent and self._failed is None:
            await producer.flush(1.0)
            await asyncio.sleep(0)
        if self._failed is not None:
            raise Undelivered(
                f"{self.sent - self.acknowledged} of {self.sent} messages were not acknowledged: "
                f"{type(self._failed).__name__}"
            ) from self._failed
        if not self.stays:
            raise BadSetting(f"paths: no record of {self._set.name} could be read from them")
        self._bar.update(self._line, total=self.acknowledged, completed=self.acknowledged)
        log.info(
            "replay ended",
            set=self._set.name,
            records=self.stays,
            left_out=len(self._set.bad),
            messages=self.acknowledged,
        )

    async def _at_once(self) -> None:
        """Chunk by chunk, the cases one chunk ahead of the messages."""
        reading = islice(iter(self._set), self._limit)
        ready: list[tuple[Stay, Case]] = []
        while True:
            chunk = await asyncio.to_thread(lambda: list(islice(reading, _CHUNK)))
            now_ms = self._now_ms()
            coming = [(s, case_of(s, now_ms - int(s.times_ms[-1]))) for s in chunk]
            await self._cases([case for _, case in coming])
            for stay, case in ready:
                for count, message in enumerate(observations(stay, case.admitted_ms, case.case_id)):
                    await self._send(VITALS, message.bed_id, encode(message))
                    if count % _YIELD_EVERY == 0:
                        await asyncio.sleep(0)
                self._published(stay)
            if not coming:
                return
            ready = coming

    async def _in_time(self, speed: float) -> None:
        """All records side by side, each message when it is due."""
        reading = islice(iter(self._set), self._limit)
        stays = await asyncio.to_thread(lambda: list(reading))
        if not stays:
            return
        wait_ms, owner = due_ms(stays, speed)
        lead_ms = int(_CASE_LEAD_S * 1_000)
        start_ms = self._now_ms() + lead_ms
        cases = [case_of(stay, base_at_speed(stay, start_ms, speed)) for stay in stays]
        await self._cases(cases)
        start_ms = max(start_ms, self._now_ms())
        coming = [
            observations(stay, case.admitted_ms, case.case_id)
            for stay, case in zip(stays, cases, strict=True)
        ]
        left = [len(stay.times_ms) for stay in stays]
        for count, (offset_ms, i) in enumerate(zip(wait_ms.tolist(), owner.tolist(), strict=True)):
            early_ms = start_ms + offset_ms - self._now_ms()
            if early_ms > 0:
                await asyncio.sleep(early_ms / 1_000)
            elif count % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
            message = next(coming[i])
            await self._send(VITALS, message.bed_id, encode(message))
            left[i] -= 1
            if not left[i]:
                self._published(stays[i])

    async def _cases(self, cases: Sequence[Case]) -> None:
        """Publish cases and wait until each is acknowledged."""
        acks = [await self._send(CASES, case.bed_id, encode(case)) for case in cases]
        if acks:
            await asyncio.wait(acks)
            if not self.stays:
                await asyncio.sleep(_CASE_LEAD_S)

    def _published(self, stay: Stay) -> None:
        self.stays += 1
        self._telemetry.message(VITALS, "published", len(stay.times_ms))
        self._bar.update(self._line, completed=self.acknowledged, stays=self.stays)

    async def _send(self, topic: str, bed_id: str, value: bytes) -> asyncio.Future[Sent]:
        if self._failed is not None:
            raise Undelivered(f"the cluster refused a message: {type(self._failed).__name__}")
        assert self._producer is not None
        future = await self._producer.send(topic, bed_id.encode(), value)
        self.sent += 1
        future.add_done_callback(self._acknowledge)
        return future

    def _acknowledge(self, future: asyncio.Future[Sent]) -> None:
        if future.cancelled():
            return
        if error := future.exception():
            self._failed = self._failed or error
        else:
            self.acknowledged += 1
