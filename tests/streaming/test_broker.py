"""The embedded broker carries what `run` needs of Kafka."""

from __future__ import annotations

from streaming.broker import PARTITIONS, EmbeddedBroker
from streaming.consumer import GroupConsumer
from streaming.messages import VITALS
from streaming.producer import Admin, Producer
from streaming.reader import Reader, TopicPartition
from streaming.topics import TOPICS, ensure_topics


async def test_all_topics_are_there_with_one_partition_count() -> None:
    """Nobody has to create anything, and asking again changes nothing."""
    async with EmbeddedBroker() as broker:
        assert broker.servers.startswith("127.0.0.1:")
        async with Admin(broker.servers) as admin:
            found = await admin.partitions()
        assert {t: found[t] for t in TOPICS} == dict.fromkeys(TOPICS, PARTITIONS)
        assert await ensure_topics(broker.servers, 12) == dict.fromkeys(TOPICS, PARTITIONS)


async def test_a_group_reads_and_commits() -> None:
    """Produce, consume by group, commit with a note, and read alone, as on a real Kafka."""
    async with EmbeddedBroker() as broker:
        async with Producer(broker.servers) as producer:
            sent = await producer.send_many(VITALS, [(b"A", b"%d" % n) for n in range(100)])
            partition = TopicPartition(VITALS, (await sent[0]).partition)
            assert await producer.flush()
        consumer = GroupConsumer(
            broker.servers,
            "g",
            [VITALS],
            on_assigned=lambda partitions, _: consumer.resume(*partitions),
        )
        got: list[int] = []
        async with consumer:
            while len(got) < 100:
                for records in (await consumer.poll()).values():
                    got += [int(r.value) for r in records]
            assert await consumer.committed(partition) is None
            assert await consumer.commit({partition: (60, "low=40")})
            assert await consumer.committed(partition) == (60, "low=40")
        async with Reader(broker.servers) as reader:
            found = [r async for some in reader.read(VITALS, range(PARTITIONS)) for r in some]
        assert got == [int(r.value) for r in found] == list(range(100))


async def test_two_brokers_know_nothing_of_each_other() -> None:
    """Each has its own port and its own data; a stopped one stops twice."""
    async with EmbeddedBroker() as one, EmbeddedBroker() as other:
        assert one.servers != other.servers
        async with Producer(one.servers) as producer:
            await (await producer.send(VITALS, b"A", b"x"))
        async with Reader(other.servers) as reader:
            assert set((await reader.end_offsets(VITALS)).values()) == {0}
        await one.stop()
