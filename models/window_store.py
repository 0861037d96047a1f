"""Windows in the host's memory: for each slot and scale a ring of bins, written and read in bulk.

A bin holds the newest value by event time, of equal times the one that arrived last. Bins are
numbered from the slot's phase: bin i covers `phase_ms + i * width_ms` and the `width_ms` that
follow; bins before the phase have negative numbers. A scale's window are the `bins` bins that end
with the one of the newest event time; the ring's row of bin i is i modulo `bins`, so nothing moves
as time goes on: rows are only cleared.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from models.config import GRID, Grid
from models.ring import Ring
from models.signals import COUNT, GROUP_OF

_FORMAT: Final = b"VSW1"
_HEAD: Final = struct.Struct("<4s8sqqI")
"""Format, digest of the grid, phase, newest event time, number of scales."""
_CELL: Final = np.dtype([("at", "<u4"), ("within", "<u4"), ("value", "<f4")])
"""A cell of a packed window: bins before the newest times signals plus the signal, time within the
bin, value.
"""
_KEY_LIMIT: Final = 1 << 62
_LEXSORT_BELOW: Final = 256
"""Below this many cells numpy's merge sort of two keys costs less than making one key of them."""


class CellsLike(Protocol):
    """Measured values in the order of arrival (`streaming.model.Cells`)."""

    @property
    def slot(self) -> NDArray[np.int32]: ...
    @property
    def signal(self) -> NDArray[np.int16]: ...
    @property
    def ts_ms(self) -> NDArray[np.int64]: ...
    @property
    def value(self) -> NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True)
class _Cells:
    """`CellsLike`, as `recut` makes them."""

    slot: NDArray[np.int32]
    signal: NDArray[np.int16]
    ts_ms: NDArray[np.int64]
    value: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of values: stored in the long scale, superseded by a newer one of the bin, or
    too late.
    """

    landed: int
    superseded: int
    late: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """A batch of windows, copied out of a store. B windows, T hour bins, M minute bins, S signals,
    V vitals.

    Attributes:
        hours: The long scale, oldest bin first; the last is the bin of the newest event time; NaN
            where nothing was measured, float32[B, T, S]. T is the batch's longest length or what
            was asked for.
        minutes: The short scale in the same form, float32[B, M, V], V the scale's signals in the
            grid's order.
        newest_value: Newest value of each signal within the window, NaN where none, float32[B, S].
        newest_age_ms: Its age at the newest event time, -1 where none, int64[B, S].
        newest_ms: Newest event time, -1 for a window that has seen nothing, int64[B].
        phase_ms: Where bins are cut: the case's admission, 0 where none is known, int64[B].
        length: Bins of the long scale from the first value to the newest event time, at least 1,
            int32[B].
        cases: What is known of each case (an object with the fields of `streaming.messages.Case`),
            or None.
    """

    hours: NDArray[np.float32]
    minutes: NDArray[np.float32]
    newest_value: NDArray[np.float32]
    newest_age_ms: NDArray[np.int64]
    newest_ms: NDArray[np.int64]
    phase_ms: NDArray[np.int64]
    length: NDArray[np.int32]
    cases: list[Any]

    def __len__(self) -> int:
        return len(self.cases)


class HostWindowStore:
    """A `streaming.model.WindowStore` over numpy arrays.

    Args:
        grid: The scales; the first carries every signal, the second is the short one.
        capacity: Slots to begin with; `grow` makes more.
    """

    def __init__(self, grid: Grid = GRID, capacity: int = 64) -> None:
        if len(grid.scales) != 2:
            raise ValueError("windows have two scales")
        self.grid = grid
        self.capacity = capacity
        self._digest = bytes.fromhex(grid.digest)
        self._rings = [Ring(scale, capacity) for scale in grid.scales]
        self._hours, self._minutes = self._rings
        self._phase = np.zeros(capacity, np.int64)
        self._newest = np.full(capacity, -1, np.int64)
        self._value = np.full((capacity, COUNT), np.nan, np.float32)
        """Newest value of each signal and, in `_at`, its event time; what has left the window
        still stands here.
        """
        self._at = np.full((capacity, COUNT), -1, np.int64)
        self._cases: list[Any] = [None] * capacity

    def grow(self, capacity: int) -> None:
        """Make room for more slots, keeping what is there."""
        if capacity <= self.capacity:
            return
        for ring in self._rings:
            ring.grow(capacity)
        for name, fill in (("_phase", 0), ("_newest", -1), ("_value", np.nan), ("_at", -1)):
            old = getattr(self, name)
            new = np.full((capacity, *old.shape[1:]), fill, old.dtype)
            new[: self.capacity] = old
            setattr(self, name, new)
        self._cases.extend([None] * (capacity - self.capacity))
        self.capacity = capacity

    def open(self, slot: int, phase_ms: int, case: Any | None) -> None:
        """Empty a slot and start it for a case (an object with the fields of `messages.Case`, or
        None).
        """
        if self._newest[slot] >= 0:
            self._empty(slot)
        self._phase[slot] = phase_ms
        self._cases[slot] = case

    def set_case(self, slot: int, case: Any | None) -> None:
        """Change what is known of the case; the window stays as it is."""
        self._cases[slot] = case

    def recut(self, slot: int, phase_ms: int) -> None:
        """Cut a slot's bins at another phase, from the times of the values that its bins hold; a
        value that stood alone in a bin stays, of two that now share one the newer does.
        """
        if phase_ms == self._phase[slot]:
            return
        newest = int(self._newest[slot])
        found = [self._cells(slot, ring) for ring in self._rings] if newest >= 0 else []
        self._empty(slot)
        self._phase[slot] = phase_ms
        if not found:
            return
        signal, ts, value = (np.concatenate(parts) for parts in zip(*found, strict=True))
        self.touch(np.array([slot], np.int32), np.array([newest]))
        self.apply(_Cells(np.full(len(ts), slot, np.int32), signal, ts, value))

    def _cells(
        self, slot: int, ring: Ring
    ) -> tuple[NDArray[np.int16], NDArray[np.int64], NDArray[np.float32]]:
        """Signal, event time and value of what a slot's ring holds."""
        head = self._head(np.array([slot], np.int32), ring)
        rows = ring.rows(head, ring.bins)[0]
        back, column = (ring.within[slot][rows] >= 0).nonzero()
        index = int(head[0]) - ring.bins + 1 + back
        within = ring.within[slot][rows[back], column]
        ts = self._phase[slot] + index * ring.width + within
        return ring.signals[column].astype(np.int16), ts, ring.value[slot][rows[back], column]

    def close(self, slot: int) -> None:
        """Empty a slot; it may be given to another bed."""
        self.open(slot, 0, None)

    def _empty(self, slot: int) -> None:
        for ring in self._rings:
            ring.clear(slot)
        self._newest[slot] = -1
        self._value[slot] = np.nan
        self._at[slot] = -1

    def touch(self, slots: NDArray[np.int32], ts_ms: NDArray[np.int64]) -> None:
        """Advance the slots' newest event time, also where nothing was measured."""
        old = self._newest[slots]
        np.maximum.at(self._newest, slots, ts_ms)
        new = self._newest[slots]
        phase = self._phase[slots]
        for ring in self._rings:
            head = (new - phase) // ring.width
            steps = head - (old - phase) // ring.width
            moved = steps.nonzero()[0]
            if len(moved):
                # A slot whose newest time was none is empty already.
                moved = moved[old[moved] >= 0]
            if len(moved):
                which, first = np.unique(slots[moved], return_index=True)
                first = moved[first]
                ring.clear_rows(which.astype(np.int64), head[first], steps[first])

    def apply(self, cells: CellsLike) -> Applied:
        """Put cells into their bins; call `touch` with the same messages first.

        A value older than the long scale's window is late; one older than the short scale's lands
        in the long one.
        """
        total = len(cells.slot)
        if total == 0:
            return Applied(0, 0, 0)
        order = _order(cells.slot.astype(np.int64) * COUNT + cells.signal, cells.ts_ms)
        slot = cells.slot[order].astype(np.int64)
        signal = cells.signal[order].astype(np.int64)
        ts = cells.ts_ms[order]
        value = cells.value[order]
        phase = self._phase[slot]
        ts_in = ts - phase
        newest_in = self._newest[slot] - phase
        hours = self._hours
        index = ts_in // hours.width
        head = newest_in // hours.width
        on_time = index > head - hours.bins
        if not on_time.all():
            slot, signal, ts, value = slot[on_time], signal[on_time], ts[on_time], value[on_time]
            index, ts_in, newest_in = index[on_time], ts_in[on_time], newest_in[on_time]
        kept = len(slot)
        if kept == 0:
            return Applied(0, 0, total)
        if (ts_in > newest_in).any():
            raise ValueError("touch comes before apply")
        landed = hours.put(slot, signal, index, ts_in - index * hours.width, value)
        self._remember(slot * COUNT + signal, ts, value)

        minutes = self._minutes
        index = ts_in // minutes.width
        fine = index > newest_in // minutes.width - minutes.bins
        if not minutes.all:
            fine &= minutes.column[signal] >= 0
        if not fine.all():
            slot, signal, value = slot[fine], signal[fine], value[fine]
            index, ts_in = index[fine], ts_in[fine]
        if len(slot):
            minutes.put(slot, signal, index, ts_in - index * minutes.width, value)
        return Applied(landed, kept - landed, total - kept)

    def _remember(
        self, series: NDArray[np.int64], ts: NDArray[np.int64], value: NDArray[np.float32]
    ) -> None:
        """Keep the newest value of each series; the arguments are sorted by series, time and
        arrival.
        """
        last = np.empty(len(series), np.bool_)
        last[-1] = True
        np.not_equal(series[1:], series[:-1], out=last[:-1])
        if not last.all():
            series, ts, value = series[last], ts[last], value[last]
        at = self._at.reshape(-1)
        take = at[series] <= ts
        if not take.all():
            series, ts, value = series[take], ts[take], value[take]
        at[series] = ts
        self._value.reshape(-1)[series] = value

    def phase_ms(self, slots: NDArray[np.int32]) -> NDArray[np.int64]:
        """Where the slots' bins are cut."""
        return self._phase[slots]

    def newest_ms(self, slots: NDArray[np.int32]) -> NDArray[np.int64]:
        """Newest event time of each slot, -1 where there is none."""
        return self._newest[slots]

    def _head(self, slots: NDArray[np.int32], ring: Ring) -> NDArray[np.int64]:
        head: NDArray[np.int64] = (self._newest[slots] - self._phase[slots]) // ring.width
        return head

    def lengths(self, slots: NDArray[np.int32]) -> NDArray[np.int32]:
        """Bins of the long scale from the first value in the window to the newest event time, at
        least 1.
        """
        return self._hours.lengths(slots, self._head(slots, self._hours))

    def _known(self, slots: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Whether each signal has a value in the window, bool[B, S]."""
        start = (self._head(slots, self._hours) - self._hours.bins + 1) * self._hours.width
        start += self._phase[slots]
        # Before the phase and after the epoch the window may begin below 0; -1 is still no time.
        np.maximum(start, 0, out=start)
        known: NDArray[np.bool_] = self._at[slots] >= start[:, None]
        return known

    def groups(self, slots: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Bit set of the signal groups a window holds (bit i: `models.signals.GROUPS[i]`)."""
        bits = np.left_shift(np.uint8(1), GROUP_OF)
        held: NDArray[np.uint8] = np.bitwise_or.reduce(self._known(slots) * bits, axis=1)
        return held

    def gather(self, slots: NDArray[np.int32], bins: int | None = None) -> Windows:
        """Copy the windows of a batch, for `Model.predict`.

        Args:
            slots: Rows to copy, int32[B]; each has been opened.
            bins: Bins of the long scale to copy, at least the longest length of the batch, which is
                the default; a model that is compiled for some lengths asks for the next of these.
        """
        slots = np.asarray(slots, np.int32)
        length = self.lengths(slots)
        longest = int(length.max(initial=1))
        if bins is None:
            bins = longest
        elif not longest <= bins <= self._hours.bins:
            raise ValueError(f"bins: {bins}, where the batch needs {longest}")
        hours, minutes = self._hours, self._minutes
        column = slots[:, None]
        newest = self._newest[slots]
        known = self._known(slots)
        return Windows(
            hours=hours.value[column, hours.rows(self._head(slots, hours), bins)],
            minutes=minutes.value[column, minutes.rows(self._head(slots, minutes), minutes.bins)],
            newest_value=np.where(known, self._value[slots], np.float32(np.nan)),
            newest_age_ms=np.where(known, newest[:, None] - self._at[slots], -1),
            newest_ms=newest,
            phase_ms=self._phase[slots],
            length=length,
            cases=[self._cases[slot] for slot in slots.tolist()],
        )

    def snapshot(self, slot: int) -> bytes:
        """Pack a slot's window; `restore` of it gives bit-identical predictions. The case is not
        in it.
        """
        newest = int(self._newest[slot])
        phase = int(self._phase[slot])
        parts = [_HEAD.pack(_FORMAT, self._digest, phase, newest, len(self._rings))]
        for ring in self._rings:
            rows = ring.rows(self._head(np.array([slot], np.int32), ring), ring.bins)[0]
            within = ring.within[slot][rows].reshape(-1)
            at = (within >= 0).nonzero()[0]
            cells = np.empty(len(at), _CELL)
            cells["at"] = at
            cells["within"] = within[at]
            cells["value"] = ring.value[slot][rows].reshape(-1)[at]
            parts += [struct.pack("<I", len(cells)), cells.tobytes()]
        return b"".join(parts)

    def restore(self, slot: int, window: bytes) -> None:
        """Unpack a window into an opened slot; the phase is the packed one, the case stays.

        Raises:
            ValueError: It is not what `snapshot` made on this grid; the slot is as before.
        """
        phase, newest, scales = self._unpack(window)
        self._empty(slot)
        self._phase[slot] = phase
        self._newest[slot] = newest
        one = np.array([slot], np.int32)
        for ring, cells in zip(self._rings, scales, strict=True):
            rows = ring.rows(self._head(one, ring), ring.bins)[0]
            back, signal = np.divmod(cells["at"].astype(np.int64), ring.count)
            ring.value[slot, rows[back], signal] = cells["value"]
            ring.within[slot, rows[back], signal] = cells["within"]
            ring.filled[slot, rows[back]] = True
        # Cells are packed oldest first, so the last of a signal is its newest.
        ring, cells = self._hours, scales[0]
        back, signal = np.divmod(cells["at"].astype(np.int64), ring.count)
        oldest = int(self._head(one, ring)[0]) - ring.bins + 1
        ts = phase + (oldest + back) * ring.width + cells["within"]
        order = np.argsort(signal, kind="stable")
        if len(order):
            self._remember(slot * COUNT + signal[order], ts[order], cells["value"][order])

    def _unpack(self, window: bytes) -> tuple[int, int, list[NDArray[Any]]]:
        """Phase, newest event time and cells of a packed window, checked. Raises ValueError."""
        if len(window) < _HEAD.size:
            raise ValueError("window: too short")
        form, digest, phase, newest, count = _HEAD.unpack_from(window)
        if form != _FORMAT:
            raise ValueError("window: not of this format")
        if digest != self._digest:
            raise ValueError("window: of another grid")
        if (
            count != len(self._rings)
            or not 0 <= phase < _KEY_LIMIT
            or not -1 <= newest < _KEY_LIMIT
        ):
            raise ValueError("window: bad header")
        at = _HEAD.size
        scales = []
        for ring in self._rings:
            if len(window) < at + 4:
                raise ValueError("window: too short")
            (size,) = struct.unpack_from("<I", window, at)
            at += 4
            if size > ring.bins * ring.count or len(window) < at + size * _CELL.itemsize:
                raise ValueError("window: too short")
            cells = np.frombuffer(window, _CELL, size, at)
            at += size * _CELL.itemsize
            self._check(ring, cells, newest, phase)
            scales.append(cells)
        if at != len(window):
            raise ValueError("window: too long")
        return phase, newest, scales

    @staticmethod
    def _check(ring: Ring, cells: NDArray[Any], newest: int, phase: int) -> None:
        if not len(cells):
            return
        index = cells["at"].astype(np.int64)
        head = (newest - phase) // ring.width
        ts = (head - ring.bins + 1 + index // ring.count) * ring.width + cells["within"] + phase
        if (
            newest < 0
            or (np.diff(index) <= 0).any()
            or index[-1] >= ring.bins * ring.count
            or (cells["within"] >= ring.width).any()
            or not np.isfinite(cells["value"]).all()
            or (ts > newest).any()
            or (ts < 0).any()
        ):
            raise ValueError("window: bad cells")


def _order(series: NDArray[np.int64], ts_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """Order by series, event time and arrival."""
    n = len(series)
    if n >= _LEXSORT_BELOW:
        # One key that is unique sorts several times faster than a stable sort of two.
        start = int(ts_ms.min())
        span = int(ts_ms.max()) - start + 1
        if (int(series.max()) + 1) * span * n < _KEY_LIMIT:
            key = ((series * span) + (ts_ms - start)) * n
            key += np.arange(n)
            key.sort()
            key %= n
            return key
    return np.lexsort((ts_ms, series))
