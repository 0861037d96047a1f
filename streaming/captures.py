"""Snapshots of the beds' windows on their way to `icu.windows`, and beds that nobody speaks of any
more.
"""

from __future__ import annotations

from streaming.beds import Bed
from streaming.codec import encode
from streaming.messages import WINDOWS
from streaming.options import Options
from streaming.partition import Partition
from streaming.publish import Outgoing, Publisher
from streaming.snapshots import Keep
from streaming.windows import Windows

AT_ONCE = 25
"""Windows packed of one partition in one call."""


class Captures:
    """Packs windows that are due, and publishes them when their offset is committed.

    Args:
        windows: The beds.
        publisher: Sends the snapshots.
        options: How the stream behaves.
    """

    def __init__(self, windows: Windows, publisher: Publisher, options: Options) -> None:
        self._windows = windows
        self._publisher = publisher
        self._every_s = options.snapshot_every_s
        self._idle_ms = int(options.bed_idle_h * 3_600_000)

    def take(self, partition: Partition, now_s: float, every: bool = False) -> None:
        """Pack the windows that are due, or every one that is not in a snapshot yet."""
        left = len(partition.accounts) if every else AT_ONCE
        for account in partition.accounts.values():
            keep = account.keep
            if keep.since < 0 or keep.waiting >= 0 or (keep.due_s > now_s and not every):
                continue
            keep.due_s = now_s + self._every_s
            bed = self._windows.bed(partition.number, account.bed_id)
            if bed is None or bed.seen < 0:
                continue
            snapshot = self._windows.snapshot(bed)
            offset = snapshot.source.offset
            keep.capture(offset)
            partition.captures.append((account, offset, encode(snapshot)))
            left -= 1
            if left <= 0:
                return

    def publish(self, partition: Partition) -> None:
        """Send the snapshots whose offset is committed."""
        committed = partition.committed[0]
        later, out = [], []
        for account, offset, value in partition.captures:
            if account.keep.waiting != offset:
                continue  # The window was emptied meanwhile.
            if offset < committed:
                out.append(Outgoing(WINDOWS, account.key, value, _Captured(account.keep, offset)))
            else:
                later.append((account, offset, value))
        partition.captures = later
        self._publisher.put(out)

    def forget(self, partition: Partition, now_ms: int) -> None:
        """Give back the slots of beds not heard for so long that their windows say nothing."""
        before_ms = now_ms - self._idle_ms
        gone = [
            bed
            for bed in self._windows.beds(partition.number)
            if bed.heard_ms < before_ms and not self._busy(partition, bed)
        ]
        for bed in gone:
            self._windows.drop(bed)
            partition.accounts.pop(bed.bed_id, None)
        self._publisher.put([Outgoing(WINDOWS, bed.bed_id.encode(), None, None) for bed in gone])

    @staticmethod
    def _busy(partition: Partition, bed: Bed) -> bool:
        account = partition.accounts.get(bed.bed_id)
        return account is not None and account.busy


class _Captured:
    """A snapshot on its way: when it is acknowledged, restarts begin there."""

    __slots__ = ("keep", "offset")

    def __init__(self, keep: Keep, offset: int) -> None:
        self.keep = keep
        self.offset = offset

    def __call__(self) -> None:
        if self.keep.waiting == self.offset:
            self.keep.published()
