"""Beds over devices: each device has its own windows, queue and thread; when one fails, its beds
move.

Everything but a device's thread belongs to the event loop's thread. The thread does nothing but
predict what was copied for it; a batch crosses over twice, once there and once back.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import structlog

from streaming.batcher import Batcher, Flush
from streaming.curve import Curve, flat_curve, measure_curve
from streaming.model import Model, Predictions
from streaming.shard import Done, Job, Shard, trial
from streaming.telemetry import SILENT, Telemetry
from streaming.windows import Bed, Home

log = structlog.get_logger(__name__)


__all__ = ["DevicesFailed", "Done", "Shard", "Shards"]

STALLED_S = 10.0
"""A device that works on one batch for longer has failed; after half of that it is unready."""
_MEASURING = threading.Lock()
"""Two curves measured at once would each see half a machine."""


class DevicesFailed(RuntimeError):
    """No device is left to predict."""


class Shards:
    """All devices.

    Args:
        models: One for each device, all of the same version; each is used in its shard's thread
            only.
        failed: Called in the loop with a shard whose model raised: `Windows.move` it and `offer`
            what that returns. What was under way is predicted elsewhere by itself, from the same
            copies.
        stopped: Called in the loop with the reason when no device is left.
        max_batch: Cap of a batch; 0: from the curve.
        max_wait_s: How long a window may wait while its device is busy.
        limit: Windows that all queues together may hold.
        telemetry: Hears of batches.
        clock: Seconds, for when a device hangs.
    """

    def __init__(
        self,
        models: Sequence[Model],
        failed: Callable[[Shard], None],
        stopped: Callable[[Exception], None],
        max_batch: int = 0,
        max_wait_s: float = 0.005,
        limit: int = 100_000,
        telemetry: Telemetry = SILENT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not models:
            raise ValueError("devices: at least one is needed")
        self._failed = failed
        self._stopped = stopped
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s
        self._limit = max(1, limit // len(models))
        self._telemetry = telemetry
        self._clock = clock
        self._jobs = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads: list[threading.Thread] = []
        curve = flat_curve(models[0].length_buckets, 32)
        self.all = [
            Shard(name, model, self._batcher(model, curve), clock)
            for name, model in zip(_names(models), models, strict=True)
        ]
        self._alive = list(self.all)

    def _batcher(self, model: Model, curve: Curve) -> Batcher:
        return Batcher(model.length_buckets, curve, self._max_batch, self._max_wait_s, self._limit)

    @property
    def alive(self) -> Sequence[Shard]:
        """The shards whose device works."""
        return self._alive

    def measure(self, budget_s: float = 3.0) -> None:
        """Measure every device's curve and take its caps from it. Blocks; call it before `start`,
        in a thread.
        """
        for shard in self.all:
            with _MEASURING:
                curve = measure_curve(
                    trial(shard.model), shard.model.length_buckets, budget_s=budget_s
                )
            shard.batcher = self._batcher(shard.model, curve)
            log.info(
                "device measured",
                device=shard.name,
                caps=dict(zip(shard.model.length_buckets, shard.batcher.caps, strict=True)),
            )

    async def start(self, budget_s: float = 3.0) -> None:
        """Measure the devices' curves, then start their threads; results come to the loop that runs
        now.

        Args:
            budget_s: Time for measuring one device; 0: nothing is measured.
        """
        self._loop = asyncio.get_running_loop()
        if budget_s > 0:
            await asyncio.to_thread(self.measure, budget_s)
        for shard in self.all:
            thread = threading.Thread(
                target=self._work, args=(shard,), name=f"device-{shard.name}", daemon=True
            )
            thread.start()
            self._threads.append(thread)

    async def stop(self, timeout_s: float = 2.0) -> None:
        """End the threads once they have done what is under way; one that hangs is left behind."""
        for shard in self.all:
            shard.work.put(None)
        await asyncio.to_thread(self._join, timeout_s)

    def _join(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def watch(self) -> None:
        """Give devices up that hang; call it often, in the loop."""
        now_s = self._clock()
        for shard in tuple(self._alive):
            if shard.watch(now_s) > STALLED_S:
                self.fail(shard, TimeoutError(f"one batch took more than {STALLED_S:.0f} s"))

    def health(self, stalled_s: float = STALLED_S / 2) -> dict[str, tuple[bool, str]]:
        """Each device's state: whether it predicts, and what is in its queue."""
        parts = {}
        for shard in self.all:
            stalled = shard.stalled(stalled_s)
            state = "failed" if shard.failed else "stalled" if stalled else "works"
            parts[f"device {shard.name}"] = (
                state == "works",
                f"{state}, {len(shard.batcher)} windows wait",
            )
        return parts

    def owner(self, bed_id: str) -> Shard:
        """The shard of a bed among those that work: rendezvous hashing, so that only a lost
        shard's beds move.
        """
        alive = self._alive
        if len(alive) == 1:
            return alive[0]
        if not alive:
            raise DevicesFailed("no device is left")
        bed = bed_id.encode()
        return max(alive, key=lambda shard: _weight(bed, shard.key))

    def offer(self, beds: Sequence[Bed], urgent: Callable[[str], bool], now_s: float) -> int:
        """Put beds' windows into their shards' queues. Returns how many replaced one that
        waited.
        """
        replaced = 0
        for shard, mine in _by_home(beds).items():
            if not isinstance(shard, Shard):
                raise TypeError("a bed whose home is no shard")
            slots = np.array([bed.slot for bed in mine], np.int32)
            lengths = shard.store.lengths(slots).tolist()
            groups = shard.store.groups(slots).tolist()
            offer = shard.batcher.offer
            for bed, length, held in zip(mine, lengths, groups, strict=True):
                replaced += offer(bed.slot, length, held, urgent(bed.bed_id), now_s)
        return replaced

    def submit(self, shard: Shard, flush: Flush, tag: Any, done: Callable[[Done], None]) -> None:
        """Copy a batch's windows and have them predicted; `done` is called in the loop.

        The copies are the beds' windows of this moment: what `tag` says of them (case, newest time,
        source) has to be of this moment too, and holds whatever becomes of the beds meanwhile.
        """
        slots = np.array(flush.slots, np.int32)
        # A window may have grown since it was put in the queue.
        longest = max(flush.bins, int(shard.store.lengths(slots).max()))
        bins = next(length for length in shard.model.length_buckets if length >= longest)
        windows = shard.store.gather(slots, bins)
        self._hand(shard, Job(flush, windows, tag, done))

    def _hand(self, shard: Shard, job: Job) -> None:
        self._jobs += 1
        shard.in_flight[self._jobs] = job
        shard.work.put((self._jobs, job))

    def _work(self, shard: Shard) -> None:
        """A device's thread."""
        loop = self._loop
        if loop is None:
            raise RuntimeError("shards: not started")
        predict, clock = shard.model.predict, time.perf_counter
        while (item := shard.work.get()) is not None:
            number, job = item
            if shard.failed:
                continue
            predictions: Predictions | None = None
            error: Exception | None = None
            shard.busy_since_s = self._clock()
            begun = clock()
            try:
                predictions = predict(job.windows)
            except Exception as raised:
                error = raised
            seconds = clock() - begun
            shard.busy_since_s = None
            try:
                loop.call_soon_threadsafe(self._back, shard, number, predictions, error, seconds)
            except RuntimeError:
                # The loop was closed: nobody waits for results any more.
                return

    def _back(
        self,
        shard: Shard,
        number: int,
        predictions: Predictions | None,
        error: Exception | None,
        seconds: float,
    ) -> None:
        """In the loop: a batch is predicted, or its device has failed."""
        job = shard.in_flight.pop(number, None)
        if job is None:
            # Its device was given up, and another has predicted it since.
            return
        if predictions is None:
            shard.in_flight[number] = job
            self.fail(shard, error or RuntimeError("no predictions"))
            return
        flush = job.flush
        self._telemetry.batch(shard.name, len(flush.slots), flush.reason, flush.waited_s, seconds)
        job.done(Done(shard, flush, job.tag, predictions, seconds))

    def fail(self, shard: Shard, error: Exception) -> None:
        """Give a device up: others predict what it had under way, and `failed` moves its beds."""
        if shard.failed:
            return
        shard.failed = True
        self._alive.remove(shard)
        log.error("device failed", device=shard.name, error=type(error).__name__)
        if not self._alive:
            gone = DevicesFailed(f"device {shard.name}: {type(error).__name__}")
            gone.__cause__ = error
            self._stopped(gone)
            return
        jobs, shard.in_flight = shard.in_flight, {}
        for job in jobs.values():
            self._hand(min(self._alive, key=lambda other: len(other.in_flight)), job)
        self._failed(shard)


def _weight(bed: bytes, device: bytes) -> bytes:
    return blake2b(bed, digest_size=8, key=device[:64]).digest()


def _names(models: Sequence[Model]) -> list[str]:
    """The devices' names; a device that occurs again is numbered."""
    seen: dict[str, int] = {}
    names = []
    for model in models:
        count = seen.get(model.device, 0)
        seen[model.device] = count + 1
        names.append(f"{model.device}#{count}" if count else model.device)
    return names


def _by_home(beds: Sequence[Bed]) -> dict[Home, list[Bed]]:
    homes: dict[Home, list[Bed]] = {}
    for bed in beds:
        homes.setdefault(bed.home, []).append(bed)
    return homes
