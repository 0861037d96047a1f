"""When a bed's window is captured, when the capture may be published, and what a restart still
needs.

A capture at offset k is published only after k is committed: a snapshot never runs ahead of the
predictions, so
restoring it can hide no observation whose prediction is still due.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from streaming.messages import Snapshot


@dataclass(slots=True)
class Keep:
    """What of one bed the log must still deliver to a restart.

    Attributes:
        due_s: When the bed is captured next.
        since: First offset in the window that the newest capture lacks, -1 where it lacks none.
        held: The same for the newest published snapshot while a capture waits, -1 where none waits.
        waiting: Offset of the capture that waits, -1 where none does.
    """

    due_s: float
    since: int = -1
    held: int = -1
    waiting: int = -1

    @property
    def needed(self) -> int:
        """Lowest offset that restoring the bed reads, -1 where its snapshot says all."""
        return self.held if self.waiting >= 0 and self.held >= 0 else self.since

    def capture(self, offset: int) -> None:
        """The window was packed as it is after `offset`."""
        self.held, self.since, self.waiting = self.since, -1, offset

    def published(self) -> None:
        """The capture was acknowledged: restarts begin there."""
        self.held = self.waiting = -1

    def dropped(self) -> None:
        """The capture will not be published: what it held is needed as before."""
        if self.held >= 0:
            self.since = self.held
        self.held = self.waiting = -1

    def emptied(self) -> None:
        """The window was emptied: what it held is needed no longer, and no capture of it."""
        self.since = self.held = self.waiting = -1


def needed(position: int, keeps: Iterable[Keep]) -> int:
    """Lowest offset a restart reads, at most `position`."""
    lowest = position
    for keep in keeps:
        offset = keep.needed
        if 0 <= offset < lowest:
            lowest = offset
    return lowest


class Note(msgspec.Struct, frozen=True):
    """What a commit's metadata says."""

    needed: int
    """Lowest offset that restoring the partition reads."""


def encode_note(lowest: int) -> str:
    """The metadata of a commit."""
    return msgspec.json.encode(Note(lowest)).decode()


def decode_note(text: str) -> int | None:
    """The lowest offset a commit's metadata names; None where it is of another kind."""
    try:
        return msgspec.json.decode(text, type=Note).needed
    except msgspec.DecodeError:
        return None


def stagger_s(index: int, every_s: float) -> float:
    """Delay of a bed's first capture, so that beds that began together are not captured together.

    The golden ratio spreads any number of beds evenly over the period.
    """
    return every_s * (0.5 + (index * 0.6180339887498949) % 1.0)


def newest_snapshots(
    values: Iterable[tuple[str, Snapshot | None]], into: dict[str, Snapshot]
) -> None:
    """Keep each bed's snapshot of the highest offset; a tombstone (None) forgets the bed.

    The highest, not the last: a worker that was stopped past its session may still send one from
        before.
    """
    for bed_id, snapshot in values:
        if snapshot is None:
            into.pop(bed_id, None)
        else:
            known = into.get(bed_id)
            if known is None or known.source.offset <= snapshot.source.offset:
                into[bed_id] = snapshot
