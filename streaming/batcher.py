"""Which windows go to a device together, and when: one queue a device, at most one entry a bed.

Pure: time is an argument. An idle device gets what there is at once; a busy one when a batch is
full or its oldest entry has waited long enough. Windows of like length and signal groups go
together, so that a bed admitted an hour ago does not pay for three days of padding, and groups are
merged where the measured curve says that one launch is cheaper than two. Open high alerts go first;
whoever was passed over too often goes before them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from streaming.curve import Curve

Reason = Literal["idle", "size", "deadline", "drain"]

PATIENCE: Final = 4
"""Flushes that pass an entry over before it goes ahead of everything younger, urgent or not."""


@dataclass(slots=True)
class _Entry:
    """A window that is due."""

    slot: int
    group: tuple[int, int]
    """Index of the length bucket, signal groups."""
    urgent: bool
    since_s: float
    flushes: int
    """Flushes that there had been when it came."""


@dataclass(frozen=True, slots=True)
class Flush:
    """Slots to predict together.

    Attributes:
        slots: The slots.
        bins: Length to pad to.
        reason: Why now.
        waited_s: How long each has waited.
    """

    slots: list[int]
    bins: int
    reason: Reason
    waited_s: list[float]


class Batcher:
    """The queue of one device.

    Args:
        buckets: Lengths that batches are padded to (`Model.length_buckets`).
        curve: What batches cost.
        max_batch: Cap of a batch; 0: for each length the size with the best throughput.
        max_wait_s: How long an entry may wait while the device is busy.
        limit: Entries at which the queue is `full`; whoever offers has to stop reading then.
    """

    def __init__(
        self,
        buckets: Sequence[int],
        curve: Curve,
        max_batch: int = 0,
        max_wait_s: float = 0.005,
        limit: int = 100_000,
    ) -> None:
        self._buckets = tuple(buckets)
        self._curve = curve
        self.caps = tuple(max_batch or curve.best(length) for length in self._buckets)
        """Cap of a batch for each bucket."""
        self._max_wait_s = max_wait_s
        self._limit = limit
        # All in the order of age; OrderedDict because a dict whose front is popped again and again
        # walks over the holes.
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._urgent: OrderedDict[int, _Entry] = OrderedDict()
        self._groups: dict[tuple[int, int], OrderedDict[int, _Entry]] = {}
        self._flushes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, slot: int) -> bool:
        return slot in self._entries

    @property
    def full(self) -> bool:
        """Whether the queue is at its limit."""
        return len(self._entries) >= self._limit

    @property
    def deadline_s(self) -> float | None:
        """When the oldest entry has waited long enough; None where nothing waits."""
        if not self._entries:
            return None
        return next(iter(self._entries.values())).since_s + self._max_wait_s

    def offer(self, slot: int, length: int, groups: int, urgent: bool, now_s: float) -> bool:
        """Put a bed's window in the queue.

        An older entry of the slot is replaced, and what replaces it has its age, so that a bed that
        is often heard of does not starve. Returns whether there was one.
        """
        bucket = bisect_left(self._buckets, length)
        if bucket == len(self._buckets):
            raise ValueError(f"length: {length} is longer than the longest bucket")
        group = (bucket, groups)
        entry = self._entries.get(slot)
        if entry is None:
            entry = _Entry(slot, group, urgent, now_s, self._flushes)
            self._entries[slot] = entry
            replaced = False
        else:
            replaced = True
            if entry.group == group and entry.urgent == urgent:
                return True
            self._leave(entry)
            entry.group, entry.urgent = group, urgent
        if group not in self._groups:
            self._groups[group] = OrderedDict()
        self._groups[group][slot] = entry
        if urgent:
            self._urgent[slot] = entry
        return replaced

    def discard(self, slot: int) -> bool:
        """Take a slot out of the queue; its window is gone. Returns whether it was there."""
        entry = self._entries.pop(slot, None)
        if entry is None:
            return False
        self._leave(entry)
        return True

    def slots(self) -> list[int]:
        """The slots in the queue, oldest first."""
        return list(self._entries)

    def take(self, now_s: float, idle: bool, drain: bool = False) -> Flush | None:
        """The next batch, or None while it is better to wait.

        Args:
            now_s: The clock that `offer` was told.
            idle: Whether the device has nothing to do.
            drain: Whether nothing more will come: whatever is there goes.
        """
        if not self._entries:
            return None
        full = self._full_group()
        oldest = next(iter(self._entries.values()))
        reason: Reason
        if idle:
            reason = "idle"
        elif full is not None:
            reason = "size"
        elif now_s - oldest.since_s >= self._max_wait_s:
            reason = "deadline"
        elif drain:
            reason = "drain"
        else:
            return None
        first = oldest
        overdue = self._flushes - oldest.flushes >= PATIENCE
        if not overdue and self._urgent:
            first = next(iter(self._urgent.values()))
        elif not overdue and reason == "size" and full is not None:
            first = next(iter(self._groups[full].values()))
        chosen, bucket = self._choose(first)
        self._flushes += 1
        for entry in chosen:
            del self._entries[entry.slot]
            self._leave(entry)
        return Flush(
            [entry.slot for entry in chosen],
            self._buckets[bucket],
            reason,
            [now_s - entry.since_s for entry in chosen],
        )

    def _leave(self, entry: _Entry) -> None:
        members = self._groups[entry.group]
        del members[entry.slot]
        if not members:
            del self._groups[entry.group]
        if entry.urgent:
            del self._urgent[entry.slot]

    def _full_group(self) -> tuple[int, int] | None:
        for group, members in self._groups.items():
            if len(members) >= self.caps[group[0]]:
                return group
        return None

    def _choose(self, first: _Entry) -> tuple[list[_Entry], int]:
        """The entries that go with `first`, and the bucket that holds them all."""
        bucket = first.group[0]
        cap = self.caps[bucket]
        chosen = {first.slot: first}
        members = self._groups[first.group]
        if len(members) > cap:
            for entry in self._urgent.values():
                if entry.group == first.group and len(chosen) < cap:
                    chosen[entry.slot] = entry
        for entry in members.values():
            if len(chosen) >= cap:
                break
            chosen[entry.slot] = entry
        # Neighbours join where one launch is cheaper than two, the nearest length first.
        cost, lengths = self._curve.cost, self._buckets
        others = sorted(
            (group for group in self._groups if group != first.group),
            key=lambda group: (abs(group[0] - first.group[0]), group),
        )
        for group in others:
            together = max(bucket, group[0])
            size = min(len(self._groups[group]), self.caps[together] - len(chosen))
            if size < 1:
                continue
            apart = cost(len(chosen), lengths[bucket]) + cost(size, lengths[group[0]])
            if cost(len(chosen) + size, lengths[together]) < apart:
                bucket = together
                joining = iter(self._groups[group].values())
                for entry, _ in zip(joining, range(size), strict=False):
                    chosen[entry.slot] = entry
        return list(chosen.values()), bucket
