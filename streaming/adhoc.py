"""Predictions for whoever asks, from observations that are given and forgotten.

They go the way of the stream: a window in a slot, the batcher, the device's thread. Requests that
come together are
predicted together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import numpy as np

from models.signals import HIGH, INDEX, LOW
from streaming.assemble import Assembler, Subject
from streaming.messages import Case, Observation, Prediction
from streaming.model import Cells, Model
from streaming.shards import DevicesFailed, Done, Shard, Shards
from streaming.telemetry import SILENT, Telemetry

BED: str = "adhoc"
"""The bed that a prediction names where no case does."""
ANSWER_S = 10.0
"""Longest wait for an answer: whoever asked is gone by then."""


class Busy(RuntimeError):
    """Too many requests wait already."""


class AdHoc:
    """Predicts windows that live for one request.

    Args:
        model: The network; used by this object only, in a thread of its own.
        telemetry: Hears of batches.
        limit: Requests that may wait at once.
        max_wait_s: How long a request may wait for others while the device is busy.
        answer_s: How long a request may wait for its answer.
    """

    def __init__(
        self,
        model: Model,
        telemetry: Telemetry = SILENT,
        limit: int = 256,
        max_wait_s: float = 0.005,
        answer_s: float = ANSWER_S,
    ) -> None:
        self._model = model
        self._answer_s = answer_s
        self._assembler = Assembler(model)
        self._limit = limit
        self._failure: Exception | None = None
        self._waiting: dict[int, tuple[asyncio.Future[Prediction], Case | None]] = {}
        self._under_way = 0
        self._shards = Shards([model], self._lost, self._stopped, 0, max_wait_s, limit, telemetry)

    async def start(self, budget_s: float = 0.5) -> None:
        """Measure the batch curve within `budget_s` and start the device's thread."""
        await self._shards.start(budget_s)

    async def stop(self) -> None:
        """End the thread; requests that wait fail. May be called twice."""
        self._stopped(DevicesFailed("stopped"))
        await self._shards.stop()

    async def predict(self, case: Case | None, observations: Sequence[Observation]) -> Prediction:
        """Predict from the observations given, in the order of their arrival.

        Args:
            case: What is known of the patient.
            observations: Their event times and values; unknown signals and values out of bounds
                are left out, as in the stream.

        Returns:
            A prediction whose source is partition -1, offset -1: no message stands behind it.

        Raises:
            ValueError: There is no observation.
            Busy: Too many requests wait.
            DevicesFailed: The model failed, or hangs.
        """
        if not observations:
            raise ValueError("observations: at least one is needed")
        if self._failure is not None:
            raise DevicesFailed("no device is left") from self._failure
        if self._under_way >= self._limit:
            raise Busy("too many requests wait")
        shard = self._shards.all[0]
        slot = shard.claim()
        self._under_way += 1
        try:
            self._fill(shard, slot, case, observations)
            future: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()
            self._waiting[slot] = (future, case)
            slots = np.array([slot], np.int32)
            length, groups = int(shard.store.lengths(slots)[0]), int(shard.store.groups(slots)[0])
            shard.batcher.offer(slot, length, groups, False, time.monotonic())
            # What came in the same turn of the loop goes together.
            asyncio.get_running_loop().call_soon(self._pump)
            async with asyncio.timeout(self._answer_s):
                return await future
        except TimeoutError:
            raise DevicesFailed("the device does not answer") from None
        finally:
            self._under_way -= 1
            self._waiting.pop(slot, None)
            shard.release(slot)

    def _fill(
        self,
        shard: Shard,
        slot: int,
        case: Case | None,
        observations: Sequence[Observation],
    ) -> None:
        rows = [
            (INDEX[name], observation.ts_ms, value)
            for observation in observations
            for name, value in observation.values.items()
            if name in INDEX
            and value is not None
            and LOW[INDEX[name]] <= value <= HIGH[INDEX[name]]
        ]
        store = shard.store
        store.open(slot, case.admitted_ms if case is not None else 0, case)
        count = len(observations)
        store.touch(
            np.full(count, slot, np.int32), np.array([o.ts_ms for o in observations], np.int64)
        )
        store.apply(
            Cells(
                np.full(len(rows), slot, np.int32),
                np.array([signal for signal, _, _ in rows], np.int16),
                np.array([ts for _, ts, _ in rows], np.int64),
                np.array([value for _, _, value in rows], np.float32),
            )
        )

    def _pump(self) -> None:
        shard = self._shards.all[0]
        while (flush := shard.take(time.monotonic())) is not None:
            newest = shard.store.newest_ms(np.array(flush.slots, np.int32)).tolist()
            tag = [
                (*self._waiting[slot], ts_ms)
                for slot, ts_ms in zip(flush.slots, newest, strict=True)
            ]
            self._shards.submit(shard, flush, tag, self._predicted)

    def _predicted(self, done: Done) -> None:
        subjects = [
            Subject(case.bed_id if case else BED, case.case_id if case else None, ts_ms, -1, -1)
            for _, case, ts_ms in done.tag
        ]
        now_ms = time.time_ns() // 1_000_000
        predictions = self._assembler.predictions(subjects, done.predictions, now_ms)
        for (future, _, _), prediction in zip(done.tag, predictions, strict=True):
            if not future.done():
                future.set_result(prediction)
        self._pump()

    def _lost(self, shard: Shard) -> None:
        """With one device there is nothing to move: `_stopped` tells the requests."""

    def _stopped(self, reason: Exception) -> None:
        self._failure = reason
        for future, _ in self._waiting.values():
            if not future.done():
                future.set_exception(DevicesFailed("no device is left"))
