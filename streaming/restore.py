"""A partition's windows come back: snapshots of its beds, then the observations after them, without
predicting.

Reads with a consumer of its own and no group, so that the member keeps its heartbeats and its
place. What is read ends
at the committed offset: from there on the member itself delivers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import msgspec
import structlog

from streaming.messages import VITALS, WINDOWS, Snapshot
from streaming.reader import Reader, Record
from streaming.snapshots import decode_note, newest_snapshots

log = structlog.get_logger(__name__)

CHUNK = 1_000
"""Records applied before the loop may do other work."""


class Target(Protocol):
    """The partition that is restored."""

    @property
    def alive(self) -> bool:
        """False once the partition was revoked: the restore is pointless then."""

    def restore_snapshot(self, snapshot: Snapshot) -> None:
        """Take a bed's window over. Raises ValueError for a window that cannot be unpacked."""

    def restore_tail(self, records: Sequence[Record]) -> None:
        """Apply observations, predict nothing."""


async def restore(
    servers: str,
    partition: int,
    committed: tuple[int, str] | None,
    grid: str,
    target: Target,
) -> None:
    """Bring the windows of a partition to the committed offset.

    Snapshots of another grid, of another partition or ahead of the commit are not used; the
    observations are then
    read from the beginning of the log.

    Raises:
        KafkaError, TimeoutError: The log cannot be read; the partition must not be resumed.
    """
    if committed is None:
        return
    end, note = committed
    lowest = decode_note(note)
    snapshots: dict[str, Snapshot] = {}
    unusable = 0
    async with Reader(servers, max_records=CHUNK) as reader:
        async for records in reader.read(WINDOWS, [partition]):
            newest_snapshots(((_bed(r), _snapshot(r)) for r in records), snapshots)
        for snapshot in snapshots.values():
            if not target.alive:
                return
            fits = snapshot.grid == grid and snapshot.source.partition == partition
            if not fits or snapshot.source.offset >= end or not _taken(target, snapshot):
                unusable += 1
        start = 0 if lowest is None or unusable else min(lowest, end)
        read = 0
        async for records in reader.read(VITALS, [partition], {partition: start}, {partition: end}):
            if not target.alive:
                return
            target.restore_tail(records)
            read += len(records)
            await asyncio.sleep(0)
        lost = [asked for asked, _ in reader.clamped.values() if asked > 0]
    if lost:
        log.warning("observations that windows need were deleted by retention", partition=partition)
    log.info(
        "restored",
        partition=partition,
        snapshots=len(snapshots) - unusable,
        unusable=unusable,
        tail=read,
        offset=end,
    )


def _taken(target: Target, snapshot: Snapshot) -> bool:
    try:
        target.restore_snapshot(snapshot)
    except ValueError:
        return False
    return True


def _bed(record: Record) -> str:
    return bytes(record.key or b"").decode(errors="replace")


def _snapshot(record: Record) -> Snapshot | None:
    """The snapshot of a record; None for a tombstone and for what is no snapshot."""
    if record.value is None:
        return None
    try:
        return msgspec.json.decode(record.value, type=Snapshot)
    except msgspec.DecodeError:
        log.warning("not a snapshot", partition=record.partition, offset=record.offset)
        return None
