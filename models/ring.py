"""One scale of all windows, as rings of bins in the host's memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.config import Scale
from models.signals import COUNT, INDEX


class Ring:
    """One scale of all slots: values and their times within the bin, [capacity, bins, signals]."""

    def __init__(self, scale: Scale, capacity: int) -> None:
        self.width = scale.width_ms
        self.bins = scale.bins
        self.signals = np.array([INDEX[name] for name in scale.signals], np.int64)
        self.count = len(self.signals)
        self.column = np.full(COUNT, -1, np.int64)
        self.column[self.signals] = np.arange(self.count)
        self.all = self.count == COUNT
        self.value = np.full((capacity, self.bins, self.count), np.nan, np.float32)
        self.within = np.full((capacity, self.bins, self.count), -1, np.int32)
        self.filled = np.zeros((capacity, self.bins), np.bool_)
        self._back = np.arange(self.bins - 1, -1, -1)

    def grow(self, capacity: int) -> None:
        """Make room, keeping what is there."""
        for name, fill in (("value", np.nan), ("within", -1), ("filled", False)):
            old = getattr(self, name)
            new = np.full((capacity, *old.shape[1:]), fill, old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)

    def clear(self, slot: int) -> None:
        """Empty a slot."""
        self.value[slot] = np.nan
        self.within[slot] = -1
        self.filled[slot] = False

    def clear_rows(self, slots: NDArray[np.int64], head: Any, steps: Any) -> None:
        """Clear the rows that the window enters as its last bin moves on to `head` by `steps`;
        slots are distinct.
        """
        steps = np.minimum(steps, self.bins)
        rows = np.repeat(head - steps + 1, steps) + _ranges(steps)
        rows %= self.bins
        slots = np.repeat(slots, steps)
        self.value[slots, rows] = np.nan
        self.within[slots, rows] = -1
        self.filled[slots, rows] = False

    def put(
        self,
        slot: NDArray[np.int64],
        signal: NDArray[np.int64],
        index: NDArray[np.int64],
        within: NDArray[np.int64],
        value: NDArray[np.float32],
    ) -> int:
        """Store values, sorted by slot, signal, time and arrival, in their bins `index`. Returns
        how many are stored.
        """
        if not self.all:
            signal = self.column[signal]
        # The last of a run of one bin is its newest.
        last = np.empty(len(slot), np.bool_)
        last[-1:] = True
        np.not_equal(index[1:], index[:-1], out=last[:-1])
        last[:-1] |= signal[1:] != signal[:-1]
        last[:-1] |= slot[1:] != slot[:-1]
        if not last.all():
            slot, signal, index = slot[last], signal[last], index[last]
            within, value = within[last], value[last]
        row = slot * self.bins + index % self.bins
        cell = row * self.count + signal
        flat = self.within.reshape(-1)
        take = flat[cell] <= within
        if not take.all():
            cell, row, within, value = cell[take], row[take], within[take], value[take]
        flat[cell] = within
        self.value.reshape(-1)[cell] = value
        self.filled.reshape(-1)[row] = True
        return len(cell)

    def rows(self, head: NDArray[np.int64], bins: int) -> NDArray[np.int64]:
        """Rows of the last `bins` bins, oldest first, int64[B, bins]."""
        return (head[:, None] - self._back[self.bins - bins :]) % self.bins

    def lengths(self, slots: NDArray[np.int32], head: NDArray[np.int64]) -> NDArray[np.int32]:
        """Bins from the first that holds a value to the last, at least 1."""
        filled = self.filled[slots[:, None], self.rows(head, self.bins)]
        first = np.where(filled.any(1), filled.argmax(1), self.bins - 1)
        return (self.bins - first).astype(np.int32)


def _ranges(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """0 … n-1 for each n, one after the other."""
    total = int(sizes.sum())
    ends = np.cumsum(sizes)
    return np.arange(total) - np.repeat(ends - sizes, sizes)
