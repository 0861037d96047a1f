"""One device: its model, windows, queue, and what it has under way."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from models.signals import HIGH, LOW, VITALS
from streaming.batcher import Batcher, Flush
from streaming.model import Cells, Model, Predictions, WindowStore

_FIRST_SLOTS: Final = 64
_IN_FLIGHT: Final = 2
"""Batches a device has at most: the one it works on, and the next, so that it need not wait for
the loop.
"""
_LOOK_S: Final = 1.0
_TRIAL_MS: Final = 1_800_000_000_000


@dataclass(frozen=True, slots=True)
class Done:
    """A batch came back.

    Attributes:
        shard: Who predicted it.
        flush: What was taken from the queue.
        tag: What the caller gave to `Shards.submit`, row by row what is needed to publish.
        predictions: What the model says.
        seconds: How long the model took.
    """

    shard: Shard
    flush: Flush
    tag: Any
    predictions: Predictions
    seconds: float


@dataclass(frozen=True, slots=True)
class Job:
    flush: Flush
    windows: Any
    tag: Any
    done: Callable[[Done], None]


class Shard:
    """One device: model, windows, queue, thread.

    Args:
        name: Distinct among the shards; the metrics' label.
        model: The device's copy of the network.
        batcher: Its queue.
        clock: Seconds, for when the device hangs.
    """

    def __init__(
        self,
        name: str,
        model: Model,
        batcher: Batcher,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._clock = clock
        self.model = model
        self.batcher = batcher
        self.store: WindowStore = model.store(_FIRST_SLOTS)
        self.failed = False
        self.in_flight: dict[int, Job] = {}
        """Batches under way, by a number of theirs."""
        self.busy_since_s: float | None = None
        """When the batch that the device works on was begun, None while it has none."""
        self._watched_since_s: float | None = None
        self._looked_s = 0.0
        self._hung_s = 0.0
        self.work: queue.SimpleQueue[tuple[int, Job] | None] = queue.SimpleQueue()
        self.key = name.encode()
        self._free = list(range(self.store.capacity - 1, -1, -1))

    def claim(self) -> int:
        """A free slot, empty; there is always one more."""
        if not self._free:
            old = self.store.capacity
            self.store.grow(old * 2)
            self._free.extend(range(self.store.capacity - 1, old - 1, -1))
        return self._free.pop()

    def release(self, slot: int) -> None:
        """Empty a slot and take it out of the queue; it may be claimed again."""
        self.batcher.discard(slot)
        self.store.close(slot)
        self._free.append(slot)

    def queued(self, slot: int) -> bool:
        """Whether a slot's window is due."""
        return slot in self.batcher

    @property
    def idle(self) -> bool:
        """Whether the device has nothing to do."""
        return not self.in_flight

    def take(self, now_s: float, drain: bool = False) -> Flush | None:
        """The next batch of the queue, unless the device has enough under way."""
        if self.failed or len(self.in_flight) >= _IN_FLIGHT:
            return None
        return self.batcher.take(now_s, self.idle, drain)

    def stalled(self, limit_s: float) -> bool:
        """Whether the device has worked on one batch for longer than `limit_s`."""
        since = self.busy_since_s
        return since is not None and self._clock() - since > limit_s

    def watch(self, now_s: float) -> float:
        """Seconds that the device was seen to work on one batch; call it often.

        A process that was stopped and goes on has not seen its device hang: a look counts for
        `_LOOK_S` at most, however long ago the one before was.
        """
        since = self.busy_since_s
        if since is None or since != self._watched_since_s:
            self._watched_since_s, self._hung_s = since, 0.0
        else:
            self._hung_s += min(max(0.0, now_s - self._looked_s), _LOOK_S)
        self._looked_s = now_s
        return self._hung_s


def trial(model: Model) -> Callable[[int, int], object]:
    """Predicts windows of a size and a length; they hold vitals now and one value at their
    beginning.
    """
    made: dict[tuple[int, int], Any] = {}

    def predict(size: int, bins: int) -> object:
        if (size, bins) not in made:
            made[size, bins] = _windows(model, size, bins)
        return model.predict(made[size, bins])

    return predict


def _windows(model: Model, size: int, bins: int) -> Any:
    store = model.store(size)
    slots = np.arange(size, dtype=np.int32)
    for slot in slots.tolist():
        store.open(slot, 0, None)
    now = np.full(size, _TRIAL_MS, np.int64)
    store.touch(slots, now)
    count = len(VITALS)
    signals = np.arange(count, dtype=np.int16)
    middle = ((LOW + HIGH) / 2)[signals].astype(np.float32)
    store.apply(
        Cells(
            np.repeat(slots, count),
            np.tile(signals, size),
            np.repeat(now, count),
            np.tile(middle, size),
        )
    )
    return store.gather(slots, bins)
