"""Who lies in which bed and which observations are whose: messages become cells of the beds'
windows.

Pure and synchronous: what a call does follows from its arguments and the calls before it. The rules
of cases:

- A new case id, from `icu.cases` or from an observation, empties the window before anything else.
- An observation that names an earlier case of the bed is dropped (`other_case`); so is one that
names an unknown case
  but is older than the admission on record: after a restart the names of earlier cases may be
  forgotten.
- One without a case id that is older than the case, where this case replaced another, is dropped
(`before_case`). - After `closed`, observations without a new case id are dropped (`case_closed`);
after a tombstone, those not later
  than the tombstone. The case that a tombstone ends is an earlier case from then on.
- A record of an earlier case is ignored, unless it is open and its admission is later than the
present case began:
  then the patient has come back.
- An offset at or below the highest that the bed has seen was delivered before (`redelivered`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.signals import HIGH, LOW
from streaming.beds import (
    BEFORE_CASE,
    CASE_CLOSED,
    LATE,
    MESSAGE_REASONS,
    OTHER_CASE,
    OUT_OF_BOUNDS,
    REDELIVERED,
    VALUE_REASONS,
    Bed,
    Home,
)
from streaming.messages import Case, Snapshot, Source
from streaming.model import Cells, WindowStore
from streaming.observations import Observations

__all__ = ["MESSAGE_REASONS", "VALUE_REASONS", "Bed", "Home", "Observed", "Windows"]

_MOST_PREVIOUS: Final = 64
"""Earlier cases of a bed that are remembered; months of them."""


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


class Windows:
    """The beds of all assigned partitions.

    Args:
        owner: The home of a bed id (`Shards.owner`).
        grid: Digest of the model's grid, for snapshots.
    """

    def __init__(self, owner: Callable[[str], Home], grid: str) -> None:
        self._owner = owner
        self._grid = grid
        self._partitions: dict[int, dict[str, Bed]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._partitions.values()))

    def __iter__(self) -> Iterator[Bed]:
        for beds in self._partitions.values():
            yield from beds.values()

    def beds(self, partition: int) -> Sequence[Bed]:
        """The beds of a partition."""
        return list(self._partitions.get(partition, {}).values())

    def bed(self, partition: int, bed_id: str) -> Bed | None:
        """A bed, if it was ever heard of."""
        return self._partitions.get(partition, {}).get(bed_id)

    def observe(
        self,
        observations: Observations,
        partition: int,
        now_ms: int,
        rows: Sequence[int] | None = None,
        once: bool = False,
    ) -> Observed:
        """Put messages of one partition into the windows.

        Args:
            observations: The messages.
            partition: Their partition.
            now_ms: The wall clock.
            rows: Which of them, ascending; None: all.
            once: `emit=each`: a bed takes one message and is `waiting` then; its next ones are left
                in `rest` until whoever gathered its window has set `waiting` to False.
        """
        if partition not in self._partitions:
            self._partitions[partition] = {}
        known = self._partitions[partition]
        observed = Observed()
        accepted, beds = observed.rows, observed.beds
        slots: list[int] = []
        done = 0
        """How many of `accepted` are in the windows."""
        for row, bed_id, case_id, ts_ms, offset in _messages(observations, rows):
            bed = known.get(bed_id)
            if bed is None:
                bed = self._add(partition, bed_id)
            if offset <= bed.seen:
                observed.count(REDELIVERED)
                observed.dropped.append(row)
                continue
            if once and bed.waiting:
                observed.rest.append(row)
                continue
            bed.seen = offset
            bed.heard_ms = now_ms
            reason = None
            if case_id is None:
                if ts_ms < bed.floor_ms:
                    ended = bed.closed or ts_ms <= bed.tombstone_ms
                    reason = CASE_CLOSED if ended else BEFORE_CASE
            elif case_id != bed.case_id:
                reason = _stranger(bed, case_id, ts_ms)
                if reason is None:
                    self._apply(observed, observations, done, slots)
                    done = len(accepted)
                    slots = []
                    if self._start(bed, case_id, None, ts_ms):
                        observed.emptied.append(bed)
            elif bed.closed:
                reason = CASE_CLOSED
            if reason is not None:
                observed.count(reason)
                observed.dropped.append(row)
                continue
            if bed.slot < 0:
                self._open(bed)
            bed.source = offset
            if once:
                bed.waiting = True
            accepted.append(row)
            beds.append(bed)
            slots.append(bed.slot)
        self._apply(observed, observations, done, slots)
        return observed

    def case(self, bed_id: str, partition: int, case: Case | None, ms: int) -> Bed | None:
        """Take a record of `icu.cases`; None as the case is a tombstone, `ms` the record's
        timestamp.

        Under `emit=each` call it when the bed is not `waiting`.

        Returns:
            The bed where its window was emptied (what was due of it is lost), else None.
        """
        bed = self.bed(partition, bed_id) or self._add(partition, bed_id)
        if case is None:
            bed.tombstone_ms = max(bed.tombstone_ms, ms)
            emptied = self._start(bed, None, None, -1)
        elif case.case_id != bed.case_id:
            back = case.status == "open" and case.admitted_ms > bed.since_ms
            if case.case_id in bed.previous and not back:
                return None
            emptied = self._start(bed, case.case_id, case, case.admitted_ms)
            bed.closed = case.status == "closed"
        else:
            bed.case = case
            bed.since_ms = case.admitted_ms
            bed.closed = case.status == "closed"
            emptied = bed.closed and self._empty(bed)
            if bed.slot >= 0:
                bed.home.store.set_case(bed.slot, case)
                # An observation may come before the record of its case: the bins follow.
                bed.home.store.recut(bed.slot, bed.phase_ms)
        bed.set_floor()
        return bed if emptied else None

    def snapshot(self, bed: Bed) -> Snapshot:
        """A bed's window as it is after `bed.source`. Raises ValueError for a bed without one."""
        if bed.slot < 0 or bed.source < 0:
            raise ValueError("snapshot of a bed without a window")
        return Snapshot(
            bed_id=bed.bed_id,
            case_id=bed.case_id,
            source=Source(bed.partition, bed.source),
            grid=self._grid,
            newest_ms=int(bed.home.store.newest_ms(np.array([bed.slot], np.int32))[0]),
            window=bed.home.store.snapshot(bed.slot),
            previous_cases=list(bed.previous),
            since_ms=bed.since_ms,
        )

    def restore(self, snapshot: Snapshot) -> Bed:
        """Take a window over from before a restart; the partition's `icu.cases` were read before.

        What the cases on record say wins: the window of a case that has ended since is not used,
        only how far it had read.

        Raises:
            ValueError: The window cannot be unpacked; the bed is as if there were no snapshot.
        """
        partition = snapshot.source.partition
        bed = self.bed(partition, snapshot.bed_id) or self._add(partition, snapshot.bed_id)
        recorded = bed.case_id
        earlier = list(dict.fromkeys((*snapshot.previous_cases, *bed.previous)))
        newer = recorded is None or recorded in snapshot.previous_cases
        usable = (
            snapshot.newest_ms > bed.tombstone_ms
            and (newer or recorded == snapshot.case_id)
            and not (bed.closed and recorded == snapshot.case_id)
        )
        if usable:
            slot = bed.slot if bed.slot >= 0 else bed.home.claim()
            try:
                bed.home.store.restore(slot, snapshot.window)
            except ValueError:
                if bed.slot < 0:
                    bed.home.release(slot)
                raise
            bed.slot = slot
            bed.source = snapshot.source.offset
            if recorded != snapshot.case_id:
                bed.case_id, bed.case, bed.closed = snapshot.case_id, None, False
                bed.since_ms = snapshot.since_ms
            bed.home.store.set_case(slot, bed.case)
            if bed.case is not None:
                bed.home.store.recut(slot, bed.phase_ms)
        elif snapshot.case_id is not None and snapshot.case_id != recorded:
            earlier.append(snapshot.case_id)
        bed.previous = [case_id for case_id in dict.fromkeys(earlier) if case_id != bed.case_id]
        del bed.previous[:-_MOST_PREVIOUS]
        bed.seen = max(bed.seen, snapshot.source.offset)
        bed.set_floor()
        return bed

    def move(self, home: Home) -> list[Bed]:
        """Give the beds of a home that failed to the homes that now own them, windows included.

        Returns:
            The beds that were in its queue: they are due and no longer in any queue.
        """
        due = []
        for bed in self:
            if bed.home is not home:
                continue
            old, bed.home = bed.slot, self._owner(bed.bed_id)
            if old >= 0:
                if home.queued(old):
                    due.append(bed)
                window = home.store.snapshot(old)
                home.release(old)
                self._open(bed)
                bed.home.store.restore(bed.slot, window)
        return due

    def forget(self, partition: int) -> list[Bed]:
        """Drop a partition that was revoked; its beds' slots are free."""
        gone = list(self._partitions.pop(partition, {}).values())
        for bed in gone:
            self._empty(bed)
        return gone

    def states(self, now_ms: int, stale_after_ms: int) -> dict[str, int]:
        """How many beds with a window are `stale` (silent, or their event time far behind), and of
        the others how many are `warming_up` (the model has too little to speak) or `live`.
        """
        by_home: dict[Home, list[Bed]] = {}
        for bed in self:
            if bed.slot >= 0:
                by_home.setdefault(bed.home, []).append(bed)
        oldest_ms = now_ms - stale_after_ms
        live = warming = total = 0
        for home, beds in by_home.items():
            slots = np.array([bed.slot for bed in beds], np.int32)
            heard = np.array([bed.heard_ms for bed in beds], np.int64)
            fresh = (heard >= oldest_ms) & (home.store.newest_ms(slots) >= oldest_ms)
            silent = np.array([bed.warming for bed in beds], np.bool_)
            live += int((fresh & ~silent).sum())
            warming += int((fresh & silent).sum())
            total += len(beds)
        return {"live": live, "warming_up": warming, "stale": total - live - warming}

    def _add(self, partition: int, bed_id: str) -> Bed:
        bed = Bed(bed_id, partition, self._owner(bed_id))
        self._partitions.setdefault(partition, {})[bed_id] = bed
        return bed

    def _open(self, bed: Bed) -> None:
        bed.slot = bed.home.claim()
        bed.home.store.open(bed.slot, bed.phase_ms, bed.case)

    def _start(self, bed: Bed, case_id: str | None, case: Case | None, since_ms: int) -> bool:
        """Empty a bed and begin another case, or none. Returns whether there was a window."""
        if bed.case_id is not None and bed.case_id != case_id:
            bed.previous.append(bed.case_id)
            del bed.previous[:-_MOST_PREVIOUS]
        if case_id in bed.previous:
            bed.previous.remove(case_id)
        emptied = self._empty(bed)
        bed.case_id, bed.case, bed.since_ms, bed.closed = case_id, case, since_ms, False
        bed.set_floor()
        return emptied

    @staticmethod
    def _empty(bed: Bed) -> bool:
        bed.generation += 1
        bed.source = -1
        bed.waiting = bed.warming = False
        if bed.slot < 0:
            return False
        bed.home.release(bed.slot)
        bed.slot = -1
        return True

    @staticmethod
    def _apply(
        observed: Observed, observations: Observations, done: int, slots: Sequence[int]
    ) -> None:
        """Put the accepted rows from `done` on into their homes' stores."""
        if not slots:
            return
        rows = np.array(observed.rows[done:], np.int64)
        where = np.array(slots, np.int32)
        homes = [bed.home for bed in observed.beds[done:]]
        distinct = set(homes)
        if len(distinct) == 1:
            _put(observed, observations, homes[0].store, rows, where)
            return
        for home in distinct:
            mine = np.array([h is home for h in homes], np.bool_)
            _put(observed, observations, home.store, rows[mine], where[mine])


def _messages(
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


def _stranger(bed: Bed, case_id: str, ts_ms: int) -> str | None:
    """Why an observation that names another case than the bed's is dropped; None for a new case."""
    if case_id in bed.previous:
        return OTHER_CASE
    if ts_ms <= bed.tombstone_ms:
        return CASE_CLOSED
    if bed.case is not None and ts_ms < bed.case.admitted_ms:
        if len(bed.previous) < _MOST_PREVIOUS:
            # Nothing is forgotten for it: it would be recognised again by its time.
            bed.previous.insert(0, case_id)
        bed.set_floor()
        return OTHER_CASE
    return None


def _put(
    observed: Observed,
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
            observed.count(OUT_OF_BOUNDS, out)
        slot, signal, when, value = slot[good], signal[good], when[good], value[good]
    store.touch(slots, ts_ms)
    late = store.apply(Cells(slot, signal, when, value.astype(np.float32))).late
    if late:
        observed.count(LATE, late)
