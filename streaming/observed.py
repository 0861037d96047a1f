"""What became of messages: which were accepted, and their values' way into the windows' stores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.signals import HIGH, LOW
from streaming.beds import LATE, OUT_OF_BOUNDS, Bed
from streaming.model import Cells, WindowStore
from streaming.observations import Observations


@dataclass(slots=True)
class Observed:
    """What became of messages; rows are indices into the observations.

    Attributes:
        rows: Accepted messages, in order.
        beds: Their beds, one for each row.
        dropped: Messages that were dropped, for one of `MESSAGE_REASONS`.
        rest: Messages that have to wait; call `observe` with these once their beds were gathered.
        emptied: Beds whose window was emptied by a new case; what was due of the old one is lost.
        skipped: How many messages (`MESSAGE_REASONS`) and values (`VALUE_REASONS`) were dropped.
    """

    rows: list[int] = field(default_factory=list)
    beds: list[Bed] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    rest: list[int] = field(default_factory=list)
    emptied: list[Bed] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)

    def count(self, reason: str, number: int = 1) -> None:
        """Add to `skipped`."""
        self.skipped[reason] = self.skipped.get(reason, 0) + number

    def land(self, observations: Observations, done: int, slots: Sequence[int]) -> None:
        """Put the accepted rows from `done` on into their homes' stores.

        Args:
            observations: The messages.
            done: How many of `rows` are there already.
            slots: Where the others' windows are.
        """
        if not slots:
            return
        rows = np.array(self.rows[done:], np.int64)
        where = np.array(slots, np.int32)
        homes = [bed.home for bed in self.beds[done:]]
        distinct = set(homes)
        if len(distinct) == 1:
            self._put(observations, homes[0].store, rows, where)
            return
        for home in distinct:
            mine = np.array([h is home for h in homes], np.bool_)
            self._put(observations, home.store, rows[mine], where[mine])

    def _put(
        self,
        observations: Observations,
        store: WindowStore,
        rows: NDArray[np.int64],
        slots: NDArray[np.int32],
    ) -> None:
        """Put the values of rows into one store; nulls are none, and those out of bounds are
        counted.
        """
        signal, value, sizes = observations.signal, observations.value, observations.sizes
        ts_ms = observations.ts_ms
        if len(rows) != observations.n:
            starts = np.cumsum(sizes, dtype=np.int64) - sizes
            ts_ms, sizes = ts_ms[rows], sizes[rows]
            begins = np.repeat(starts[rows] - (np.cumsum(sizes) - sizes), sizes)
            chosen = begins + np.arange(len(begins))
            signal, value = signal[chosen], value[chosen]
        slot = np.repeat(slots, sizes)
        when = np.repeat(ts_ms, sizes)
        good = (value >= LOW[signal]) & (value <= HIGH[signal])
        if not good.all():
            out = int(np.count_nonzero(~good & ~np.isnan(value)))
            if out:
                self.count(OUT_OF_BOUNDS, out)
            slot, signal, when, value = slot[good], signal[good], when[good], value[good]
        store.touch(slots, ts_ms)
        late = store.apply(Cells(slot, signal, when, value.astype(np.float32))).late
        if late:
            self.count(LATE, late)


def rows_of(
    observations: Observations, rows: Iterable[int] | None
) -> Iterable[tuple[int, str, str | None, int, int]]:
    """Row, bed, case, event time and offset of each message."""
    columns = (
        observations.bed_ids,
        observations.case_ids,
        observations.ts_ms.tolist(),
        observations.offsets.tolist(),
    )
    if rows is None:
        return zip(range(observations.n), *columns, strict=True)
    beds, cases, times, offsets = columns
    return ((row, beds[row], cases[row], times[row], offsets[row]) for row in rows)
