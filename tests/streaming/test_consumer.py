"""Reading on a real Kafka: alone to a known end, following for ever, and what a group member
reports.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streaming.consumer import GroupConsumer
from streaming.messages import CASES, PREDICTIONS, VITALS, WINDOWS
from streaming.producer import Admin, Producer, TopicPlan
from streaming.reader import KafkaError, Reader, Record, TopicPartition

pytestmark = pytest.mark.integration


async def publish(servers: str, topic: str, partition: int, count: int, first: int = 0) -> None:
    async with Producer(servers) as producer:
        for number in range(first, first + count):
            await producer.send(topic, b"A", b"%d" % number, partition=partition)
        assert await producer.flush()


async def read(reader: Reader, *args: Any, **kwargs: Any) -> list[Record]:
    return [record async for some in reader.read(*args, **kwargs) for record in some]


async def test_a_stretch_ends_at_its_end(stream: Any) -> None:
    """From a start to before an end, by partition; without them all that is there."""
    for partition in (0, 2):
        await publish(stream.servers, VITALS, partition, 50)
    async with Reader(stream.servers) as reader:
        some = await read(reader, VITALS, [0, 2], {0: 10, 2: 45}, {0: 20, 2: 50})
        assert sorted((r.partition, r.offset) for r in some) == [
            *((0, offset) for offset in range(10, 20)),
            *((2, offset) for offset in range(45, 50)),
        ]
        assert len(await read(reader, VITALS, range(4))) == 100
        assert await read(reader, VITALS, [0], {0: 50}) == []
        assert await read(reader, VITALS, [1]) == []


async def test_a_stretch_ends_at_the_position_not_at_an_offset(stream: Any) -> None:
    """Offsets that a transaction left behind are no records, and are not waited for."""
    from confluent_kafka import Producer as OtherProducer

    def transact() -> None:
        other = OtherProducer(
            {"bootstrap.servers": stream.servers, "transactional.id": "t", "log_level": 0}
        )
        other.init_transactions(20)
        for _ in range(2):
            other.begin_transaction()
            other.produce(WINDOWS, b"x", b"A", partition=0)
            other.commit_transaction(20)

    await asyncio.to_thread(transact)
    async with Reader(stream.servers) as reader:
        assert (await reader.end_offsets(WINDOWS, [0])) == {0: 4}
        assert [r.offset for r in await read(reader, WINDOWS, [0])] == [0, 2]


async def test_a_start_that_was_deleted_is_clamped_and_reported(stream: Any) -> None:
    """What retention took is named, so that a window can be called incomplete."""
    from confluent_kafka import TopicPartition as Other
    from confluent_kafka.admin import AdminClient

    await publish(stream.servers, VITALS, 0, 20)

    def delete() -> None:
        admin = AdminClient({"bootstrap.servers": stream.servers, "log_level": 0})
        for future in admin.delete_records([Other(VITALS, 0, 12)]).values():
            future.result(20)

    await asyncio.to_thread(delete)
    async with Reader(stream.servers) as reader:
        assert await reader.beginning_offsets(VITALS, [0]) == {0: 12}
        found = await read(reader, VITALS, [0], {0: 5})
        assert [r.offset for r in found] == list(range(12, 20))
        assert reader.clamped == {TopicPartition(VITALS, 0): (5, 12)}


async def test_a_time_past_the_end_has_no_offset(stream: Any) -> None:
    """The earliest record at or after a time, None where there is none."""
    await publish(stream.servers, VITALS, 0, 3)
    async with Reader(stream.servers) as reader:
        (first, *_) = await read(reader, VITALS, [0])
        assert await reader.offsets_for_times(VITALS, {0: first.timestamp, 1: 0}) == {0: 0, 1: None}
        assert await reader.offsets_for_times(VITALS, {0: first.timestamp + 3_600_000}) == {0: None}


async def test_a_reader_reads_one_stretch_at_a_time(stream: Any) -> None:
    """A second one would take the first one's partitions away."""
    await publish(stream.servers, VITALS, 0, 3)
    async with Reader(stream.servers) as reader:
        first = reader.follow([VITALS], "beginning")
        await anext(first)
        with pytest.raises(RuntimeError, match="one stretch"):
            await read(reader, VITALS, [0])
        await first.aclose()
        assert len(await read(reader, VITALS, [0])) == 3


@pytest.mark.parametrize(("start", "expected"), [("beginning", 8), ("end", 5)])
async def test_following_begins_where_it_was_told(stream: Any, start: str, expected: int) -> None:
    """From the beginning with what was there, from the end without it."""
    await publish(stream.servers, PREDICTIONS, 1, 3)
    got: list[Record] = []
    async with Reader(stream.servers) as reader:
        following = reader.follow([PREDICTIONS, CASES], start)  # type: ignore[arg-type]
        if start == "end":
            assert await anext(following) == []
        await publish(stream.servers, PREDICTIONS, 1, 3, first=3)
        await publish(stream.servers, CASES, 3, 2)
        while len(got) < expected:
            got.extend(await anext(following))
        assert reader.lag() in (0, None)
        await following.aclose()
    assert len(got) == expected
    assert [int(r.value) for r in got if r.topic == PREDICTIONS] == list(range(6))[-expected + 2 :]


async def test_following_a_time_begins_at_its_record(stream: Any) -> None:
    """What was written before is left out."""
    await publish(stream.servers, VITALS, 0, 1)
    async with Reader(stream.servers) as reader:
        (before,) = await read(reader, VITALS, [0])
        await asyncio.sleep(0.002)  # into another millisecond of the broker's clock
        await publish(stream.servers, VITALS, 0, 2, first=1)
        following = reader.follow([VITALS], before.timestamp + 1)
        got: list[Record] = []
        while len(got) < 2:
            got.extend(await anext(following))
        await following.aclose()
    assert [r.value for r in got] == [b"1", b"2"]


async def test_following_goes_on_after_a_broker_restart(stream: Any) -> None:
    """Nothing is missing and nothing is repeated."""
    await publish(stream.servers, VITALS, 0, 3)
    got: list[int] = []
    async with Reader(stream.servers) as reader:
        following = reader.follow([VITALS], "beginning")
        while len(got) < 3:
            got.extend(int(r.value) for r in await anext(following))
        await asyncio.to_thread(stream.server.kill)
        await asyncio.to_thread(stream.server.start)
        await publish(stream.servers, VITALS, 0, 3, first=3)
        while len(got) < 6:
            got.extend(int(r.value) for r in await anext(following))
        await following.aclose()
    assert got == list(range(6))


async def test_a_topic_that_does_not_exist_is_an_error(stream: Any) -> None:
    """Asking for it neither waits for ever nor makes it."""
    async with Admin(stream.servers) as admin:
        async with Reader(stream.servers) as reader:
            with pytest.raises((KafkaError, TimeoutError)):
                await asyncio.wait_for(reader.partitions("icu.nothing"), 2)
        assert "icu.nothing" not in await admin.partitions()


async def test_both_topics_of_a_partition_go_to_the_same_member(stream: Any) -> None:
    """Partition p of every topic speaks of the same beds."""

    def member() -> GroupConsumer:
        return GroupConsumer(
            stream.servers,
            f"{stream.group}-both",
            [VITALS, PREDICTIONS],
            on_assigned=lambda *_: None,
            session_timeout_ms=3_000,
        )

    first, second = member(), member()
    async with first:
        joining = asyncio.create_task(second.start())
        while not (joining.done() and len(first.assignment) == len(second.assignment) == 4):
            await first.poll(50)
            if joining.done():
                await second.poll(50)
        for one in (first, second):
            by_topic = {t: {p for u, p in one.assignment if u == t} for t in (VITALS, PREDICTIONS)}
            assert by_topic[VITALS] == by_topic[PREDICTIONS]
        await second.stop()


async def test_the_commit_carries_a_note(stream: Any) -> None:
    """The lowest offset that a restore needs comes back with the committed one."""
    partition = TopicPartition(VITALS, 1)
    consumer = GroupConsumer(
        stream.servers, f"{stream.group}-note", [VITALS], on_assigned=lambda *_: None
    )
    async with consumer:
        assert await consumer.committed(partition) is None
        assert await consumer.commit({partition: (7, '{"low":3}')}, epoch=consumer.epoch)
        assert await consumer.committed(partition) == (7, '{"low":3}')
        assert await consumer.end_offsets([partition]) == {partition: 0}
        assert not await consumer.commit({TopicPartition(CASES, 1): (7, "")})
        with pytest.raises(KeyError):
            consumer.seek(TopicPartition(CASES, 1), 0)


async def test_large_messages_do_not_block_a_partition(stream: Any) -> None:
    """A message larger than a fetch arrives alone, and what follows it too."""
    async with Admin(stream.servers) as admin:
        await admin.create([TopicPlan("large", 1, 1, {"max.message.bytes": str(9 << 20)})])
    async with Producer(stream.servers, max_request_bytes=8 << 20) as producer:
        for size in (10, 7 << 20, 10):
            await (await producer.send("large", b"A", b"x" * size))
    async with Reader(stream.servers) as reader:
        sizes = [len(r.value) for r in await read(reader, "large", [0])]
    assert sizes == [10, 7 << 20, 10]
