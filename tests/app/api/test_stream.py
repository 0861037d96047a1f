"""The live stream's broadcaster."""

from __future__ import annotations

import asyncio
import contextlib
import re
import tracemalloc
from collections.abc import AsyncIterator

from app.api.stream import PIECE_BYTES, Broadcaster
from app.api.view import BedChange

EVENT = re.compile(rb"id: (\S+)\nevent: (\w+)\ndata: (.*)\n\n")


def drain(stream: Broadcaster, seq: int, beds: frozenset[str] | None = None) -> list[bytes]:
    """All events newer than a number, and nothing in between."""
    found = b""
    while seq < stream.seq:
        blob, seq = stream.pull(seq, beds)
        found += blob
    return [data for _, _, data in EVENT.findall(found)]


async def first_events(reader: AsyncIterator[bytes], count: int) -> list[tuple[bytes, ...]]:
    """Read until so many events came."""
    found = b""
    async for piece in reader:
        found += piece
        if len(EVENT.findall(found)) >= count:
            break
    return EVENT.findall(found)


async def test_a_reader_gets_the_newest_of_each_bed() -> None:
    """Who was away gets one event a bed, not the history."""
    stream = Broadcaster()
    for n in range(50):
        for bed in "ABC":
            stream.predicted(bed, b'{"n":%d}' % n)

    assert drain(stream, 0) == [b'{"n":49}'] * 3


async def test_resuming_repeats_nothing_and_misses_nothing() -> None:
    """`Last-Event-ID` of this process goes on; any other begins anew."""
    stream = Broadcaster()
    for bed in "AB":
        stream.predicted(bed, b'{"bed":"%s"}' % bed.encode())
    here = stream.seq
    stream.predicted("B", b'{"bed":"B2"}')

    assert drain(stream, stream.start_of(f"{stream.epoch}-{here}")) == [b'{"bed":"B2"}']
    for foreign in (
        None,
        "",
        "x",
        f"{stream.epoch}-",
        f"{stream.epoch}-99",
        "other-1",
        "-1",
        "²-²",
    ):
        assert stream.start_of(foreign) == 0, foreign


async def test_a_filter_leaves_other_beds_out() -> None:
    """`beds=` is for a bed's own page."""
    stream = Broadcaster()
    for bed in "ABC":
        stream.predicted(bed, b'"%s"' % bed.encode())

    assert drain(stream, 0, frozenset("B")) == [b'"B"']


async def test_a_cleared_bed_takes_its_prediction_along() -> None:
    """Who connects later never sees the patient before."""
    stream = Broadcaster()
    stream.predicted("A", b'"old"')
    stream.changed(BedChange("A", "c2", True, None, 0, True))

    assert len(drain(stream, 0)) == 1


async def test_a_line_break_in_a_value_cannot_forge_an_event() -> None:
    """What a foreign producer wrote over several lines becomes one."""
    stream = Broadcaster()
    stream.predicted("A", b'{\n "x": 1,\r\n "y": 2}')

    assert drain(stream, 0) == [b'{"x":1,"y":2}']


async def test_readers_share_pieces_that_are_bounded() -> None:
    """An event is encoded once and joined once for all who keep up."""
    stream = Broadcaster()
    for bed in range(1_000):
        stream.predicted(str(bed), b'"%s"' % (b"x" * 2_000))
    one, _ = stream.pull(0)
    other, _ = stream.pull(0)

    assert one is other
    assert len(one) <= PIECE_BYTES


async def test_two_hundred_slow_readers_cost_nothing_and_hold_up_nobody() -> None:
    """Readers that sleep keep no queue; the one that reads gets all that is new."""
    stream = Broadcaster()
    beds = [f"bed-{n}" for n in range(200)]
    value = b'"%s"' % (b"x" * 1_000)
    for bed in beds:
        stream.predicted(bed, value)
    slow = [stream.read(None, None, 0) for _ in range(200)]
    for reader in slow:
        await anext(reader)
        await anext(reader)
    fast = stream.read(f"{stream.epoch}-{stream.seq}", None, 0)
    await anext(fast)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    seen = 0
    for _ in range(50):
        for bed in beds:
            stream.predicted(bed, value)
        seen += len(await asyncio.wait_for(first_piece(fast, len(beds)), 10))
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert seen == 50 * len(beds)
    assert after - before < 4 << 20
    for reader in slow:
        await reader.aclose()
    await fast.aclose()


async def first_piece(reader: AsyncIterator[bytes], count: int) -> list[bytes]:
    """As many events as were published, however they were cut."""
    found: list[bytes] = []
    while len(found) < count:
        found += [data for _, _, data in EVENT.findall(await anext(reader))]
    return found


async def test_closing_ends_every_reader() -> None:
    """A shutdown does not wait for pages that stay open."""
    stream = Broadcaster()
    readers = [stream.read(None, None, every) for every in (0.0, 60.0)]
    tasks = [asyncio.create_task(collect(reader)) for reader in readers]
    await asyncio.sleep(0)
    stream.close()

    await asyncio.wait_for(asyncio.gather(*tasks), 5)


async def collect(reader: AsyncIterator[bytes]) -> None:
    """Read to the end."""
    with contextlib.suppress(asyncio.CancelledError):
        async for _ in reader:
            pass
