"""Who lies in which bed and which observations are whose: messages become cells of the beds'
windows.

Pure and synchronous: what a call does follows from its arguments and the calls before it. The rules
of cases:

- A new case id, from `icu.cases` or from an observation, empties the window before anything else.
- An observation that names an earlier case of the bed is dropped (`other_case`); so is one that
  names an unknown case but is older than the admission on record: after a restart the names of
  earlier cases may be forgotten.
- One without a case id that is older than the case, where this case replaced another, is dropped
  (`before_case`).
- After `closed`, observations without a new case id are dropped (`case_closed`); after a
  tombstone, those not later than it. The case that a tombstone ends is an earlier case from then
  on.
- A record of an earlier case is ignored, unless it is open and its admission is later than the
  present case began: then the patient has come back.
- An offset at or below the highest that the bed has seen was delivered before (`redelivered`).

A bed is there once something was heard of it; what `icu.cases` has on record of others waits there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from streaming.beds import (
    BEFORE_CASE,
    CASE_CLOSED,
    MESSAGE_REASONS,
    MOST_PREVIOUS,
    REDELIVERED,
    VALUE_REASONS,
    Bed,
    Home,
    Recorded,
)
from streaming.messages import Case, Snapshot
from streaming.observations import Observations
from streaming.observed import Observed, rows_of
from streaming.packing import pack, unpack

__all__ = ["MESSAGE_REASONS", "VALUE_REASONS", "Bed", "Home", "Observed", "Windows"]


class Windows:
    """The beds of all assigned partitions.

    Args:
        owner: The home of a bed id (`Shards.owner`).
        grid: Digest of the model's grid, for snapshots.
        recorded: What `icu.cases` says of a bed of a partition that is heard of for the first time.
    """

    def __init__(
        self,
        owner: Callable[[str], Home],
        grid: str,
        recorded: Callable[[int, str], Recorded | None] = lambda partition, bed_id: None,
    ) -> None:
        self._owner = owner
        self._grid = grid
        self._recorded = recorded
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
        for row, bed_id, case_id, ts_ms, offset in rows_of(observations, rows):
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
                reason = bed.stranger(case_id, ts_ms)
                if reason is None:
                    observed.land(observations, done, slots)
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
        observed.land(observations, done, slots)
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
        """A bed's window as it is now. Raises ValueError for a bed never heard of."""
        return pack(bed, self._grid)

    def restore(self, snapshot: Snapshot) -> Bed:
        """Take a window over from before a restart; `icu.cases` was read before.

        Raises:
            ValueError: The window cannot be unpacked; the bed is as if there were no snapshot.
        """
        partition = snapshot.source.partition
        bed = self.bed(partition, snapshot.bed_id) or self._add(partition, snapshot.bed_id)
        unpack(snapshot, bed)
        return bed

    def beyond(self, observations: Observations, partition: int, most: int) -> list[int]:
        """Rows that speak of beds for which there is no room, where at most `most` beds may be."""
        room = most - len(self)
        if room >= observations.n:
            return []
        known = self._partitions.get(partition, {})
        fresh: set[str] = set()
        rows = []
        for row, bed_id in enumerate(observations.bed_ids):
            if bed_id in known or bed_id in fresh:
                continue
            if len(fresh) < room:
                fresh.add(bed_id)
            else:
                rows.append(row)
        return rows

    def drop(self, bed: Bed) -> None:
        """Forget one bed: its slot is free, and it is a new bed when it is heard of again."""
        self._empty(bed)
        self._partitions.get(bed.partition, {}).pop(bed.bed_id, None)

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
        if (recorded := self._recorded(partition, bed_id)) is not None:
            bed.recall(recorded)
        return bed

    def _open(self, bed: Bed) -> None:
        bed.slot = bed.home.claim()
        bed.home.store.open(bed.slot, bed.phase_ms, bed.case)

    def _start(self, bed: Bed, case_id: str | None, case: Case | None, since_ms: int) -> bool:
        """Empty a bed and begin another case, or none. Returns whether there was a window."""
        if bed.case_id is not None and bed.case_id != case_id:
            bed.previous.append(bed.case_id)
            del bed.previous[:-MOST_PREVIOUS]
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
