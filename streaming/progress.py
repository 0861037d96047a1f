"""How far a partition is done: offsets finish in any order, the completed prefix is committed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


class Progress:
    """The contiguous watermark of one partition.

    Offsets are taken in ascending order, with gaps where the log has them (compaction, control
    records), and finish in any order, each once or more. `position` is the lowest unfinished one.
    """

    def __init__(self, start: int) -> None:
        self._next = start
        self._open: deque[int] = deque()
        self._done: set[int] = set()

    @property
    def position(self) -> int:
        """The offset to commit: everything before it is finished."""
        return self._open[0] if self._open else self._next

    @property
    def next(self) -> int:
        """One after the last offset taken."""
        return self._next

    @property
    def open(self) -> int:
        """Offsets taken and not below the watermark."""
        return len(self._open)

    def take(self, offset: int) -> bool:
        """Begin an offset; False, and nothing begun, where it was taken before (a re-delivery)."""
        if offset < self._next:
            return False
        self._open.append(offset)
        self._next = offset + 1
        return True

    def skip_to(self, offset: int) -> None:
        """Everything before `offset` was read and holds no record (gaps at the end of the log)."""
        self._next = max(self._next, offset)

    def finish(self, offsets: Iterable[int]) -> None:
        """Offsets are done. Finishing one again, or one never taken, changes nothing."""
        start = self.position
        self._done.update(offset for offset in offsets if start <= offset < self._next)
        done, pending = self._done, self._open
        while pending and pending[0] in done:
            done.discard(pending.popleft())
