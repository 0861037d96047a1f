"""The live stream: server-sent events, encoded once, read by any number at their own pace.

There is no queue. All readers share one map from key (a bed's prediction, a bed's state, an alert)
to its newest event, in the order of the events' numbers. A reader knows the number it has come to
and pulls what is newer, a bounded piece at a time: a slow one therefore gets the newest of each
bed, and costs nobody anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Final, NamedTuple

import msgspec

from app.api.view import BedChange
from streaming.messages import Alert

PIECE_BYTES: Final = 128 << 10
"""Most that one pull returns, but for a single event larger than that."""
HEARTBEAT_S: Final = 10.0
_SHARE_S: Final = 0.2
"""How long a piece is shared by readers that have come to the same number."""
_SHARED_MOST: Final = 16
_CLOSED_KEPT: Final = 10_000
"""Closed alerts kept for readers that resume."""

Key = tuple[str, str]


class _Event(NamedTuple):
    seq: int
    bed_id: str
    data: bytes


class Broadcaster:
    """The newest events, and those who wait for them.

    Args:
        clock: Monotonic time in seconds.
        readers: Told of the number of open streams.
        conflated: Told of events that a slow reader never got because newer ones replaced them.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        readers: Callable[[int], None] = lambda count: None,
        conflated: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.epoch = uuid.uuid4().hex[:12]
        self.seq = 0
        self._clock = clock
        self._tell_readers = readers
        self._tell_conflated = conflated
        self._events: dict[Key, _Event] = {}
        self._closed_alerts: dict[Key, None] = {}
        self._complete_from = 0
        self._waiting: set[asyncio.Event] = set()
        self._shared: dict[int, tuple[float, bytes, int]] = {}
        self._flushing = False
        self._closed = asyncio.Event()

    def predicted(self, bed_id: str, raw: bytes) -> None:
        """A bed's new prediction, JSON."""
        self._put(("prediction", bed_id), bed_id, b"prediction", raw)

    def changed(self, change: BedChange) -> None:
        """A bed's new state."""
        if change.cleared:
            self._events.pop(("prediction", change.bed_id), None)
        self._put(("bed", change.bed_id), change.bed_id, b"bed", msgspec.json.encode(change))

    def forgotten(self, bed_id: str) -> None:
        """Nobody speaks of a bed any more: readers that come later are told nothing of it."""
        for kind in ("prediction", "bed"):
            self._events.pop((kind, bed_id), None)

    def alerted(self, alert: Alert) -> None:
        """An alert's new state."""
        key = ("alert", alert.id)
        self._put(key, alert.bed_id, b"alert", msgspec.json.encode(alert))
        self._closed_alerts.pop(key, None)
        if alert.state == "closed":
            self._closed_alerts[key] = None
            if len(self._closed_alerts) > _CLOSED_KEPT:
                oldest = next(iter(self._closed_alerts))
                del self._closed_alerts[oldest]
                self._complete_from = max(self._complete_from, self._events.pop(oldest).seq)

    def pull(self, seq: int, beds: frozenset[str] | None = None) -> tuple[bytes, int]:
        """What is newer than `seq`, oldest first, up to PIECE_BYTES, and the number come to."""
        if beds is None:
            now = self._clock()
            shared = self._shared.get(seq)
            if shared is not None and now - shared[0] < _SHARE_S and shared[2] > seq:
                return shared[1], shared[2]
        newer = list(
            itertools.takewhile(lambda event: event.seq > seq, reversed(self._events.values()))
        )
        parts: list[bytes] = []
        size, reached = 0, self.seq
        for event in reversed(newer):
            if beds is not None and event.bed_id not in beds:
                continue
            if parts and size + len(event.data) > PIECE_BYTES:
                break
            parts.append(event.data)
            size += len(event.data)
            reached = event.seq
        else:
            reached = self.seq
        blob = b"".join(parts)
        if beds is None:
            while len(self._shared) >= _SHARED_MOST:
                del self._shared[next(iter(self._shared))]
            self._shared[seq] = (now, blob, reached)
        if seq and reached - seq > len(parts) and beds is None:
            self._tell_conflated(reached - seq - len(parts))
        return blob, reached

    def start_of(self, last_event_id: str | None) -> int:
        """The number that a `Last-Event-ID` stands for; 0, all there is, where it is not ours."""
        epoch, _, number = (last_event_id or "").partition("-")
        if epoch != self.epoch or not (number.isascii() and number.isdigit()):
            return 0
        seq = int(number[:20])
        return seq if self._complete_from <= seq <= self.seq else 0

    def flush(self) -> None:
        """Wake the readers at the end of this turn of the loop."""
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._wake)

    def close(self) -> None:
        """End all streams."""
        self._closed.set()
        self._wake()

    async def read(
        self, last_event_id: str | None, beds: frozenset[str] | None, every_s: float
    ) -> AsyncIterator[bytes]:
        """Pieces of an event stream for one reader, for ever.

        Args:
            last_event_id: Where the reader was, if it was here before.
            beds: The beds it wants; None for all.
            every_s: Least time between two rounds; 0 sends at once.
        """
        wake = asyncio.Event()
        self._waiting.add(wake)
        self._tell_readers(len(self._waiting))
        seq = self.start_of(last_event_id)
        try:
            yield b"retry: 1000\n: research only, never the primary alarm\n\n"
            while not self._closed.is_set():
                wake.clear()
                until = self.seq
                while seq < until and not self._closed.is_set():
                    blob, seq = self.pull(seq, beds)
                    if blob:
                        yield blob
                if every_s:
                    # Readers of one pace pull at the same moments, and so share their pieces.
                    await self._pause(every_s - self._clock() % every_s)
                try:
                    async with asyncio.timeout(HEARTBEAT_S):
                        await wake.wait()
                except TimeoutError:
                    yield b": alive\n\n"
        finally:
            self._waiting.discard(wake)
            self._tell_readers(len(self._waiting))

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()

    def _put(self, key: Key, bed_id: str, kind: bytes, data: bytes) -> None:
        if b"\n" in data or b"\r" in data:
            data = msgspec.json.encode(msgspec.json.decode(data))
        self.seq += 1
        event = b"id: %s-%d\nevent: %s\ndata: %s\n\n" % (self.epoch.encode(), self.seq, kind, data)
        self._events.pop(key, None)
        self._events[key] = _Event(self.seq, bed_id, event)
        self.flush()

    def _wake(self) -> None:
        self._flushing = False
        now = self._clock()
        for seq in [s for s, shared in self._shared.items() if now - shared[0] > _SHARE_S]:
            del self._shared[seq]
        for wake in self._waiting:
            wake.set()
