"""The producer on a real Kafka: what it acknowledged is there, once and in order, whatever happens
to the broker.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from streaming.messages import CASES, MAX_MESSAGE_BYTES, PREDICTIONS
from streaming.producer import KafkaError, Producer, TooLarge
from streaming.reader import Reader, Record

pytestmark = pytest.mark.integration

MURMUR2 = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536}
"""Of Kafka's own UtilsTest.testMurmur2."""


async def read_all(servers: str, topic: str) -> list[Record]:
    async with Reader(servers) as reader:
        chosen = await reader.partitions(topic)
        return [r async for some in reader.read(topic, chosen) for r in some]


async def test_keys_go_where_java_puts_them(stream: Any) -> None:
    """Other clients' observations of a bed lie in the same partition."""
    async with Producer(stream.servers) as producer:
        futures = await producer.send_many(PREDICTIONS, [(key, b"x") for key in MURMUR2])
        sent = [await future for future in futures]
    assert [s.partition for s in sent] == [
        (number & 0x7FFFFFFF) % stream.partitions for number in MURMUR2.values()
    ]


async def test_room_and_result_are_two_waits(stream: Any) -> None:
    """A thousand messages are taken over before the first acknowledgement; all come in order."""
    async with Producer(stream.servers, linger_ms=200) as producer:
        futures = await producer.send_many(
            PREDICTIONS, [(b"A", b"%d" % number) for number in range(1_000)]
        )
        assert not any(future.done() for future in futures)
        assert await producer.flush()
        assert all(future.done() for future in futures)
        assert [f.result().offset for f in futures] == list(range(1_000))
    assert [r.value for r in await read_all(stream.servers, PREDICTIONS)] == [
        b"%d" % number for number in range(1_000)
    ]


async def test_a_killed_broker_costs_time_only(stream: Any) -> None:
    """Everything sent before, during and after is there once, in order."""
    futures = []
    async with Producer(stream.servers) as producer:
        for number in range(300):
            futures.append(await producer.send(PREDICTIONS, b"A", b"%d" % number))
            if number == 100:
                await asyncio.to_thread(stream.server.kill)
                starting = asyncio.create_task(asyncio.to_thread(stream.server.start))
            await asyncio.sleep(0)
        await asyncio.gather(*futures)
        await starting
    assert [int(r.value) for r in await read_all(stream.servers, PREDICTIONS)] == list(range(300))


async def test_a_refused_message_costs_only_itself(stream: Any) -> None:
    """The gap it leaves in the sequence does not reach those after it."""
    async with Producer(stream.servers, max_request_bytes=4 * MAX_MESSAGE_BYTES) as producer:
        await (await producer.send(CASES, b"A", b"before"))
        with pytest.raises(TooLarge):
            await (await producer.send(CASES, b"A", b"x" * (2 * MAX_MESSAGE_BYTES)))
        for number in range(5):
            await (await producer.send(CASES, b"A", b"after %d" % number))
    values = [r.value for r in await read_all(stream.servers, CASES)]
    assert values == [b"before", *(b"after %d" % number for number in range(5))]


async def test_stopping_without_a_broker_ends_in_time(stream: Any) -> None:
    """Flush and stop have deadlines, and what was not acknowledged says so."""
    producer = Producer(stream.servers)
    await producer.start()
    await (await producer.send(PREDICTIONS, b"A", b"x"))
    await asyncio.to_thread(stream.server.kill)
    future = await producer.send(PREDICTIONS, b"A", b"y")
    begun = time.monotonic()
    assert not await producer.flush(0.3)
    await producer.stop(0.5)
    await producer.stop()
    assert time.monotonic() - begun < 5
    with pytest.raises(KafkaError):
        await future


async def test_no_broker_is_an_error(unused_tcp_port: int) -> None:
    """A start without a cluster raises instead of waiting."""
    with pytest.raises(KafkaError):
        async with Producer(f"127.0.0.1:{unused_tcp_port}"):
            pass
