"""Windows come back from snapshots and the tail, and from the log alone."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from streaming.consumer import Record
from streaming.messages import VITALS, WINDOWS, Snapshot, Source
from streaming.producer import Producer
from streaming.restore import restore
from streaming.snapshots import encode_note

pytestmark = pytest.mark.integration


class Target:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.alive = True
        self.snapshots: list[str] = []
        self.offsets: list[int] = []

    def restore_snapshot(self, snapshot: Snapshot) -> None:
        """A window of `bad` cannot be unpacked."""
        if snapshot.window == b"bad":
            raise ValueError("window: too short")
        self.snapshots.append(snapshot.bed_id)

    def restore_tail(self, records: Sequence[Record]) -> None:
        """Remember the offsets."""
        self.offsets += [record.offset for record in records]


@pytest.fixture
async def log(stream: Any) -> Any:
    """Ten observations in partition 0 and snapshots of three beds at offset 4."""
    async with Producer(stream.servers) as producer:
        for i in range(10):
            await (await producer.send(VITALS, b"a", b"%d" % i, partition=0))
        for bed, grid, window in (("a", "g", b"x"), ("b", "g", b"y"), ("c", "other", b"z")):
            snapshot = Snapshot(bed, None, Source(0, 4), grid, 1, window)
            value = msgspec.json.encode(snapshot)
            await (await producer.send(WINDOWS, bed.encode(), value, partition=0))
        await (await producer.send(WINDOWS, b"c", None, partition=0))
    return stream


async def test_the_tail_begins_where_the_commit_says_and_ends_at_it(log: Any) -> None:
    """Not the whole log, and nothing of what the member itself will deliver."""
    target = Target()
    await restore(log.servers, 0, (8, encode_note(5)), "g", target)
    assert target.snapshots == ["a", "b"]
    assert target.offsets == [5, 6, 7]


async def test_snapshots_of_another_grid_mean_the_whole_log(log: Any) -> None:
    """Nothing of them is used, everything before the commit is read."""
    target = Target()
    await restore(log.servers, 0, (8, encode_note(5)), "new grid", target)
    assert target.snapshots == []
    assert target.offsets == list(range(8))


async def test_a_snapshot_ahead_of_the_commit_is_not_used(log: Any) -> None:
    """It may hold observations whose predictions are due."""
    target = Target()
    await restore(log.servers, 0, (3, encode_note(2)), "g", target)
    assert target.snapshots == []
    assert target.offsets == [0, 1, 2]


async def test_a_revoked_partition_is_not_restored_further(log: Any) -> None:
    """Whoever owns it now does it."""
    target = Target()
    target.alive = False
    await restore(log.servers, 0, (8, encode_note(5)), "g", target)
    assert target.offsets == []


async def test_a_new_group_has_nothing_to_restore(log: Any) -> None:
    """Without a commit the member reads the log itself, and predicts."""
    target = Target()
    await restore(log.servers, 0, None, "g", target)
    assert target.offsets == []
